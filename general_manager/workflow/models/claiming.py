"""Take a lease on entries of the outbox: those that are due first, each by one worker only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, Final, Self, TypeVar
from uuid import uuid4

from django.db import connections, models, transaction
from django.db.models import Q

from general_manager.workflow.connections import persist
from general_manager.workflow.models.columns import DatabaseNow, in_
from general_manager.workflow.models.commits import without_waiting

Row = TypeVar("Row", bound=models.Model)


class OutboxStatus(models.TextChoices):
    PENDING = "pending"
    CLAIMED = "claimed"
    FAILED = "failed"
    PROCESSED = "processed"
    DEAD_LETTER = "dead_letter"


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease on entries: the *token* proves it."""

    token: str
    together: tuple[int, ...]
    """Entries to deliver in chunks."""
    alone: tuple[int, ...]
    """Entries whose last worker died in the middle: deliver each by itself, so that only the
    handler that kills its worker is charged for it."""

    begun: frozenset[int] = frozenset()
    """Those that the claimer has started on by claiming them."""

    @property
    def size(self) -> int:
        return len(self.together) + len(self.alone)


class ClaimingQuerySet(models.QuerySet[Row]):
    def due(self) -> Self:
        return self.filter(available_at__lte=DatabaseNow())

    def claim(self, limit: int, *, lease: timedelta, by: str = "", begin: int = 0) -> Claim:
        """Take up to *limit* due entries for *lease*; one statement if none is due.

        The caller starts on the first *begin* of them at once: from here, its death counts.
        An entry whose last worker had begun it and died comes back in `Claim.alone`.
        """
        token = uuid4().hex
        is_at_once = connections[self.db].vendor == "postgresql"
        take = self._claim_at_once if is_at_once else self._select_and_claim
        tries = count()

        def claim() -> Claim:
            found = self._claimed(token) if next(tries) else None  # the answer may have been lost
            return found or take(token, limit, lease, by, begin)

        return persist(self.db, claim, patience=0)

    def _claimed(self, token: str) -> Claim | None:
        held = self.filter(claim_token=token, status=OutboxStatus.CLAIMED).order_by("pk")
        rows = list(held.values_list("pk", "alone", "begun"))
        if not rows:
            return None
        return Claim(
            token,
            tuple(key for key, is_alone, _ in rows if not is_alone),
            tuple(key for key, is_alone, _ in rows if is_alone),
            frozenset(key for key, _, is_begun in rows if is_begun),
        )

    def _claim_at_once(
        self, token: str, limit: int, lease: timedelta, by: str, begin: int
    ) -> Claim:
        """One statement and one round trip, where UPDATE takes what a locking SELECT gives it."""
        with connections[self.db].cursor() as cursor:
            values: Any = (limit, begin, token, by[:255], lease)
            sql = _CLAIM.format(table=self.model._meta.db_table) + without_waiting(self.db)
            cursor.execute(sql, values)
            rows = sorted(row[:3] for row in cursor.fetchall())
        return _claim_of(token, [(key, is_alone) for _, key, is_alone in rows], begin)

    def _select_and_claim(
        self, token: str, limit: int, lease: timedelta, by: str, begin: int
    ) -> Claim:
        with transaction.atomic(using=self.db):
            rows = list(
                self.due()
                .select_for_update(skip_locked=True)
                .order_by("available_at")
                .values_list("pk", "status", "begun", "alone")[:limit]
            )
            if not rows:
                return Claim("", (), ())
            found = [
                (key, alone or (status == OutboxStatus.CLAIMED and begun))
                for key, status, begun, alone in rows
            ]
            begun_now = [key for key, is_alone in found[:begin] if not is_alone]
            # The condition is repeated: not every database locks what it selects.
            taken = self.due().filter(pk__in=[row[0] for row in rows])
            changed = taken.update(
                # First, because MariaDB sees what is assigned before it.
                alone=Q(alone=True) | Q(status=OutboxStatus.CLAIMED, begun=True),
                status=OutboxStatus.CLAIMED,
                claim_token=token,
                claimed_by=by[:255],
                claimed_at=DatabaseNow(),
                available_at=in_(lease),
                begun=Q(pk__in=begun_now) if begun_now else False,
            )
            if changed != len(rows):
                ours = set(self.filter(claim_token=token).values_list("pk", flat=True))
                found = [one for one in found if one[0] in ours]
        return _claim_of(token, found, begin)


def _claim_of(token: str, rows: Sequence[tuple[int, bool]], begin: int) -> Claim:
    """From keys in order, each with whether it must be delivered alone."""
    together = tuple(key for key, is_alone in rows if not is_alone)
    alone = tuple(key for key, is_alone in rows if is_alone)
    begun = frozenset(key for key, is_alone in rows[:begin] if not is_alone)
    return Claim(token, together, alone, begun)


_CLAIM: Final = """
WITH due AS (
    SELECT id, alone OR (status = 'claimed' AND begun) AS lonely,
        row_number() OVER (ORDER BY available_at) AS position
    FROM (
        SELECT id, status, begun, alone, available_at FROM {table}
        WHERE available_at <= statement_timestamp()
        ORDER BY available_at LIMIT %s FOR UPDATE SKIP LOCKED
    ) locked
)
UPDATE {table} entry SET
    begun = due.position <= %s AND NOT due.lonely,
    alone = due.lonely,
    status = 'claimed',
    claim_token = %s,
    claimed_by = %s,
    claimed_at = statement_timestamp(),
    available_at = statement_timestamp() + %s
FROM due WHERE entry.id = due.id
RETURNING due.position, entry.id, entry.alone"""
