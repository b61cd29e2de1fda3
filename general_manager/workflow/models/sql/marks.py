"""The completed marks of several deliveries in one statement."""

from collections.abc import Sequence
from typing import Any, Final

from django.db import connections

from general_manager.cursors import cursor_on
from general_manager.workflow.models.sql.commits import UNWAITED


def insert_completed(
    deliveries: Any, entries: Any, marks: Sequence[tuple[int, str]], token: str, *, is_waited: bool
) -> int:
    """Insert a completed row of *deliveries* for each of *marks*: an entry and a registration's id.

    For PostgreSQL. Only where *token* holds the entry, which stays locked until the transaction
    ends, and where there is no row yet. Returns how many were inserted.
    """
    table, outbox = deliveries.model._meta.db_table, entries.model._meta.db_table
    sql = _MARKS_SQL.format(table=table, outbox=outbox) + ("" if is_waited else UNWAITED)
    keys, names = ([mark[place] for mark in marks] for place in (0, 1))
    with cursor_on(connections[deliveries.db]) as cursor:
        cursor.execute(sql, [token, keys, names, token])
        return int(cursor.rowcount)


_MARKS_SQL: Final = """
INSERT INTO {table} (outbox_id, registration_id, status, claim_token, finished_at)
SELECT entry.id, mark.name, 'completed', %s, statement_timestamp()
FROM unnest(%s::bigint[], %s::text[]) mark (id, name) JOIN {outbox} entry ON entry.id = mark.id
WHERE entry.claim_token = %s AND entry.status = 'claimed'
ORDER BY entry.id FOR UPDATE OF entry
ON CONFLICT (outbox_id, registration_id) DO NOTHING RETURNING 1"""
