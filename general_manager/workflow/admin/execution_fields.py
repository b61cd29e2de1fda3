"""An execution's values as the list and the page of one show them."""

from typing import Any

from django.contrib import admin
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.durations import in_words
from general_manager.escaping import visible
from general_manager.workflow.admin.bounds import SHORT, Bounded
from general_manager.workflow.admin.formats import (
    BREAK,
    NONE,
    ago,
    ahead,
    badge,
    isolated,
    json_block,
    short_id,
    shortened,
    text_block,
)
from general_manager.workflow.admin.links import anchor, cause_link, subject_link
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.timeline import LARGE, last_line

EARLIER = 10


class ExecutionFields:
    # The columns of the list

    @admin.display(description=gettext_lazy("State"))
    def state_badge(self, record: WorkflowExecutionRecord) -> SafeString:
        return badge(record.state)

    @admin.display(description=gettext_lazy("Workflow"))
    def what(self, record: Any) -> SafeString:
        return format_html(
            '{}<br><span class="gm-quiet">{}</span>',
            isolated(record.workflow_id), subject_link(record, record.links),
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Execution"))
    def which(self, record: WorkflowExecutionRecord) -> SafeString:
        about = record.correlation_id or ""
        return format_html(
            '{}<br><span class="gm-quiet" title="{}"><bdi>{}</bdi></span>',
            short_id(record.execution_id), visible(about), visible(shortened(about)),
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Started"))
    def when(self, record: WorkflowExecutionRecord) -> SafeString:
        return ago(record.started_at or record.created_at)

    @admin.display(description=gettext_lazy("Note"))
    def note(self, record: WorkflowExecutionRecord) -> SafeString:
        return isolated(self._note(record))

    def _note(self, record: WorkflowExecutionRecord) -> str:
        """The one thing worth knowing in each state."""
        if record.state == WorkflowState.FAILED:
            return last_line(record.error)
        if record.state == WorkflowState.WAITING:
            until = f" ({ahead(record.wake_at)})" if record.wake_at else ""
            if record.waiting_for is None:
                return _("sleeps%(until)s") % {"until": until}
            return _("waits for “%(name)s”%(until)s") % {"name": record.waiting_for, "until": until}
        if record.state == WorkflowState.PENDING and record.attempts and record.wake_at:
            return _("attempt %(number)d %(time)s") % {
                "number": record.attempts + 1, "time": ahead(record.wake_at),
            }  # fmt: skip
        took = self.duration(record)
        return took if took != NONE else ""

    # The fields of one execution

    @admin.display(description=gettext_lazy("Duration"))
    def duration(self, record: WorkflowExecutionRecord) -> str:
        if record.started_at is None:
            return NONE
        return in_words((record.ended_at or timezone.now()) - record.started_at)

    @admin.display(description=gettext_lazy("Counts"))
    def counts(self, record: WorkflowExecutionRecord) -> str:
        return _("runs: %(runs)d, failed attempts since the last step: %(attempts)d, "
                 "crashes since the last step: %(crashes)d") % {
            "runs": record.runs, "attempts": record.attempts, "crashes": record.crashes,
        }  # fmt: skip

    @admin.display(description=gettext_lazy("Looked at again"))
    def next_look(self, record: WorkflowExecutionRecord) -> str:
        return ahead(record.wake_at) if record.wake_at else NONE

    @admin.display(description=gettext_lazy("Event"))
    def event(self, record: Any) -> SafeString | str:
        return cause_link(record.caused_by, record.links)

    @admin.display(description=gettext_lazy("About"))
    def subject(self, record: Any) -> SafeString | str:
        return subject_link(record, record.links) or NONE

    @admin.display(description=gettext_lazy("Continuation"))
    def continuation(self, record: Any) -> SafeString | str:
        before = record.metadata.get("continues") if isinstance(record.metadata, dict) else None
        if not isinstance(before, str) or not before:
            return NONE
        return anchor(record.links.to_execution(before[:SHORT]), before[:SHORT])

    @admin.display(description=gettext_lazy("Input"))
    def input(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.input_data)

    @admin.display(description=gettext_lazy("Output"))
    def output(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.output_data)

    @admin.display(description=gettext_lazy("Metadata"))
    def about(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.metadata)

    @admin.display(description=gettext_lazy("Retry policy"))
    def retry_policy(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.retry)

    @admin.display(description=gettext_lazy("Error"))
    def error_text(self, record: WorkflowExecutionRecord) -> SafeString:
        return text_block(record.error or "", _("Error"))

    @admin.display(description=gettext_lazy("Traceback"))
    def trace(self, record: WorkflowExecutionRecord) -> SafeString:
        return text_block(record.traceback, _("Traceback"))

    @admin.display(description=gettext_lazy("Executions"))
    def earlier(self, record: Any) -> SafeString | str:
        if not record.correlation_id:
            return NONE
        same = record.reader.rows(WorkflowExecutionRecord)
        same = same.filter(correlation_id=record.correlation_id, workflow_id=record.workflow_id)
        found = same.exclude(pk=record.pk).order_by("-pk").defer(*LARGE)[:EARLIER]
        links = [
            (badge(one.state), anchor(record.links.to(type(one), one.pk), str(one)))
            for one in record.reader.seen(Bounded(WorkflowExecutionRecord).read(found))
        ]
        return format_html_join(BREAK, "{} {}", links) or NONE
