"""Texts in databases, and over connections, whose character set has not all letters.

On MariaDB the database "archive" of these tests is made with latin1.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.test import override_settings
from django.utils import timezone

from general_manager.workflow import (
    Retry,
    WorkflowDefinition,
    WorkflowEvent,
    acting_as,
)
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
)
from general_manager.workflow.models.executions.verbs import ExecutionQuerySet
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

TEXT = "Größe \u4f60\u597d \U0001f600"
IN_ASCII = "Gr\\xf6\\xdfe \\u4f60\\u597d \\U0001f600"


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()


def start_there(**values):
    """An execution on the other database, as a router may have it."""
    rows = ExecutionQuerySet(WorkflowExecutionRecord, using="archive")
    key = "0" * 36
    assert not rows.start_once(
        execution_id=key, workflow_id=TEXT, version="1", input_data={"a": TEXT},
        metadata={"a": TEXT}, state="pending", **values,
    )  # fmt: skip
    return key, rows


@contextmanager
def speaking_latin(alias: str) -> Iterator[None]:
    """A connection that cannot carry every text."""
    one = connections[alias]
    if one.vendor == "mysql":
        one.close()
        one.settings_dict["OPTIONS"]["charset"] = "latin1"
    elif one.vendor == "postgresql":
        with one.cursor() as cursor:
            cursor.execute("SET client_encoding TO latin1")
    else:
        pytest.skip("Every connection to SQLite takes every text")
    try:
        yield
    finally:
        one.settings_dict.get("OPTIONS", {}).pop("charset", None)
        one.close()


def test_our_columns_of_text_are_in_utf8_whatever_the_databases_own_character_set():
    if connection.vendor != "mysql":
        pytest.skip("Elsewhere a database has one character set")
    with connections["archive"].cursor() as cursor:
        cursor.execute("SELECT @@character_set_database")
        assert cursor.fetchone() == ("latin1",)
        cursor.execute(
            "SELECT table_name, column_name, character_set_name FROM information_schema.columns "
            "WHERE table_schema = DATABASE() AND table_name LIKE 'general_manager_%' "
            "AND character_set_name IS NOT NULL"
        )
        found = cursor.fetchall()
    assert len(found) > 30
    assert {row[2] for row in found} == {"utf8mb4"}


def test_x9_a_failure_with_any_text_ends_a_delivery_in_a_database_of_any_character_set(
    outbox, workers
):
    flows.troubles[:] = [ValueError(TEXT)] * 3
    outbox.register("x", handler=lambda event: flows.stumble())
    outbox.publish(WorkflowEvent(TEXT, "a.b", {"a": TEXT}, event_name="x"), using="archive")
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}
    ):
        workers.deliver()
    row = WorkflowDeliveryAttempt.objects.using("archive").get()
    assert (row.status, row.error) == ("dead_letter", TEXT)
    assert WorkflowEventRecord.objects.using("archive").get().event_id == TEXT


def test_x9_a_failure_with_any_text_ends_an_execution_in_a_database_of_any_character_set():
    flows.troubles[:] = [ValueError(TEXT)] * 2
    retry = Retry(max_attempts=2, base=0).to_json()
    key, rows = start_there(handler_path="tests.testapp.flows.two_steps", retry=retry)
    with acting_as(TEXT):
        assert run(key, "archive")
        rows.update(wake_at=timezone.now() - timedelta(seconds=1))
        assert run(key, "archive")
    execution = rows.get()
    assert (execution.state, execution.error) == ("failed", TEXT)
    assert TEXT in execution.traceback
    [entry] = WorkflowHistory.objects.using("archive")
    assert (entry.detail, entry.by) == (TEXT, TEXT)


def test_x9_what_a_connection_cannot_carry_is_written_in_ascii(outbox, workers):
    flows.troubles[:] = [ValueError(TEXT)] * 3
    outbox.register("x", handler=lambda event: flows.stumble())
    with speaking_latin("default"):
        outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
        with override_settings(
            GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}
        ):
            workers.deliver()
    row = WorkflowDeliveryAttempt.objects.get()
    assert (row.status, row.error) == ("dead_letter", IN_ASCII)
    assert WorkflowHistory.objects.get().detail == f"ValueError: {IN_ASCII}"


def test_x9_an_execution_over_such_a_connection_fails_and_says_why(celery_engine, workers):
    flows.troubles[:] = [ValueError(TEXT)] * 2
    definition = WorkflowDefinition(
        "w", handler=flows.two_steps, retry=Retry(max_attempts=2, base=0)
    )
    execution = celery_engine.start(definition)
    with speaking_latin("default"), acting_as("Zo\xeb \U0001f600"):
        workers.run()
        workers.let_rest_pass()
        workers.run()
    execution = celery_engine.status(execution.execution_id)
    assert (execution.state, execution.error) == ("failed", IN_ASCII)
    [entry] = celery_engine.history(execution.execution_id)
    assert (entry.kind, entry.detail) == ("attempt_failed", IN_ASCII)
