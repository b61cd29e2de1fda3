"""Claim due outbox entries, oldest first, each for one worker only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

from django.db import Error, connections, models, transaction
from django.db.models import Case, F, Q, When
from django.db.models.functions import Coalesce

from general_manager.cursors import cursor_on
from general_manager.workflow.core.connections import in_transaction, persist
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now
from general_manager.workflow.models.sql.commits import without_waiting
from general_manager.workflow.models.sql.due import Share, due_rows, select_due
from general_manager.workflow.models.sql.low_water import low_water

T = TypeVar("T")

SEEN_LATE: Final = timedelta(hours=1)
"""An entry that is first claimed so long after it was stored is marked as late, so that a search
for events need not go back to the first one that is stored."""


class OutboxStatus(models.TextChoices):
    """How the delivery of one event to all its handlers stands."""

    PENDING = "pending"
    """To deliver: it was stored, requeued or released."""
    CLAIMED = "claimed"
    """A worker is delivering it, until the lease expires."""
    FAILED = "failed"
    """At least one handler will be called again, after a delay."""
    PROCESSED = "processed"
    """Delivered: no handler is left, and none is a dead letter."""
    DEAD_LETTER = "dead_letter"
    """Delivered as far as possible: at least one handler is a dead letter."""
    PAUSED = "paused"
    """Parked: every handler that is left is paused."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Entries leased to one worker; the *token* proves the claim."""

    token: str
    together: tuple[int, ...]
    """Entries to deliver in chunks."""
    alone: tuple[int, ...]
    """Entries whose last worker died during them: deliver each in a chunk of its own, so that
    only the handler that caused a crash is charged with it."""

    started: frozenset[int] = frozenset()
    """Entries that this claim marked as started."""
    newest: int = 0
    """How many of *together*, at its beginning, come from the newest end of a backlog."""

    @property
    def size(self) -> int:
        return len(self.together) + len(self.alone)


def claim_surely(using: str, take: Callable[[], T], find: Callable[[], T | None]) -> T:
    """Claim by *take*; *find* looks for what an earlier try has claimed without saying so.

    A database that is away fails this at once. But once the statement was sent, what it claimed
    would be nobody's until its lease ends, and look like the work of one that died: then *find* is
    asked for as long as an outcome is written.
    """
    sent: list[bool] = []

    def claim() -> T:
        if sent and (found := find()) is not None:
            return found
        connections[using].ensure_connection()  # what fails here has claimed nothing
        sent.append(True)
        return take()

    try:
        return persist(using, claim, patience=0)
    except Error:
        if not sent or in_transaction(connections[using]):
            raise
        found = persist(using, find)
        if found is None:
            raise
        return found


def claim_at_once(
    entries: Any, token: str, limit: int, lease: timedelta, *, by: str, begin: int, share: Share
) -> Claim:
    """One statement, for PostgreSQL: an UPDATE of the rows that a locking SELECT returns."""
    table = entries.model._meta.db_table
    hint = low_water(entries.db, f"{table} {share.queue}")
    began, mark = hint.now(), hint.mark()
    columns = "id, status, started, deliver_alone, available_at"
    rows, values = due_rows(
        columns, table, "available_at", share, limit, since=mark, condition="TRUE"
    )
    parameters: Any = (*values, begin, SEEN_LATE, token, by[:255], lease)
    sql = _CLAIM_SQL.format(table=table, rows=rows) + without_waiting(entries.db)
    with cursor_on(connections[entries.db]) as cursor:
        cursor.execute(sql, parameters)
        found = sorted(row[:4] for row in cursor.fetchall())
    hint.learn(began, mark, found[0][3] if found else None)
    taken = [(key, is_alone) for _, key, is_alone, _ in found]
    return _claim_of(token, taken, begin, share.in_turn(taken, limit, [row[3] for row in found]))


def select_and_claim(
    entries: Any, token: str, limit: int, lease: timedelta, *, by: str, begin: int, share: Share
) -> Claim:
    with transaction.atomic(using=entries.db):
        due = entries.due().filter(queue=share.queue)
        columns = ("pk", "status", "started", "deliver_alone", "available_at")
        rows = select_due(due, "available_at", columns, share, limit)
        if not rows:
            return Claim("", (), ())
        found = [
            (key, alone or (status == OutboxStatus.CLAIMED and started))
            for key, status, started, alone, _ in rows
        ]
        started_now = [key for key, is_alone in found[:begin] if not is_alone]
        # The condition is repeated: not every database locks the rows it selects.
        taken = entries.due().filter(pk__in=[row[0] for row in rows])
        changed = taken.update(
            # First, because in MariaDB later assignments see earlier ones.
            deliver_alone=Q(deliver_alone=True) | Q(status=OutboxStatus.CLAIMED, started=True),
            **seen_now(),
            status=OutboxStatus.CLAIMED,
            claim_token=token,
            claimed_by=by[:255],
            claimed_at=DatabaseNow(),
            available_at=from_now(lease),
            started=Q(pk__in=started_now) if started_now else False,
        )
        if changed != len(rows):
            ours = set(entries.filter(claim_token=token).values_list("pk", flat=True))
            found = [one for one in found if one[0] in ours]
    return _claim_of(token, found, begin, share.in_turn(found, limit, [row[4] for row in rows]))


def seen_now() -> dict[str, Any]:
    """The values of the first claim of an entry, after the commit of its event."""
    time = models.DateTimeField()
    is_late = When(seen_at=None, undelivered_since__lt=from_now(-SEEN_LATE), then=DatabaseNow())
    return {  # in this order, because in MariaDB later assignments see earlier ones
        "seen_late_at": Case(is_late, default=F("seen_late_at"), output_field=time),
        "seen_at": Coalesce("seen_at", DatabaseNow()),
    }


def _claim_of(
    token: str,
    rows: Sequence[tuple[int, bool]],
    begin: int,
    in_turn: tuple[list[tuple[int, bool]], list[tuple[int, bool]]],
) -> Claim:
    """Build a claim from keys in order, each with whether it must be delivered alone."""
    started = frozenset(key for key, is_alone in rows[:begin] if not is_alone)
    first, others = ([key for key, is_alone in part if not is_alone] for part in in_turn)
    alone = tuple(key for key, is_alone in rows if is_alone)
    return Claim(token, (*first, *others), alone, started, len(first))


_CLAIM_SQL: Final = """
WITH {rows}, due AS (
    SELECT id, available_at, deliver_alone OR (status = 'claimed' AND started) AS is_alone,
        row_number() OVER (ORDER BY available_at) AS position
    FROM locked
)
UPDATE {table} entry SET
    started = due.position <= %s AND NOT due.is_alone,
    deliver_alone = due.is_alone,
    seen_late_at = CASE
        WHEN seen_at IS NULL AND undelivered_since < statement_timestamp() - %s
        THEN statement_timestamp() ELSE seen_late_at END,
    seen_at = COALESCE(seen_at, statement_timestamp()),
    status = 'claimed',
    claim_token = %s,
    claimed_by = %s,
    claimed_at = statement_timestamp(),
    available_at = statement_timestamp() + %s
FROM due WHERE entry.id = due.id
RETURNING due.position, entry.id, entry.deliver_alone, due.available_at"""
