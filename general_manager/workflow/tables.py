"""The rows that somebody may read: all of them, or those that an admin page lets a person see."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from django.db.models import QuerySet

from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowOutbox,
)


def _allow(row: Any) -> bool:
    del row
    return True


@dataclass(frozen=True, slots=True)
class Tables:
    """A queryset for each table; *allows* is asked in addition for each row that is shown."""

    executions: "QuerySet[Any]"
    events: "QuerySet[Any]"
    entries: "QuerySet[Any]"
    deliveries: "QuerySet[Any]"
    allows: Callable[[Any], bool] = _allow

    def using(self, alias: str) -> "Tables":
        return replace(
            self,
            executions=self.executions.using(alias),
            events=self.events.using(alias),
            entries=self.entries.using(alias),
            deliveries=self.deliveries.using(alias),
        )

    def seen(self, rows: Iterable[Any]) -> list[Any]:
        return [row for row in rows if self.allows(row)]


def whole_tables() -> Tables:
    return Tables(
        executions=WorkflowExecutionRecord.objects.all(),
        events=WorkflowEventRecord.objects.all(),
        entries=WorkflowOutbox.objects.all(),
        deliveries=WorkflowDeliveryAttempt.objects.all(),
    )
