"""The rows that a reader may see: all of them, or those an admin page allows a user."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from django.db.models import QuerySet

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowLane,
    WorkflowOutbox,
    WorkflowSchedule,
)
from general_manager.workflow.pauses import Pause

MOST_ASKED: Final = 20
"""Rows that a sentence with names asks for, one by one."""


def _allow(row: Any) -> bool:
    del row
    return True


@dataclass(frozen=True, slots=True)
class Tables:
    """A queryset for each table. *allows* also filters the rows that are shown one by one."""

    executions: "QuerySet[Any]"
    events: "QuerySet[Any]"
    entries: "QuerySet[Any]"
    deliveries: "QuerySet[Any]"
    schedules: "QuerySet[Any]"
    lanes: "QuerySet[Any]"
    pauses: "QuerySet[Any] | None" = None
    """`None` for all of them."""
    allows: Callable[[Any], bool] = _allow

    def using(self, alias: str) -> "Tables":
        return replace(
            self,
            executions=self.executions.using(alias),
            events=self.events.using(alias),
            entries=self.entries.using(alias),
            deliveries=self.deliveries.using(alias),
            schedules=self.schedules.using(alias),
            lanes=self.lanes.using(alias),
        )

    def seen(self, rows: Iterable[Any]) -> list[Any]:
        return [row for row in rows if self.allows(row)]

    def seen_pauses(self, pauses: list[Pause]) -> list[Pause]:
        """Those whose rows are allowed."""
        if self.pauses is None or not pauses:
            return pauses
        rows = self.seen(self.pauses.filter(lifted_at=None))
        names = {(row.kind, row.name) for row in rows}
        return [one for one in pauses if (one.kind, one.name) in names]

    def named(self, rows: "QuerySet[Any]", column: str, most: int) -> str:
        """The first *most* texts in *column* of those *rows* that are allowed, to be shown."""
        found = self.seen(rows[:MOST_ASKED])
        names = [visible(str(getattr(one, column))[:MAX_TITLE]) for one in found[:most]]
        return ", ".join(names) + (", …" if len(found) > most else "")


def whole_tables() -> Tables:
    return Tables(
        executions=WorkflowExecutionRecord.objects.all(),
        events=WorkflowEventRecord.objects.all(),
        entries=WorkflowOutbox.objects.all(),
        deliveries=WorkflowDeliveryAttempt.objects.all(),
        schedules=WorkflowSchedule.objects.all(),
        lanes=WorkflowLane.objects.all(),
    )
