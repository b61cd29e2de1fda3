"""One event to one registration: how often it was tried, and how it ended."""

from collections.abc import Collection
from typing import Any, Self

from django.db import models, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.engine import HistoryKind
from general_manager.workflow.models.claiming import OutboxStatus
from general_manager.workflow.models.columns import (
    Ago,
    DatabaseNow,
    IdField,
    OwedIndex,
    Utf8CharField,
    Utf8TextField,
)
from general_manager.workflow.models.history import WorkflowHistory
from general_manager.workflow.models.inserts import insert_new, insert_while
from general_manager.workflow.models.outbox import WorkflowOutbox


class DeliveryStatus(models.TextChoices):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    DEAD_LETTER = "dead_letter"
    DISCARDED = "discarded"


SETTLED = (DeliveryStatus.COMPLETED, DeliveryStatus.DEAD_LETTER, DeliveryStatus.DISCARDED)


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
                "finished_at": Ago() if status is DeliveryStatus.COMPLETED else None,
            },
            WorkflowOutbox,
            {"id": entry_id, "claim_token": token, "status": OutboxStatus.CLAIMED},
            self.db,
        )

    def move(
        self, entry_id: int, registration_id: str, token: str, to: DeliveryStatus, **values: Any
    ) -> bool:
        """From any status that is not settled to *to*, if the claim holds; says whether it won."""
        if to is not DeliveryStatus.RUNNING:
            values["finished_at"] = DatabaseNow()
        rows = self._held(entry_id, registration_id, token)
        return rows.exclude(status__in=SETTLED).update(status=to, claim_token=token, **values) == 1

    def _held(self, entry_id: int, registration_id: str, token: str) -> Self:
        held = WorkflowOutbox.objects.using(self.db).held(token).filter(pk=OuterRef("outbox_id"))
        return self.filter(Exists(held), outbox_id=entry_id, registration_id=registration_id)

    def of_entries(self, keys: Collection[int]) -> dict[int, dict[str, "WorkflowDeliveryAttempt"]]:
        """What is recorded of these entries, by entry and registration, in one query."""
        found: dict[int, dict[str, WorkflowDeliveryAttempt]] = {key: {} for key in keys}
        rows = self.filter(outbox_id__in=keys).annotate(
            rests=Q(available_at__gt=DatabaseNow()), now=DatabaseNow()
        )
        for row in rows.defer("traceback"):
            # Both times are the database's: a worker's clock may be hours off.
            now = row.now  # type: ignore[attr-defined]  # annotated above
            row.left = (row.available_at or now) - now  # type: ignore[attr-defined]
            found[row.outbox_id][row.registration_id] = row
        return found

    def forget(self, entry_id: int, registration_id: str, token: str) -> None:
        """An event that is not wanted leaves no trace."""
        self._held(entry_id, registration_id, token).exclude(status__in=SETTLED).delete()

    def dead(self) -> Self:
        return self.filter(status=DeliveryStatus.DEAD_LETTER)

    def requeue_dead(self) -> tuple[int, int]:
        """Owe the dead letters among these again, from now: how many, and of how many entries.

        They are tried anew, with all their attempts before them; nothing else is.
        """
        with transaction.atomic(using=self.db):
            keys = self._lock_dead()
            return len(keys), self._reopen(keys, HistoryKind.REPLAYED)

    def replay(self, entry_id: int, registration_ids: Collection[str]) -> int:
        """Deliver one event again to these handlers, whatever became of it; returns to how many.

        Also to those that wanted it and were registered since. Handlers that are not named are
        passed over. Nothing happens while a worker has the entry.
        """
        entries = WorkflowOutbox.objects.using(self.db)
        with transaction.atomic(using=self.db):
            free = entries.exclude(status=OutboxStatus.CLAIMED).filter(pk=entry_id)
            if not free.select_for_update().exists():
                return 0
            known = dict(self.filter(outbox_id=entry_id).values_list("registration_id", "pk"))
            keys = [key for name, key in known.items() if name in registration_ids]
            self._reopen(keys, HistoryKind.REPLAYED)
            entries.filter(pk=entry_id).owe_again()
            return len(registration_ids)

    def pass_over(self, entry_id: int, registration_ids: Collection[str]) -> None:
        """Never deliver the event to these, which have not had it yet."""
        alike = ("outbox", "registration_id")
        status = DeliveryStatus.DISCARDED
        for one in registration_ids:
            row = [entry_id, one, status, DatabaseNow()]
            insert_new(self.model, (*alike, "status", "finished_at"), [row], self.db, unless=alike)

    def discard(self, reason: str) -> int:
        """Give up the dead letters among these for good; returns how many."""
        with transaction.atomic(using=self.db):
            keys = self._lock_dead()
            rows = self.model._default_manager.using(self.db).filter(pk__in=keys)
            rows.update(status=DeliveryStatus.DISCARDED, finished_at=DatabaseNow())
            self._note(HistoryKind.DISCARDED, keys, reason)
            dead = self.model._default_manager.using(self.db).filter(
                outbox_id=OuterRef("pk"), status=DeliveryStatus.DEAD_LETTER
            )
            WorkflowOutbox.objects.using(self.db).filter(
                ~Exists(dead), deliveries__in=keys, status=OutboxStatus.DEAD_LETTER
            ).update(status=OutboxStatus.PROCESSED)
            return len(keys)

    def _lock_dead(self) -> list[int]:
        """Entries first, as deliveries do.

        Not of an entry that a worker has: it settles by what it read before, and would bury them.
        """
        dead = list(self.dead().values_list("pk", "outbox_id"))
        entries = WorkflowOutbox.objects.using(self.db).exclude(status=OutboxStatus.CLAIMED)
        locked = entries.filter(pk__in={one for _, one in dead}).order_by("pk").select_for_update()
        free = set(locked.values_list("pk", flat=True))
        keys = [key for key, entry in dead if entry in free]
        return list(self.dead().filter(pk__in=keys).values_list("pk", flat=True))

    def _reopen(self, keys: Collection[int], kind: HistoryKind) -> int:
        rows = self.model._default_manager.using(self.db).filter(pk__in=keys)
        rows.update(
            status=DeliveryStatus.FAILED,
            passes=0,
            crashes=0,
            first_failed_at=None,
            available_at=None,
            finished_at=None,
        )
        self._note(kind, keys)
        entries = WorkflowOutbox.objects.using(self.db).filter(deliveries__in=keys).values("pk")
        owed = list(entries.values_list("pk", flat=True).distinct())
        return WorkflowOutbox.objects.using(self.db).filter(pk__in=owed).owe_again()

    def _note(self, kind: HistoryKind, keys: Collection[int], detail: str = "") -> None:
        owners = [{"delivery_id": key} for key in keys]
        WorkflowHistory.objects.using(self.db).note_each(kind, owners, detail=detail)


class WorkflowDeliveryAttempt(models.Model):
    """How one registration fares with one event."""

    outbox = models.ForeignKey(
        WorkflowOutbox,
        on_delete=models.CASCADE,
        related_name="deliveries",
        db_index=False,  # the constraint's index begins with it
    )
    registration_id = IdField()
    status = Utf8CharField(max_length=12, choices=DeliveryStatus)
    passes = models.PositiveIntegerField(db_default=1)
    crashes = models.PositiveIntegerField(db_default=0)
    claim_token = Utf8CharField(max_length=32, null=True)
    available_at = models.DateTimeField(null=True)
    error_class = Utf8CharField(max_length=255, db_default="")
    error = Utf8TextField(db_default="")
    traceback = Utf8TextField(db_default="")
    started_at = models.DateTimeField(db_default=DatabaseNow())
    first_failed_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        default_permissions = ("view",)
        permissions = (
            ("replay_delivery", _("Can replay dead letters")),
            ("discard_delivery", _("Can discard dead letters")),
        )
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
        return visible(f"{self.registration_id}: {self.status}"[:MAX_TITLE])
