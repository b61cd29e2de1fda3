"""What PostgreSQL says of itself: transactions that keep dead rows, and the rows that they keep."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connections

from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowOutbox,
    WorkflowSignal,
    WorkflowStep,
)

TABLES = (
    WorkflowEventRecord,
    WorkflowOutbox,
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowStep,
    WorkflowHistory,
    WorkflowSignal,
)

OLDEST = """
SELECT clock_timestamp() - since, who FROM (
    SELECT xact_start AS since,
        'process ' || pid || coalesce(' of ' || nullif(application_name, ''), '')
            || coalesce(', ' || state, '') AS who
    FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
        AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT prepared, 'the prepared transaction ' || gid FROM pg_prepared_xacts
    WHERE database = current_database()
) transactions ORDER BY since LIMIT 1"""

DEAD = """
SELECT relname, n_live_tup, n_dead_tup, greatest(last_vacuum, last_autovacuum)
FROM pg_stat_user_tables WHERE relname = ANY(%s) AND schemaname = ANY(current_schemas(false))
ORDER BY relname"""


@dataclass(frozen=True, slots=True)
class Transaction:
    """The oldest transaction that is open: *who* is a process of the server, as text."""

    age: timedelta
    who: str


@dataclass(frozen=True, slots=True)
class TableState:
    """How many rows of a table are alive and dead, by the server's estimate."""

    name: str
    live: int
    dead: int
    vacuumed_at: datetime | None


def oldest_transaction(using: str) -> Transaction | None:
    """The oldest open transaction but ours; `None` without one, and on other databases.

    A role without ``pg_read_all_stats`` sees its own sessions only.
    """
    for age, who in _rows(using, OLDEST):
        return Transaction(max(age, timedelta(0)), who)
    return None


def table_states(using: str) -> list[TableState]:
    """Our tables, by name; empty on other databases than PostgreSQL."""
    return [TableState(*row) for row in _rows(using, DEAD, [one._meta.db_table for one in TABLES])]


@dataclass(frozen=True, slots=True)
class DatabaseState:
    oldest: Transaction | None
    tables: list[TableState]


def read_state(using: str) -> DatabaseState:
    return DatabaseState(oldest_transaction(using), table_states(using))


def _rows(using: str, sql: str, *values: Any) -> list[Any]:
    connection = connections[using]
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())
