"""An execution's signals as its page shows them: what became of each."""

from typing import Final

from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.escaping import visible
from general_manager.workflow.admin.bounds import SHORT
from general_manager.workflow.admin.fields.formats import BREAK, NONE, ago
from general_manager.workflow.durable.signals import SignalStatus
from general_manager.workflow.engine import ACTIVE_STATES
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowSignal
from general_manager.workflow.operations.moments import MOST_MOMENTS
from general_manager.workflow.operations.timeline import (
    result_in_short,
    shown_signals,
)

OUTCOMES: Final[dict[str, Promise]] = {
    SignalStatus.KEPT: gettext_lazy("kept until a wait asks for it"),
    SignalStatus.UNREAD: gettext_lazy("unread: it ended without asking for it"),
    SignalStatus.WITHDRAWN: gettext_lazy("withdrawn: its answer was taken back"),
}


def signals_block(record: WorkflowExecutionRecord) -> SafeString | str:
    is_over = record.state not in ACTIVE_STATES
    signals = shown_signals(record)
    lines = [_line(one, is_over=is_over) for one in signals[:MOST_MOMENTS]]
    if len(signals) > MOST_MOMENTS:
        lines.append((_("more than %d; further ones are not shown") % MOST_MOMENTS, "", "", ""))
    form = '<strong><bdi>{}</bdi></strong> <span class="gm-quiet">{}</span> {} <bdi>{}</bdi>'
    return format_html_join(BREAK, form, lines) or NONE


def _line(signal: WorkflowSignal, *, is_over: bool) -> tuple[str | SafeString, ...]:
    status = SignalStatus(signal.status)
    if status is SignalStatus.KEPT and is_over:
        status = SignalStatus.UNREAD
    if status is SignalStatus.TAKEN:
        outcome = _("taken by the wait “%s”") % visible(str(signal.taken_as)[:SHORT])
    else:
        outcome = str(OUTCOMES[status])
    by = f" {visible(signal.sent_by[:SHORT])}" if signal.sent_by else ""
    return (
        visible(signal.name[:SHORT]),
        outcome,
        format_html("{}{}", ago(signal.sent_at), by),
        visible(result_in_short(signal) or "null"),
    )
