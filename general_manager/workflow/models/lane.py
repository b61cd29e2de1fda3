"""Lanes: the events of one key for one ordered registration, delivered one after the other.

A row exists while its lane has something undelivered; the events wait as rows of deliveries.
``available_at`` does all timing, as for outbox entries; it is NULL while a dead letter blocks the
lane, and while it is parked because its registration is paused. Lock order: lanes, in the order of
their names, then deliveries, then outbox entries.
"""

from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import Any, Final, NamedTuple

from django.db import models, transaction
from django.db.models import Exists, Q
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.core.ids import LANE_LENGTH, MAX_QUEUE_LENGTH, lane_of
from general_manager.workflow.models.pause import (
    RELEASE_BATCH,
    Released,
    is_registration_paused,
)
from general_manager.workflow.models.sql.columns import (
    DatabaseNow,
    IdField,
    PartialIndex,
    Utf8CharField,
    from_now,
)
from general_manager.workflow.models.sql.commits import bookkeeping, update_without_waiting
from general_manager.workflow.models.sql.due import ANY_AGE, Share
from general_manager.workflow.models.sql.inserts import rows_per_statement
from general_manager.workflow.models.sql.lanes import LaneClaim, claim_lanes, insert_or_lock

LANE_FIELDS: Final = ("lane", "registration_id", "ordering_key", "queue")
FREE: Final[dict[str, Any]] = {"claim_token": None, "lapsed_token": None}


class Lane(NamedTuple):
    """A registration and a key, and the queue of the workers that deliver."""

    registration_id: str
    key: str
    queue: str = ""

    @property
    def name(self) -> str:
        return lane_of(self.registration_id, self.key)


class Place(NamedTuple):
    """Where an event is queued in order."""

    entry: int
    """Primary key of its outbox entry."""
    registration_id: str
    key: str


class LaneQuerySet(models.QuerySet["WorkflowLane"]):
    """The transitions of lanes."""

    def wake(self, lanes: Iterable[Lane]) -> None:
        """Make idle lanes due, and lock all of *lanes* until the caller's transaction ends.

        A held lane stays held: its worker looks once more, under this lock, before it lets go. A
        delayed or blocked one stays so too.
        """
        rows = sorted({one.name: one for one in lanes}.items())
        size = rows_per_statement(len(LANE_FIELDS), self.db)
        for start in range(0, len(rows), size):
            values = [[name, *one] for name, one in rows[start : start + size]]
            insert_or_lock(self.model, LANE_FIELDS, values, self.db)

    def lock(self, names: Collection[str]) -> None:
        """Lock those of these lanes that exist, until the caller's transaction ends."""
        rows = self.filter(lane__in=names).order_by("lane").select_for_update()
        list(rows.values_list("pk", flat=True))

    def unblock(self, names: Collection[str]) -> int:
        """Blocked to due."""
        blocked = self.filter(lane__in=names, blocked_since__isnull=False)
        return blocked.update(blocked_since=None, available_at=DatabaseNow())

    def due(self) -> "LaneQuerySet":
        return self.filter(available_at__lte=DatabaseNow())

    def claim(
        self,
        limit: int,
        *,
        lease: timedelta,
        by: str = "",
        share: Share = ANY_AGE,
        names: Collection[str] | None = None,
    ) -> LaneClaim:
        """Claim up to *limit* due lanes for *lease*, of *names* if given.

        One statement if none is due.
        """
        return claim_lanes(self, limit, lease=lease, by=by, share=share, names=names)

    def held(self, token: str) -> "LaneQuerySet":
        return self.filter(claim_token=token)

    def renew(self, token: str, keys: Collection[int], *, lease: timedelta) -> int:
        """Extend the lease; skips rows that are locked at the moment."""
        with bookkeeping(self.db) as update:
            rows = self.held(token).filter(pk__in=keys).select_for_update(skip_locked=True)
            free = list(rows.values_list("pk", flat=True))
            return update(self.held(token).filter(pk__in=free), available_at=from_now(lease))

    def _lock_held(self, token: str, keys: Collection[int]) -> "LaneQuerySet":
        """Lock these held lanes in the order of their names, as publishers do."""
        held = self.held(token).filter(pk__in=keys)
        if len(keys) > 1:
            list(held.order_by("lane").select_for_update().values_list("pk", flat=True))
        return held

    def release(self, token: str, keys: Collection[int], *, is_suspect: bool = False) -> int:
        """Held to due for any worker. *is_suspect*: that its last worker died still counts."""
        values = {"claim_token": None} if is_suspect else FREE
        with bookkeeping(self.db) as update:
            return update(self._lock_held(token, keys), available_at=DatabaseNow(), **values)

    def delay(
        self, token: str, key: int, delay: timedelta, *, interruptions: int = 0, queue: str = ""
    ) -> int:
        """Held to due after *delay*, in another *queue* if one is given."""
        values: dict[str, Any] = {"queue": queue} if queue else {}
        return update_without_waiting(
            self.held(token).filter(pk=key),
            available_at=from_now(delay),
            interruptions=interruptions,
            **values,
            **FREE,
        )

    def block(self, token: str, key: int, dead: "models.QuerySet[Any]") -> bool:
        """Held to blocked, if there is a row in *dead*, the letter at its head; otherwise to due.

        Who requeues, discards or skips a letter locks its lane first. What was done while the lane
        was held is seen here, and what comes later finds it blocked.
        """
        held = self.held(token).filter(pk=key)
        with transaction.atomic(using=self.db):
            list(held.select_for_update().values_list("pk", flat=True))
            # A new statement: the lock was perhaps waited for.
            blocked = held.filter(Exists(dead)).update(
                available_at=None, blocked_since=DatabaseNow(), interruptions=0, **FREE
            )
            if not blocked:
                held.update(available_at=DatabaseNow(), interruptions=0, **FREE)
        return bool(blocked)

    def park(self, token: str, keys: Collection[int]) -> int:
        """Held to parked, because the registration is paused: look again after the commit.

        That its last worker died still counts.
        """
        parked = {"available_at": None, "parked_at": DatabaseNow(), "claim_token": None}
        with transaction.atomic(using=self.db):
            return self._lock_held(token, keys).update(**parked)

    def look_again(self, keys: Collection[int]) -> int:
        """Parked to due, of those whose pause was lifted meanwhile; returns how many."""
        parked = self.filter(pk__in=keys, parked_at__isnull=False)
        free = parked.exclude(is_registration_paused())
        with transaction.atomic(using=self.db):
            found = list(free.order_by("lane").select_for_update().values_list("pk", flat=True))
            left = parked.filter(pk__in=found)
            return left.update(available_at=DatabaseNow(), parked_at=None) if found else 0

    def release_parked(self, registration_id: str) -> Released:
        """Release a batch of the parked lanes of a registration that is not paused any more."""
        parked = self.filter(registration_id=registration_id, parked_at__isnull=False)
        with transaction.atomic(using=self.db):
            rows = parked.order_by("lane").select_for_update()[:RELEASE_BATCH]
            found = list(rows.values_list("pk", "queue"))
            free = parked.filter(pk__in=[key for key, _ in found])
            free.update(available_at=DatabaseNow(), parked_at=None)
        return Released([str(key) for key, _ in found], {queue for _, queue in found})

    def close(
        self, token: str, keys: Collection[int], waiting: "models.QuerySet[Any]"
    ) -> list[int]:
        """Let held lanes go idle in which nothing was found. Returns those that go on.

        *waiting*: the undelivered rows of the outer query's lane. Code that wakes a lane locks it
        first, so what was committed before is seen here, and what comes later inserts the row anew.
        """
        with transaction.atomic(using=self.db):
            rows = self.held(token).filter(pk__in=keys).order_by("lane").select_for_update()
            locked = list(rows.values_list("pk", flat=True))
            # A new statement: the lock was perhaps waited for.
            busy = self.filter(Exists(waiting), pk__in=locked)
            left = list(busy.values_list("pk", flat=True)) if locked else []
            idle: Any = self.filter(pk__in=set(locked) - set(left))
            idle._raw_delete(self.db)  # noqa: SLF001 - delete() loads rows if there are receivers
            return left


