"""Deliveries: one event to one registration, with attempts and outcome."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Self

from django.db import connections, models, transaction
from django.db.models import Exists, OuterRef, Q, Subquery
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.core.ids import LANE_LENGTH, lane_of
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.history import WorkflowHistory
from general_manager.workflow.models.lane import Lane, LaneQuerySet, Place, WorkflowLane
from general_manager.workflow.models.outbox import WorkflowOutbox
from general_manager.workflow.models.pause import is_registration_paused
from general_manager.workflow.models.sql.claims import OutboxStatus
from general_manager.workflow.models.sql.columns import (
    Ago,
    DatabaseNow,
    IdField,
    PartialIndex,
    Utf8CharField,
    Utf8TextField,
)
from general_manager.workflow.models.sql.commits import update_and_skip_waiting
from general_manager.workflow.models.sql.guarded import insert_while
from general_manager.workflow.models.sql.inserts import insert_new, rows_per_statement
from general_manager.workflow.models.sql.marks import insert_completed
from general_manager.workflow.models.sql.statuses import AFRESH, UNDER_WAY
from general_manager.workflow.models.sql.statuses import SETTLED as SETTLED
from general_manager.workflow.models.sql.statuses import DeliveryStatus as DeliveryStatus


class DeliveryQuerySet(models.QuerySet["WorkflowDeliveryAttempt"]):
    """Every write by a worker checks its claim in the same statement: the entry's or the lane's."""

    _lane: LaneQuerySet | None = None
    _keeps_dead = False

    def in_lane(self, lane: LaneQuerySet, *, keeps_dead: bool) -> Self:
        """These rows, whose writes check a claim on *lane*.

        *keeps_dead*: a dead letter keeps its place, and blocks the lane.
        """
        rows = self.all()
        rows._lane, rows._keeps_dead = lane, keeps_dead  # noqa: SLF001 - a copy of our own
        return rows

    def queue_in_lanes(self, places: Iterable[Place], *, is_late: bool = False) -> None:
        """Queue events in order, each unless it is there: at the end of the lane.

        *is_late*: their publisher did not know the registration. Otherwise by the publisher, in
        whose transaction no lane is locked.
        """
        fields = ("outbox", "registration_id", "status", "attempts", "lane", "in_lane", "late_at")
        late_at = DatabaseNow() if is_late else None
        rows = [
            [one.entry, one.registration_id, DeliveryStatus.QUEUED, 0,
             lane_of(one.registration_id, one.key), True, late_at]
            for one in places
        ]  # fmt: skip
        size = 1 if is_late else rows_per_statement(len(fields), self.db)
        for start in range(0, len(rows), size):
            insert_new(self.model, fields, rows[start : start + size], self.db, unless=fields[:2])

    def waiting_in_lane(self) -> Self:
        """The undelivered rows of the outer query's lane."""
        return self.filter(lane=OuterRef("lane"), in_lane=True)

    def leave_lane(self, key: int, held: LaneQuerySet) -> int:
        """A dead letter gives up its place in the lane."""
        return self.dead().filter(Exists(held), pk=key).update(in_lane=False)

    def first_in(self, lanes: LaneQuerySet) -> LaneQuerySet:
        """*lanes*, each with ``head``, the key of its first undelivered row."""
        # In the index's whole order: a planner would sort a long lane, or walk the primary key.
        first = self.waiting_in_lane().order_by("in_lane", "pk").values("pk")[:1]
        return lanes.annotate(head=Subquery(first))

    def heads(self, lanes: LaneQuerySet) -> dict[int, Any]:
        """The first undelivered row of each of *lanes*, with its event and ``is_paused``."""
        asked = self.first_in(lanes).annotate(is_paused=is_registration_paused())
        found = {key: one for key, *one in asked.values_list("pk", "head", "is_paused")}
        rows: Any = self.filter(pk__in=[head for head, _ in found.values() if head is not None])
        known = {row.pk: row for row in rows.timed().select_related("outbox__event")}
        for head, known_row in known.items():
            known_row.is_paused = [head, True] in found.values()
        return {key: known.get(head) for key, (head, _) in found.items()}

    def timed(self) -> Self:
        """With ``is_delayed`` and ``now``; both times are the database's."""
        delayed = Q(available_at__isnull=False, available_at__gt=DatabaseNow())
        return self.annotate(is_delayed=delayed, now=DatabaseNow()).defer("traceback")

    def add(
        self,
        entry_id: int,
        registration_id: str,
        token: str,
        status: DeliveryStatus,
        **commit: Any,
    ) -> bool:
        """Insert a row if the claim holds and there is none yet; false otherwise.

        The entry's row is locked until the caller's transaction ends, so that no other worker can
        claim it between this check and the commit. *commit* is as for `insert_while`.
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
            **commit,
        )

    def add_completed(
        self, marks: Sequence[tuple[int, str]], token: str, *, is_waited: bool = True
    ) -> int:
        """`add` for deliveries of several entries: their keys, each with a registration's id.

        One statement on PostgreSQL. Returns how many were inserted.
        """
        if connections[self.db].vendor == "postgresql":
            entries = WorkflowOutbox.objects.using(self.db)
            return insert_completed(self, entries, marks, token, is_waited=is_waited)
        return sum(self.add(*mark, token, DeliveryStatus.COMPLETED) for mark in marks)

    def move(
        self,
        entry_id: int,
        registration_id: str,
        token: str,
        to: DeliveryStatus,
        *,
        is_waited: bool = True,
        **values: Any,
    ) -> bool:
        """Any unsettled status to *to*, if the claim holds; returns whether it won.

        *is_waited* as for `add`.
        """
        if to is not DeliveryStatus.RUNNING:
            values["finished_at"] = DatabaseNow()
        if self._lane is not None:
            is_dead = to is DeliveryStatus.DEAD_LETTER
            values["in_lane"] = self._keeps_dead if is_dead else to not in SETTLED
        rows = self._held(entry_id, registration_id, token)
        left = rows.exclude(status__in=SETTLED)
        values |= {"status": to, "claim_token": token}
        if is_waited:
            return left.update(**values) == 1
        return update_and_skip_waiting(left, **values) == 1

    def _held(self, entry_id: int, registration_id: str, token: str) -> Self:
        if self._lane is not None:
            held: models.QuerySet[Any] = self._lane.held(token)
        else:
            entries = WorkflowOutbox.objects.using(self.db)
            held = entries.held(token).filter(pk=OuterRef("outbox_id"))
        return self.filter(Exists(held), outbox_id=entry_id, registration_id=registration_id)

    def of_entries(self, keys: Collection[int]) -> dict[int, dict[str, "WorkflowDeliveryAttempt"]]:
        """The deliveries of these entries, by entry and registration, in one query."""
        found = {key: dict[str, WorkflowDeliveryAttempt]() for key in keys}
        for row in self.filter(outbox_id__in=keys).timed():
            found[row.outbox_id][row.registration_id] = row
        return found

    def forget(self, entry_id: int, registration_id: str, token: str) -> None:
        """Delete the row of an event that does not match: nothing is recorded for it."""
        self._held(entry_id, registration_id, token).exclude(status__in=SETTLED).delete()

    def dead(self) -> Self:
        return self.filter(status=DeliveryStatus.DEAD_LETTER)

    def requeue_dead(self) -> tuple[int, int]:
        """Requeue the dead letters among these, due now. Returns how many, and of how many entries.

        They get a fresh retry budget, and one in order its old place; other deliveries are not
        touched.
        """
        with transaction.atomic(using=self.db):
            ordered = self._requeue_in_lanes(self.dead())
            keys = self._lock_dead()
            entries = self._reopen(keys, HistoryKind.REQUEUED)
            return len(keys) + len(ordered), entries + len(set(ordered.values()))

    def wake_lanes(self) -> list["WorkflowDeliveryAttempt"]:
        """Lock the lanes of those of these rows that are in order, and make idle ones due."""
        found = list(self.exclude(lane=None).select_related("outbox__event"))
        WorkflowLane.objects.using(self.db).wake(one.whose_lane() for one in found)
        return found

    def _requeue_in_lanes(self, rows: Self) -> dict[int, int]:
        """Those of *rows* that are in order to queued, in their old places; keys with entries."""
        found = rows.wake_lanes()
        if not found:
            return {}
        WorkflowLane.objects.using(self.db).unblock([str(one.lane) for one in found])
        # Asked again under the lock: it may have been delivered or discarded meanwhile.
        known = rows.filter(pk__in=[one.pk for one in found])
        free = known.exclude(in_lane=True, status__in=UNDER_WAY)
        changed = dict(free.values_list("pk", "outbox_id"))
        every = self.model._default_manager.using(self.db).filter(pk__in=changed)
        every.update(**{**AFRESH, "status": DeliveryStatus.QUEUED, "in_lane": True})
        self._note(HistoryKind.REQUEUED, changed)
        self._settle_entries(changed)
        return changed

    def deliver_again(self, entry_id: int, registration_ids: Collection[str]) -> int:
        """Queue one event for redelivery to these handlers, whatever its outcome; returns how many.

        Also to handlers that were registered since. Does nothing while a worker has the entry.
        """
        entries = WorkflowOutbox.objects.using(self.db)
        known = self.filter(outbox_id=entry_id, registration_id__in=registration_ids)
        with transaction.atomic(using=self.db):
            known.wake_lanes()
            free = entries.exclude(status=OutboxStatus.CLAIMED).filter(pk=entry_id)
            if not free.select_for_update().exists():
                return 0
            self._requeue_in_lanes(known)
            plain = known.filter(lane=None).values_list("pk", flat=True)
            self._reopen(list(plain), HistoryKind.REQUEUED)
            entries.filter(pk=entry_id).requeue()
            return len(registration_ids)

    def skip(self, entry_id: int, registration_ids: Collection[str]) -> None:
        """Never deliver the event to these registrations, which have not received it yet."""
        fields = ("outbox", "registration_id", "status", "finished_at")
        for one in registration_ids:
            row = [entry_id, one, DeliveryStatus.DISCARDED, DatabaseNow()]
            insert_new(self.model, fields, [row], self.db, unless=fields[:2])

    def discard(self, reason: str) -> int:
        """Discard the dead letters among these, so that their lanes go on. Returns how many."""
        with transaction.atomic(using=self.db):
            keys = self._unblock_lanes(self.dead()) + self._lock_dead()
            rows = self.model._default_manager.using(self.db).filter(pk__in=keys)
            rows.update(status=DeliveryStatus.DISCARDED, finished_at=DatabaseNow(), in_lane=False)
            self._note(HistoryKind.DISCARDED, keys, reason)
            self._settle_entries(keys)
            return len(keys)

    def pass_over(self, reason: str) -> int:
        """Let the lanes go on that these dead letters block; they stay dead. Returns how many."""
        with transaction.atomic(using=self.db):
            keys = self._unblock_lanes(self.dead().filter(in_lane=True))
            self.model._default_manager.using(self.db).filter(pk__in=keys).update(in_lane=False)
            self._note(HistoryKind.PASSED_OVER, keys, reason)
            return len(keys)

    def _unblock_lanes(self, dead: Self) -> list[int]:
        """Keys of those dead letters that are in order, their lanes locked and due."""
        found = dict(dead.exclude(lane=None).values_list("pk", "lane"))
        if not found:
            return []
        lanes = WorkflowLane.objects.using(self.db)
        names = {str(name) for name in found.values()}
        lanes.lock(names)
        lanes.unblock(names)
        rows = self.model._default_manager.using(self.db).filter(pk__in=found)
        return list(rows.dead().values_list("pk", flat=True))

    def _settle_entries(self, keys: Collection[int]) -> None:
        """Dead letter to processed, of entries that have no dead delivery any more."""
        dead = self.model._default_manager.using(self.db).dead()
        WorkflowOutbox.objects.using(self.db).filter(
            ~Exists(dead.filter(outbox_id=OuterRef("pk"))),
            deliveries__in=keys,
            status=OutboxStatus.DEAD_LETTER,
        ).update(status=OutboxStatus.PROCESSED)

    def _lock_dead(self) -> list[int]:
        """Those in no lane; lock the entries first, in the order in which workers lock.

        Skips claimed entries: the worker settles them by what it read before, as dead letters.
        """
        dead = list(self.dead().filter(lane=None).values_list("pk", "outbox_id"))
        entries = WorkflowOutbox.objects.using(self.db).exclude(status=OutboxStatus.CLAIMED)
        locked = entries.filter(pk__in={one for _, one in dead}).order_by("pk").select_for_update()
        free = set(locked.values_list("pk", flat=True))
        keys = {key for key, entry in dead if entry in free}
        return list(self.dead().filter(pk__in=keys).values_list("pk", flat=True))

    def _reopen(self, keys: Collection[int], kind: HistoryKind) -> int:
        rows = self.model._default_manager.using(self.db).filter(pk__in=keys)
        rows.update(status=DeliveryStatus.FAILED, **AFRESH)
        self._note(kind, keys)
        entries = WorkflowOutbox.objects.using(self.db).filter(deliveries__in=keys).values("pk")
        reopened = list(entries.values_list("pk", flat=True).distinct())
        return WorkflowOutbox.objects.using(self.db).filter(pk__in=reopened).requeue()

    def _note(self, kind: HistoryKind, keys: Collection[int], detail: str = "") -> None:
        owners = [{"delivery_id": key} for key in keys]
        WorkflowHistory.objects.using(self.db).note_each(kind, owners, detail=detail)


class WorkflowDeliveryAttempt(models.Model):
    """The delivery of one event to one registration."""

    #: The entry whose event is delivered.
    outbox = models.ForeignKey(
        WorkflowOutbox,
        on_delete=models.CASCADE,
        related_name="deliveries",
        db_index=False,  # the constraint's index begins with it
    )
    #: Id of the registration; unique for each entry.
    registration_id = IdField()
    #: One of `DeliveryStatus`; changed by the verbs of `DeliveryQuerySet` only.
    status = Utf8CharField(max_length=12, choices=DeliveryStatus)
    #: Passes, except those whose worker died; `WORKFLOW_MAX_RETRIES` limits the failed ones.
    attempts = models.PositiveIntegerField(db_default=1)
    #: Passes whose worker died; at `WORKFLOW_MAX_CRASHES` it becomes a dead letter.
    crashes = models.PositiveIntegerField(db_default=0)
    #: Token of the claim that wrote the row last.
    claim_token = Utf8CharField(max_length=32, null=True)
    #: Name of the lane in which it is delivered in order; NULL for a delivery without an order.
    lane = Utf8CharField(max_length=LANE_LENGTH, null=True)
    #: Whether it has a place in its lane: it is undelivered, or a dead letter that blocks the lane.
    in_lane = models.BooleanField(db_default=False)
    #: When it was queued, if its publisher did not know the registration; NULL if it did.
    late_at = models.DateTimeField(null=True)
    #: When the next pass is due; NULL if none is planned.
    available_at = models.DateTimeField(null=True)
    #: Dotted path of the last failure's class; empty if it never failed.
    error_class = Utf8CharField(max_length=255, db_default="")
    #: Text of the last failure.
    error = Utf8TextField(db_default="")
    #: Traceback of the last failure.
    traceback = Utf8TextField(db_default="")
    #: When the row was inserted: at its first recorded pass.
    started_at = models.DateTimeField(db_default=DatabaseNow())
    #: When it first failed since it was stored or requeued; NULL if it has not.
    first_failed_at = models.DateTimeField(null=True)
    #: When the last pass ended, or it was discarded; NULL until then.
    finished_at = models.DateTimeField(null=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name, verbose_name_plural = _("delivery"), _("deliveries")
        default_permissions = ("view",)
        permissions = (
            ("requeue_delivery", _("Can requeue dead letters")),
            ("discard_delivery", _("Can discard dead letters")),
        )
        constraints = (
            models.UniqueConstraint(
                fields=["outbox", "registration_id"], name="gm_one_delivery_each"
            ),
        )
        indexes = (
            PartialIndex(
                fields=["status", "id"], condition=~Q(status="completed"), name="gm_delivery_status"
            ),
            PartialIndex(  # what unpausing releases
                fields=["registration_id", "status", "id"],
                condition=Q(status="paused"),
                name="gm_delivery_paused",
            ),
            PartialIndex(  # what a worker of a lane asks for
                fields=["lane", "in_lane", "id"],
                condition=Q(in_lane=True),
                name="gm_delivery_lane",
            ),
            PartialIndex(
                fields=["late_at"], condition=Q(late_at__isnull=False), name="gm_delivery_late"
            ),
        )

    def __str__(self) -> str:
        return visible(f"{self.registration_id}: {self.status}"[:MAX_TITLE])

    @property
    def left(self) -> timedelta:
        """The time until the next pass, of a row that was read with `timed`."""
        now: datetime = self.now  # type: ignore[attr-defined]  # annotated by timed()
        return (self.available_at or now) - now

    def whose_lane(self) -> Lane:
        """Its lane, by its event, which must have been read too."""
        event, queues = self.outbox.event, self.outbox.lanes or {}
        key = event.ordering_key or event.subject or ""
        return Lane(self.registration_id, key, queues.get(self.registration_id, ""))
