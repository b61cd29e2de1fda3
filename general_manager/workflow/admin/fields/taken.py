"""Which events the waits of an execution took, and which waits an event answered: both ways."""

from typing import Any

from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from general_manager.workflow.admin.bounds import SHORT, Bounded
from general_manager.workflow.admin.fields.formats import BREAK, NONE, badge, isolated, shortened
from general_manager.workflow.admin.fields.links import Links, anchor
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowTakenEvent
from general_manager.workflow.models.executions.taking import chain_of
from general_manager.workflow.operations.moments import MOST_MOMENTS
from general_manager.workflow.operations.timeline import LARGE


def events_block(record: WorkflowExecutionRecord, links: Links) -> SafeString | str:
    """The events that waits of the execution took, each with the wait."""
    taken = WorkflowTakenEvent.objects.using(record._state.db or "default")
    mine = taken.filter(chain=chain_of(record), taken_by=record.execution_id).order_by("pk")
    lines = [
        (isolated(one.taken_as[:SHORT]), anchor(
            links.to_event(one.event_id), shortened(one.event_id), one.event_id
        ))
        for one in mine[:MOST_MOMENTS]
    ]  # fmt: skip
    return format_html_join(BREAK, "{} {}", lines) or NONE


def answered_block(event: Any, most: int) -> SafeString | str:
    """The executions whose waits the event answered, as far as this user may see them."""
    taken = WorkflowTakenEvent.objects.using(event._state.db or "default")
    ours = taken.filter(event_id=event.event_id).order_by("pk").values_list("taken_by", "taken_as")
    waits = dict(ours[:most])
    tables = event.reader.tables()
    rows = tables.executions.filter(execution_id__in=waits).defer(*LARGE)
    found = tables.seen(Bounded(rows.model).read(rows))
    lines = [
        (badge(row.state), anchor(event.links.to(type(row), row.pk), str(row)),
         isolated(waits[row.execution_id][:SHORT]))
        for row in found
    ]  # fmt: skip
    return format_html_join(BREAK, "{} {} {}", lines) or NONE
