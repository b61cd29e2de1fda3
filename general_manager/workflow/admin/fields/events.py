"""An event's values as its list and its page show them."""

from itertools import islice
from typing import Any

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from general_manager.escaping import cut, visible
from general_manager.workflow.admin.bounds import SHORT, Bounded
from general_manager.workflow.admin.fields.formats import (
    BREAK,
    NONE,
    ago,
    badge,
    isolated,
    json_block,
    short_id,
)
from general_manager.workflow.admin.fields.links import anchor, subject_of
from general_manager.workflow.admin.fields.taken import answered_block
from general_manager.workflow.core.redaction import REDACTED, is_secret, readable
from general_manager.workflow.models import DeadLetter, OutboxStatus, WorkflowEventRecord
from general_manager.workflow.operations.moments import last_line
from general_manager.workflow.operations.timeline import LARGE

MOST_LISTED = 50
LONGEST_VALUE = 2_000
"""Characters shown of an old or new value."""
MOST_CHANGES = 200
"""Fields of one change that the page shows."""


class EventFields:
    """Fields of events that the page has completed with their reader and related rows."""

    @admin.display(description=gettext_lazy("Event"))
    def name(self, event: WorkflowEventRecord) -> SafeString:
        return format_html(
            '{}<br><span class="gm-quiet">{}</span>',
            isolated(event.event_name or event.event_type),
            isolated(event.event_type) if event.event_name else "",
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Id"))
    def which(self, event: WorkflowEventRecord) -> SafeString:
        return short_id(event.event_id)

    @admin.display(description=gettext_lazy("Published"))
    def when(self, event: WorkflowEventRecord) -> SafeString:
        return ago(event.published_at)

    @admin.display(description=gettext_lazy("Reached"))
    def reached(self, event: Any) -> SafeString | str:
        if not event.reader.may_view(DeadLetter):
            return NONE
        parts = []
        if event.delivered:
            text = ngettext("%d delivered", "%d delivered", event.delivered)
            parts.append(text % event.delivered)
        if event.dead:
            parts.append(ngettext("%d dead", "%d dead", event.dead) % event.dead)
        text = " / ".join(parts)
        entry = event.entry_seen
        if entry is not None and entry.status != OutboxStatus.PROCESSED:
            return format_html("{} {}", badge(entry.status), text or _("not delivered yet"))
        return text or _("no handler matched")

    @admin.display(description=gettext_lazy("Outbox"))
    def entry(self, event: Any) -> SafeString | str:
        return badge(event.entry_seen.status) if event.entry_seen is not None else NONE

    @admin.display(description=gettext_lazy("About"))
    def concerns(self, event: Any) -> SafeString | str:
        payload = event.payload if isinstance(event.payload, dict) else {}
        manager = payload.get("manager")
        if not isinstance(manager, str):
            return NONE
        return subject_of(manager, payload.get("identification"), event.links)

    @admin.display(description=gettext_lazy("Fields"))
    def changes(self, event: WorkflowEventRecord) -> SafeString | str:
        """A manager's change as a table: field, old, new."""
        payload = event.payload if isinstance(event.payload, dict) else {}
        changes = payload.get("changes")
        if not isinstance(changes, dict) or not changes:
            return _values(payload.get("values"))
        head = format_html(
            "<thead><tr><th>{}</th><th>{}</th><th>{}</th></tr></thead>",
            _("Field"), _("Old"), _("New"),
        )  # fmt: skip
        listed = islice(changes.items(), MOST_CHANGES)
        rows = format_html_join(
            "", "<tr><th>{}</th><td>{}</td><td>{}</td></tr>",
            ((visible(name[:SHORT]), _side(name, one, "old"), _side(name, one, "new"))
             for name, one in listed),
        )  # fmt: skip
        rows += _more_fields(changes, columns=3)
        table = '<table class="gm-table gm-changes">{}<tbody>{}</tbody></table>'
        return format_html(table, head, rows)

    @admin.display(description=gettext_lazy("Payload"))
    def content(self, event: WorkflowEventRecord) -> SafeString:
        return json_block(event.payload)

    @admin.display(description=gettext_lazy("Metadata"))
    def about(self, event: WorkflowEventRecord) -> SafeString:
        return json_block(event.metadata)

    @admin.display(description=gettext_lazy("Deliveries"))
    def deliveries(self, event: Any) -> SafeString | str:
        tables = event.reader.tables()
        rows = tables.deliveries.filter(outbox__event=event.pk).order_by("pk")
        found = Bounded(rows.model).read(rows[: MOST_LISTED + 1])
        lines = [
            (badge(row.status), isolated(row.registration_id),
             isolated(f"{row.error_class} {last_line(row.error)}"))
            for row in tables.seen(found[:MOST_LISTED])
        ]  # fmt: skip
        listed = format_html_join(BREAK, "{} <code>{}</code> {}", lines) or NONE
        return _and_more(listed, is_all=len(found) <= MOST_LISTED)

    @admin.display(description=gettext_lazy("Executions"))
    def executions(self, event: Any) -> SafeString | str:
        tables = event.reader.tables()
        rows = tables.executions.filter(caused_by=event.event_id).order_by("pk")
        rows = rows.defer(*LARGE)
        found = Bounded(rows.model).read(rows[: MOST_LISTED + 1])
        lines = [
            (badge(row.state), anchor(event.links.to(type(row), row.pk), str(row)))
            for row in tables.seen(found[:MOST_LISTED])
        ]
        listed = format_html_join(BREAK, "{} {}", lines) or NONE
        return _and_more(listed, is_all=len(found) <= MOST_LISTED)

    @admin.display(description=gettext_lazy("Waits that it answered"))
    def answered(self, event: Any) -> SafeString | str:
        return answered_block(event, MOST_LISTED)


def _and_more(listed: SafeString | str, *, is_all: bool) -> SafeString | str:
    return listed if is_all else format_html("{}<br>{}", listed, _("… and more"))


def _more_fields(fields: dict[str, Any], *, columns: int) -> SafeString:
    left = len(fields) - MOST_CHANGES
    if left <= 0:
        return SafeString("")
    text = ngettext("… and %s more field", "… and %s more fields", left) % f"{left:,}"
    return format_html('<tr><td colspan="{}">{}</td></tr>', str(columns), text)


def _values(values: Any) -> SafeString | str:
    """The values of a creation or deletion as a table: field, value."""
    if not isinstance(values, dict) or not values:
        return NONE
    head = format_html("<thead><tr><th>{}</th><th>{}</th></tr></thead>", _("Field"), _("Value"))
    rows = format_html_join(
        "", "<tr><th>{}</th><td>{}</td></tr>",
        ((visible(name[:SHORT]), _side(name, {"new": value}, "new"))
         for name, value in islice(values.items(), MOST_CHANGES)),
    )  # fmt: skip
    rows += _more_fields(values, columns=2)
    return format_html('<table class="gm-table gm-changes">{}<tbody>{}</tbody></table>', head, rows)


def _side(name: str, change: Any, side: str) -> str:
    value = change.get(side) if isinstance(change, dict) else change
    if is_secret(name) or is_secret(side):
        return REDACTED
    if isinstance(value, str):
        return visible(cut(value, LONGEST_VALUE))
    return NONE if value is None else readable(value, most=LONGEST_VALUE)
