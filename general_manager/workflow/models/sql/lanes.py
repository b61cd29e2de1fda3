"""Hot statements of lanes: claim due ones, and create or lock the lanes of new events."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, Final, NamedTuple
from uuid import uuid4

from django.db import connections, models, transaction
from django.db.models.functions import Coalesce

from general_manager.cursors import cursor_on
from general_manager.workflow.models.sql.claims import claim_surely
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now
from general_manager.workflow.models.sql.commits import without_waiting
from general_manager.workflow.models.sql.due import Share, due_rows, select_due
from general_manager.workflow.models.sql.low_water import low_water


class HeldLane(NamedTuple):
    """A lane that a worker has claimed."""

    pk: int
    name: str
    registration_id: str
    lapsed_token: str | None
    """Token of the claim whose worker died in this lane; `None` if none did."""
    interruptions: int
    """How often in a row the database interrupted the delivery of its head."""


class LaneClaim(NamedTuple):
    """Lanes leased to one worker; the *token* proves the claim."""

    token: str
    lanes: tuple[HeldLane, ...] = ()


HELD_FIELDS: Final = ("pk", "lane", "registration_id", "lapsed_token", "interruptions")


def claim_lanes(
    lanes: Any,
    limit: int,
    *,
    lease: timedelta,
    by: str,
    share: Share,
    names: Collection[str] | None = None,
) -> LaneClaim:
    """Claim due lanes of the share's queue; with *names*, only of these."""
    token = uuid4().hex
    is_at_once = connections[lanes.db].vendor == "postgresql" and names is None
    if names is not None:
        lanes = lanes.filter(lane__in=names)
    take = _claim_at_once if is_at_once else _select_and_claim
    return claim_surely(
        lanes.db,
        lambda: LaneClaim(token, take(lanes, token, limit, lease, by[:255], share)),
        lambda: LaneClaim(token, held) if (held := _held(lanes, token)) else None,
    )


def _held(lanes: Any, token: str) -> tuple[HeldLane, ...]:
    rows = lanes.filter(claim_token=token).order_by("pk").values_list(*HELD_FIELDS)
    return tuple(HeldLane(*row) for row in rows)


def _claim_at_once(
    lanes: Any, token: str, limit: int, lease: timedelta, by: str, share: Share
) -> tuple[HeldLane, ...]:
    """One statement, for PostgreSQL."""
    table = lanes.model._meta.db_table
    hint = low_water(lanes.db, f"{table} {share.queue}")
    began, mark = hint.now(), hint.mark()
    rows, values = due_rows(
        "id, claim_token, lapsed_token, available_at", table, "available_at", share, limit,
        since=mark, condition="TRUE",
    )  # fmt: skip
    parameters: Any = (*values, token, by, lease)
    sql = _CLAIM_LANES_SQL.format(table=table, rows=rows) + without_waiting(lanes.db)
    with cursor_on(connections[lanes.db]) as cursor:
        cursor.execute(sql, parameters)
        found = sorted(row[:6] for row in cursor.fetchall())
    hint.learn(began, mark, found[0][0] if found else None)
    first, others = share.in_turn(found, limit, [row[0] for row in found])
    return tuple(HeldLane(*row[1:]) for row in first + others)


def _select_and_claim(
    lanes: Any, token: str, limit: int, lease: timedelta, by: str, share: Share
) -> tuple[HeldLane, ...]:
    with transaction.atomic(using=lanes.db):
        due = lanes.due().filter(queue=share.queue)
        rows = select_due(due, "available_at", ("pk",), share, limit)
        if not rows:
            return ()
        # The condition is repeated: not every database locks the rows it selects.
        lanes.due().filter(pk__in=[key for (key,) in rows]).update(
            # First, because in MariaDB later assignments see earlier ones.
            lapsed_token=Coalesce("claim_token", "lapsed_token"),
            claim_token=token,
            claimed_by=by,
            claimed_at=DatabaseNow(),
            available_at=from_now(lease),
        )
        return _held(lanes, token)


def insert_or_lock(
    model: type[models.Model], fields: tuple[str, ...], rows: Sequence[Sequence[Any]], using: str
) -> None:
    """Insert *rows*, or lock the rows that are there; the first field is unique. One statement.

    If another transaction is about to delete a row, this waits and inserts it again.
    """
    head, tail = _frame(model, fields, using)
    marks = ", ".join([f"({', '.join(['%s'] * len(fields))})"] * len(rows))
    with cursor_on(connections[using]) as cursor:
        cursor.execute(f"{head} VALUES {marks} {tail}", [value for row in rows for value in row])


@cache
def _frame(model: type[models.Model], fields: tuple[str, ...], using: str) -> tuple[str, str]:
    connection = connections[using]
    quote = connection.ops.quote_name
    found: list[Any] = [model._meta.get_field(name) for name in fields]
    columns = [quote(one.column) for one in found]
    table, unique = quote(model._meta.db_table), columns[0]
    head = f"INSERT INTO {table} ({', '.join(columns)})"
    if connection.vendor == "mysql":
        return head, f"ON DUPLICATE KEY UPDATE {unique} = {table}.{unique}"
    # The condition is never true: the row is locked all the same, and nothing is written.
    return head, f"ON CONFLICT ({unique}) DO UPDATE SET {unique} = {table}.{unique} WHERE FALSE"


_CLAIM_LANES_SQL: Final = """
WITH {rows}
UPDATE {table} held SET
    lapsed_token = COALESCE(locked.claim_token, locked.lapsed_token),
    claim_token = %s,
    claimed_by = %s,
    claimed_at = statement_timestamp(),
    available_at = statement_timestamp() + %s
FROM locked WHERE held.id = locked.id
RETURNING locked.available_at, held.id, held.lane, held.registration_id, held.lapsed_token,
    held.interruptions"""
