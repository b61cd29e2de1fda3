"""Which due rows a claim takes: the oldest of one queue, and under a backlog some of the newest.

New work must not wait behind a backlog, and old work must not wait indefinitely behind new work. So
a claim that follows a full one takes a part of its rows from the newest end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from django.db import models

from general_manager.workflow.models.sql.columns import from_now

Row = TypeVar("Row")

FRESH: Final = timedelta(seconds=10)
"""How long a row counts as new. Older ones are taken from the oldest end only, so a claim never
searches a long backlog from its newest end."""

TOGETHER: Final = timedelta(seconds=1)
"""Rows that became due within it have come together: none of them is new beside the others."""

NEWEST_PART: Final = 4
"""One of so many rows of a claim under a backlog comes from the newest end."""


@dataclass(frozen=True, slots=True)
class Share:
    """The queue that a claim works for, and whether the last claim of its worker was full."""

    queue: str = ""
    is_behind: bool = False
    number: int = 0
    """Number of the claim, so that small ones take a new row now and then."""
    oldest_first: bool = False
    """After a slow turn, which may have come to its newest part only."""

    def newest(self, limit: int) -> int:
        """How many of *limit* rows to take from the newest end."""
        if not self.is_behind:
            return 0
        return (limit + self.number % NEWEST_PART) // NEWEST_PART

    def in_turn(
        self, rows: Sequence[Row], limit: int, times: Sequence[datetime]
    ) -> tuple[list[Row], list[Row]]:
        """What the turn begins with, and what follows, of the *rows* of a claim of *limit*.

        *rows* are in the order of their *times*. The newest part has waited for the turn, so it
        comes first, and does not wait for the others as well; unless all have come together.
        """
        is_mixed = len(rows) >= limit and times[-1] - times[0] > TOGETHER
        newest = self.newest(limit) if is_mixed and not self.oldest_first else 0
        split = len(rows) - newest
        return list(rows[split:]), list(rows[:split])


ANY_AGE: Final = Share()
"""The project's own routing, oldest first."""


def due_rows(
    columns: str,
    table: str,
    due: str,
    share: Share,
    limit: int,
    *,
    since: datetime | None,
    condition: str,
) -> tuple[str, list[Any]]:
    """The common table expressions that end with ``locked``, and their parameters; PostgreSQL.

    Rows of the share's queue whose column *due* has come, locked. *since*: leave out earlier ones.
    """
    newest = share.newest(limit)
    head = f"SELECT {columns} FROM {table} WHERE queue = %s AND {condition}"
    head += f" AND {due} <= statement_timestamp()"
    lock = "FOR UPDATE SKIP LOCKED"
    after = "" if since is None else f" AND {due} >= %s"
    order = f"ORDER BY {due} LIMIT %s"
    values: list[Any] = [share.queue, *([] if since is None else [since]), limit]
    if not newest:
        return f"locked AS MATERIALIZED ({head}{after} {order} {lock})", values
    fresh = f"{head} AND {due} > statement_timestamp() - %s ORDER BY {due} DESC LIMIT %s {lock}"
    # Of what has come at one time, a sort may put the same rows at both ends.
    others = f"{head}{after} AND id <> ALL (ARRAY(SELECT id FROM newest)) {order}"
    return (
        f"newest AS MATERIALIZED ({fresh}), "
        f"oldest AS MATERIALIZED ({others} - (SELECT count(*) FROM newest) {lock}), "
        "locked AS (SELECT * FROM oldest UNION ALL SELECT * FROM newest)"
    ), [share.queue, FRESH, newest, *values]


def select_due(
    rows: "models.QuerySet[Any]", due: str, columns: tuple[str, ...], share: Share, limit: int
) -> list[tuple[Any, ...]]:
    """*columns*, the key first, of up to *limit* of the due *rows*, locked; the oldest first."""
    newest = share.newest(limit)
    free = rows.select_for_update(skip_locked=True).values_list(*columns)
    fresh: list[tuple[Any, ...]] = []
    if newest:
        after = free.filter(**{f"{due}__gt": from_now(-FRESH)})
        fresh = list(after.order_by(f"-{due}")[:newest])
    others = free.exclude(pk__in=[row[0] for row in fresh]) if fresh else free
    return list(others.order_by(due)[: limit - len(fresh)]) + fresh[::-1]