class WorkflowLane(models.Model):
    """The undelivered events of one key for one ordered registration."""

    #: Digest of registration and key; unique. Written by `wake`, and by `publish` in deliveries.
    lane = Utf8CharField(max_length=LANE_LENGTH)
    #: Id of the registration.
    registration_id = IdField()
    #: The ordering key of its events.
    ordering_key = IdField()
    #: Queue of the workers that deliver; empty for the project's own routing.
    queue = Utf8CharField(max_length=MAX_QUEUE_LENGTH, db_default="")
    #: When it is due: at once, after a delay, or when its lease expires. NULL if it is blocked.
    available_at = models.DateTimeField(null=True, db_default=DatabaseNow())
    #: Since when a dead letter blocks it; NULL if none does. Written by `block` and `unblock`.
    blocked_since = models.DateTimeField(null=True)
    #: Since when it is parked, because its registration is paused; NULL if it is not.
    parked_at = models.DateTimeField(null=True)
    #: Token of the worker's claim; NULL if no worker has it.
    claim_token = Utf8CharField(max_length=LANE_LENGTH, null=True)
    #: The worker that claimed it last; empty if none did.
    claimed_by = Utf8CharField(max_length=255, db_default="")
    #: When it was claimed last; NULL if it never was.
    claimed_at = models.DateTimeField(null=True)
    #: Token of a claim whose worker died: the head that it ran is charged, and shown before it
    #: runs again. NULL if none died. Written by `claim`.
    lapsed_token = Utf8CharField(max_length=LANE_LENGTH, null=True)
    #: How often in a row the database interrupted the delivery of its head. Written by `delay`.
    interruptions = models.PositiveIntegerField(db_default=0)
    #: When the first of its events was to be delivered.
    undelivered_since = models.DateTimeField(db_default=DatabaseNow())

    objects = LaneQuerySet.as_manager()

    class Meta:
        verbose_name = _("lane")
        verbose_name_plural = _("lanes")
        default_permissions = ("view",)
        permissions = (("skip_lane", _("Can let a blocked lane go on without its dead letter")),)
        constraints = (models.UniqueConstraint(fields=["lane"], name="gm_lane"),)
        indexes = (
            PartialIndex(
                fields=["queue", "available_at"],
                condition=Q(available_at__isnull=False),
                name="gm_lane_due",
            ),
            PartialIndex(
                fields=["blocked_since"],
                condition=Q(blocked_since__isnull=False),
                name="gm_lane_blocked",
            ),
            PartialIndex(
                fields=["registration_id", "parked_at"],
                condition=Q(parked_at__isnull=False),
                name="gm_lane_parked",
            ),
        )

    def __str__(self) -> str:
        return visible(f"{self.ordering_key}: {self.registration_id}"[:MAX_TITLE])
