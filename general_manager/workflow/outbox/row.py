"""The row of one delivery; every write checks the claim of the entry."""

from dataclasses import dataclass
from typing import Any

from general_manager.workflow.core.connections import persist
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models import DeliveryStatus, WorkflowDeliveryAttempt, WorkflowHistory
from general_manager.workflow.models.delivery import DeliveryQuerySet


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """What is recorded of one registration's delivery of an entry, under one claim."""

    using: str
    entry_id: int
    registration_id: str
    token: str

    def add(self, status: DeliveryStatus, **how: bool) -> bool:
        return self._rows.add(self.entry_id, self.registration_id, self.token, status, **how)

    def move(self, to: DeliveryStatus, **values: Any) -> bool:
        return self._rows.move(self.entry_id, self.registration_id, self.token, to, **values)

    def forget(self) -> None:
        self._rows.forget(self.entry_id, self.registration_id, self.token)

    def is_recorded(self, *statuses: DeliveryStatus) -> bool:
        """Whether this claim wrote one of *statuses*; needed if a response was lost."""
        written = self._mine.filter(claim_token=self.token, status__in=statuses)
        return persist(self.using, written.exists)

    def note(self, kind: HistoryKind, detail: str = "") -> None:
        history = WorkflowHistory.objects.using(self.using)
        key = self._mine.values_list("pk", flat=True).get()
        history.note(kind, delivery_id=key, detail=detail)

    @property
    def _mine(self) -> DeliveryQuerySet:
        return self._rows.filter(outbox_id=self.entry_id, registration_id=self.registration_id)

    @property
    def _rows(self) -> DeliveryQuerySet:
        return DeliveryQuerySet(WorkflowDeliveryAttempt, using=self.using)
