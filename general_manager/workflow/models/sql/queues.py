"""In which queues there is something: one lookup in an index for each, however many rows."""

from collections.abc import Sequence
from typing import Any, Final

from django.db import connections, models

from general_manager.cursors import cursor_on
from general_manager.workflow.models.sql.columns import DatabaseNow
from general_manager.workflow.models.sql.low_water import low_water

Table = tuple["models.QuerySet[Any]", str, str]
"""The rows of a table, the column of their due time, and the condition of the index that begins
with the queue."""


_IS_BUSY: Final = "SELECT 1 FROM {table} WHERE name = %s AND busy_until > {now}"
_is_busy: dict[str, str] = {}


def is_busy(rows: "models.QuerySet[Any]", queue: str) -> bool:
    """Whether a worker has said so; compiled once, for publishers read it after each commit."""
    connection = connections[rows.db]
    sql = _is_busy.get(rows.db)
    if sql is None:
        now, _ = rows.query.get_compiler(rows.db).compile(DatabaseNow())
        table = connection.ops.quote_name(rows.model._meta.db_table)
        sql = _is_busy[rows.db] = _IS_BUSY.format(table=table, now=now)
    with cursor_on(connection) as cursor:
        cursor.execute(sql, [queue])
        return cursor.fetchone() is not None


def is_due(queue: str, *tables: Table) -> bool:
    """Whether a row of *queue* is due in one of *tables*; not before where claims begin now."""
    rows = tables[0][0]
    connection = connections[rows.db]
    now, _ = rows.query.get_compiler(rows.db).compile(DatabaseNow())
    looks: list[str] = []
    values: list[Any] = []
    for each, due, condition in tables:
        table = each.model._meta.db_table
        mark = low_water(rows.db, f"{table} {queue}").mark()
        after = "" if mark is None else f" AND {due} >= %s"
        source = f"FROM {connection.ops.quote_name(table)} WHERE queue = %s AND {condition}"
        looks.append(f"EXISTS (SELECT 1 {source} AND {due} <= {now}{after})")
        values += [queue] if mark is None else [queue, mark]
    with cursor_on(connection) as cursor:
        cursor.execute(f"SELECT {' OR '.join(looks)}", values)
        return bool(cursor.fetchone()[0])


def due_queues(*tables: Table) -> list[str]:
    """Names of queues with a due row in one of *tables*, in one statement."""
    return _queues(tables, only_due=True)


def used_queues(*tables: Table) -> list[str]:
    """Names of queues with a row in one of *tables* that is due now or later."""
    return _queues(tables, only_due=False)


def _queues(tables: Sequence[Table], *, only_due: bool) -> list[str]:
    rows = tables[0][0]
    connection = connections[rows.db]
    now, _ = rows.query.get_compiler(rows.db).compile(DatabaseNow())
    has_partial = connection.features.supports_partial_indexes
    names, dues = [], []
    for number, (each, due, condition) in enumerate(tables):
        slots = {
            "names": f"names{number}",
            "table": connection.ops.quote_name(each.model._meta.db_table),
            "condition": f"{condition} AND {due} " + (f"<= {now}" if only_due else "IS NOT NULL"),
            # Without a partial index, the condition would need the rows behind the index.
            "steps": condition if has_partial else "1 = 1",
        }
        names.append(_STEPS.format(**slots))
        dues.append(_FOUND.format(**slots))
    with cursor_on(connection) as cursor:
        cursor.execute(f"WITH RECURSIVE {', '.join(names)} {' UNION '.join(dues)}", [])
        return sorted(name for (name,) in cursor.fetchall())


_STEPS: Final = """{names} (name) AS (
    SELECT min(queue) FROM {table} WHERE {steps}
    UNION ALL
    SELECT (SELECT min(queue) FROM {table} WHERE {steps} AND queue > {names}.name)
    FROM {names} WHERE {names}.name IS NOT NULL
)"""

_FOUND: Final = """SELECT name FROM {names} WHERE name IS NOT NULL AND EXISTS (
    SELECT 1 FROM {table} WHERE queue = {names}.name AND {condition}
)"""
