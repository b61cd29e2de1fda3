"""One event to one registration: how often it was tried, and how it ended."""

from collections.abc import Collection
from typing import Any

from django.db import models, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from general_manager.workflow.models.columns import DatabaseNow, IdField, OwedIndex
from general_manager.workflow.models.inserts import insert_while
from general_manager.workflow.models.outbox import OutboxQuerySet, OutboxStatus, WorkflowOutbox


class DeliveryStatus(models.TextChoices):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    DEAD_LETTER = "dead_letter"


SETTLED = (DeliveryStatus.COMPLETED, DeliveryStatus.DEAD_LETTER)


class DeliveryQuerySet(models.QuerySet["WorkflowDeliveryAttempt"]):
    """Every write asks whether the entry's claim still holds, in the same statement."""

    def add(self, entry_id: int, registration_id: str, token: str, status: DeliveryStatus) -> bool:
        """A new row, if the claim holds and nobody else made one; false otherwise.

        The entry's row is locked until the caller's transaction ends, so that the claim cannot be
        taken over between this check and the commit.
        """
        return insert_while(
            self.model,
            {
                "outbox": entry_id,
                "registration_id": registration_id,
                "status": status,
                "claim_token": token,
                "finished_at": timezone.now() if status is DeliveryStatus.COMPLETED else None,
            },
            WorkflowOutbox,
            {"id": entry_id, "claim_token": token, "status": OutboxStatus.CLAIMED},
            self.db,
        )

    def move(
        self, entry_id: int, registration_id: str, token: str, to: DeliveryStatus, **values: Any
    ) -> bool:
        """From any status that is not settled to *to*, if the claim holds; says whether it won."""
        held = WorkflowOutbox.objects.using(self.db).held(token).filter(pk=OuterRef("outbox_id"))
        if to is not DeliveryStatus.RUNNING:
            values["finished_at"] = timezone.now()
        rows = self.filter(Exists(held), outbox_id=entry_id, registration_id=registration_id)
        return rows.exclude(status__in=SETTLED).update(status=to, claim_token=token, **values) == 1

    def of_entries(self, keys: Collection[int]) -> dict[int, dict[str, "WorkflowDeliveryAttempt"]]:
        """What is recorded of these entries, by entry and registration, in one query."""
        found: dict[int, dict[str, WorkflowDeliveryAttempt]] = {key: {} for key in keys}
        rows = self.filter(outbox_id__in=keys).annotate(rests=Q(available_at__gt=DatabaseNow()))
        for row in rows.defer("traceback"):
            found[row.outbox_id][row.registration_id] = row
        return found

    def forget(self, entry_id: int, registration_id: str) -> None:
        """An event that is not wanted leaves no trace."""
        rows = self.filter(outbox_id=entry_id, registration_id=registration_id)
        rows.exclude(status__in=SETTLED).delete()

    def requeue(self, entries: OutboxQuerySet) -> int:
        """Owe dead letters among *entries* again, from now; returns how many.

        Only their dead deliveries are opened again, with all their attempts before them.
        """
        with transaction.atomic(using=self.db):
            dead = entries.using(self.db).filter(status=OutboxStatus.DEAD_LETTER)
            keys = list(dead.select_for_update().values_list("pk", flat=True))
            self.filter(outbox_id__in=keys, status=DeliveryStatus.DEAD_LETTER).update(
                status=DeliveryStatus.FAILED, passes=0, crashes=0, available_at=None
            )
            return (
                WorkflowOutbox.objects.using(self.db)
                .filter(pk__in=keys)
                .update(
                    status=OutboxStatus.PENDING,
                    available_at=DatabaseNow(),
                    owed_since=DatabaseNow(),
                    settled_at=None,
                )
            )


class WorkflowDeliveryAttempt(models.Model):
    """How one registration fares with one event."""

    outbox = models.ForeignKey(
        WorkflowOutbox,
        on_delete=models.CASCADE,
        related_name="deliveries",
        db_index=False,  # the constraint's index begins with it
    )
    registration_id = IdField()
    status = models.CharField(max_length=12, choices=DeliveryStatus)
    passes = models.PositiveIntegerField(db_default=1)
    crashes = models.PositiveIntegerField(db_default=0)
    claim_token = models.CharField(max_length=32, null=True)
    available_at = models.DateTimeField(null=True)
    error_class = models.CharField(max_length=255, db_default="")
    error = models.TextField(db_default="")
    traceback = models.TextField(db_default="")
    started_at = models.DateTimeField(db_default=DatabaseNow())
    first_failed_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name = "delivery"
        verbose_name_plural = "deliveries"
        constraints = (
            models.UniqueConstraint(
                fields=["outbox", "registration_id"], name="gm_one_delivery_each"
            ),
        )
        indexes = (
            OwedIndex(
                fields=["status", "id"], condition=~Q(status="completed"), name="gm_delivery_status"
            ),
        )

    def __str__(self) -> str:
        return f"{self.registration_id}: {self.status}"
