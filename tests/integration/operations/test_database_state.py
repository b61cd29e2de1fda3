"""What PostgreSQL says of open transactions and dead rows, where operators look."""

from contextlib import contextmanager
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from general_manager.management.commands import workflow_status
from general_manager.workflow.models import WorkflowOutbox
from general_manager.workflow.operations import health
from general_manager.workflow.operations.database_state import read_state

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
only_postgresql = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="Only PostgreSQL is asked"
)


@contextmanager
def an_open_transaction():
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SET application_name = 'a report'")
            cursor.execute("BEGIN")
            cursor.execute("SELECT 1")
        yield
    finally:
        other.close()


def codes():
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}):
        return {one.code: one for one in health.check_health().troubles}


@only_postgresql
def test_a_transaction_that_stays_open_is_named_by_health(monkeypatch):
    with an_open_transaction():
        assert "old-transaction" not in codes()  # it is young
        monkeypatch.setattr(health, "OLD_TRANSACTION", timedelta(0))
        found = codes()["old-transaction"]
    assert "a report, idle in transaction" in found.message


@only_postgresql
def test_status_names_the_oldest_transaction_and_tables_full_of_dead_rows(monkeypatch):
    monkeypatch.setattr(workflow_status, "MANY_DEAD", -1)
    out = StringIO()
    with (
        an_open_transaction(),
        pytest.raises(SystemExit),
        override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}),
    ):
        call_command("workflow_status", stdout=out)
    assert "a report, idle in transaction" in out.getvalue()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
    assert {one.name for one in read_state("default").tables} >= {WorkflowOutbox._meta.db_table}


@only_postgresql
def test_the_tables_that_change_most_are_vacuumed_early():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT reloptions FROM pg_class WHERE relname = %s", [WorkflowOutbox._meta.db_table]
        )
        [options] = cursor.fetchone()
    assert "autovacuum_vacuum_scale_factor=0.02" in options


@pytest.mark.skipif(connection.vendor == "postgresql", reason="There the server is asked")
def test_other_databases_are_asked_nothing(django_assert_num_queries):
    with django_assert_num_queries(0):
        state = read_state("default")
    assert (state.oldest, state.tables) == (None, [])
