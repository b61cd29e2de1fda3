"""The delivery of the head of a lane: fenced by the claim on the lane, not on the entry."""

from dataclasses import dataclass
from typing import Any

from django.db import transaction

from general_manager.workflow.models import (
    DeliveryStatus,
    WorkflowDeliveryAttempt,
    WorkflowLane,
    WorkflowOutbox,
)
from general_manager.workflow.models.delivery import DeliveryQuerySet
from general_manager.workflow.models.sql.lanes import HeldLane
from general_manager.workflow.outbox.delivery import Delivery
from general_manager.workflow.outbox.row import DeliveryRow


@dataclass(frozen=True, slots=True)
class LaneRow(DeliveryRow):
    """The row of a delivery in order; every write checks the claim of the lane."""

    lane: int
    keeps_dead: bool

    @property
    def _rows(self) -> DeliveryQuerySet:
        lane = WorkflowLane.objects.using(self.using).filter(pk=self.lane)
        rows = WorkflowDeliveryAttempt.objects.using(self.using)
        return rows.in_lane(lane, keeps_dead=self.keeps_dead)


class LaneDelivery(Delivery):
    """The delivery of the head of a lane, under the claim on the lane."""

    lane: HeldLane

    def _crashes(self) -> int:
        """Only the head that ran under the claim that expired is charged."""
        row: Any = self.previous
        lapsed = self.lane.lapsed_token
        died = row.status == DeliveryStatus.RUNNING and lapsed and row.claim_token == lapsed
        return int(row.crashes) + bool(died)

    def _write_failure(
        self, status: DeliveryStatus, error: BaseException, values: dict[str, Any]
    ) -> bool:
        with transaction.atomic(using=self.using):
            won = super()._write_failure(status, error, values)
            if won and status is DeliveryStatus.DEAD_LETTER:
                # Its entry was settled before, or is about to be.
                WorkflowOutbox.objects.using(self.using).filter(pk=self.entry_id).mark_dead()
            return won

    @property
    def row(self) -> DeliveryRow:
        mine = (self.using, self.entry_id, self.registration.id, self.token)
        return LaneRow(*mine, self.lane.pk, keeps_dead=self.registration.on_dead == "block")
