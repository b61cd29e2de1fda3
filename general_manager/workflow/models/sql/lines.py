"""Lines that no key's row knows: their first look was lost with the process that should have."""

from typing import Any, Final

from django.db import connections, models

from general_manager.cursors import cursor_on

LINES_AT_ONCE: Final = 1_000
"""Lines that one statement reads; the next one continues after them."""


def lines_without_look(
    executions: "models.QuerySet[Any]", keys: "models.QuerySet[Any]", after: str
) -> tuple[list[str], str]:
    """Those of the next `LINES_AT_ONCE` lines after *after* at which nobody will look.

    Also the line to continue after: empty after the last one. One lookup in an index for each line,
    however many executions wait in it.
    """
    connection = connections[executions.db]
    quote = connection.ops.quote_name
    sql = _LINES.format(
        executions=quote(executions.model._meta.db_table),
        keys=quote(keys.model._meta.db_table),
        key=quote("key"),
    )
    with cursor_on(connection) as cursor:
        cursor.execute(sql, [after, LINES_AT_ONCE])
        found = [(line, bool(is_lost)) for line, is_lost in cursor.fetchall()]
    following = max(line for line, _ in found) if len(found) >= LINES_AT_ONCE else ""
    return [line for line, is_lost in found if is_lost], following


_LINES: Final = """WITH RECURSIVE waiting (line, number) AS (
    SELECT min(waits_slot), 1 FROM {executions} WHERE waits_slot > %s
    UNION ALL
    SELECT (SELECT min(waits_slot) FROM {executions} WHERE waits_slot > waiting.line), number + 1
    FROM waiting WHERE waiting.line IS NOT NULL AND number < %s
)
SELECT line, NOT EXISTS (
    SELECT 1 FROM {keys} known WHERE known.{key} = line AND known.look_at IS NOT NULL
) FROM waiting WHERE line IS NOT NULL"""
