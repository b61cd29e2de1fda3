"""A step, or a delivery, that did nothing in the database costs one round trip to record."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
from django.db import connection, transaction

from general_manager.workflow import WorkflowDefinition, WorkflowEvent, step
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowStep,
)
from general_manager.workflow.models.sql.commits import alone
from general_manager.workflow.outbox.drain import drain
from tests.testapp import plays
from tests.testapp.models import Tag

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.skipif(
        connection.vendor != "postgresql" or find_spec("psycopg") is None,
        reason="Only psycopg 3 begins a transaction before its first statement",
    ),
]


@contextmanager
def traced(tmp_path) -> Iterator[list[str]]:
    """What is sent to the server meanwhile: the first word of each message.

    Over a new connection, on which nothing is prepared: then each statement is one message.
    """
    connection.close()
    connection.ensure_connection()
    sent: list[str] = []
    path = tmp_path / "trace"
    with path.open("w+") as file:
        session = connection.connection.pgconn
        session.trace(os.dup(file.fileno()))
        try:
            yield sent
        finally:
            session.untrace()
    sent += re.findall(r"\tF\t\d+\tQuery\t[\s\"]*(\w+)", path.read_text())


def commits_itself() -> bool:
    return bool(connection.connection.autocommit)


def compute(_):
    step("first", lambda: 1)
    step("second", lambda: 2)


def write(_):
    step("writing", lambda: Tag.objects.create(name="a").pk)


def hook(_):
    step("hooking", lambda: transaction.on_commit(lambda: plays.note("hook")))


def fail_once(_):
    step("failing", plays.stumble)


def started(celery_engine, handler):
    return celery_engine.start(WorkflowDefinition("w", handler=handler)).execution_id


@pytest.fixture(autouse=True)
def _stage():
    plays.reset()


def test_a_step_that_does_nothing_in_the_database_is_recorded_in_one_round_trip(
    celery_engine, tmp_path
):
    key = started(celery_engine, compute)
    with traced(tmp_path) as sent:
        run(key, "default")
    assert sent[-4:] == ["UPDATE", "INSERT", "INSERT", "UPDATE"]
    assert celery_engine.status(key).state == "completed"


def test_a_step_that_writes_is_recorded_in_its_transaction(celery_engine, tmp_path):
    key = started(celery_engine, write)
    with traced(tmp_path) as sent:
        run(key, "default")
    assert sent == ["UPDATE", "BEGIN", "INSERT", "INSERT", "COMMIT", "UPDATE"]
    assert Tag.objects.count() == 1


def test_a_hook_of_such_a_step_runs_after_it_is_recorded(celery_engine, monkeypatch):
    seen = []
    key = started(celery_engine, hook)
    monkeypatch.setattr(plays, "note", lambda name: seen.append(WorkflowStep.objects.count()))
    run(key, "default")
    assert seen == [1]


def test_a_step_that_forgets_earlier_failures_does_so_in_its_transaction(celery_engine, tmp_path):
    key = started(celery_engine, fail_once)
    WorkflowExecutionRecord.objects.update(interruptions=1)
    with traced(tmp_path) as sent:
        run(key, "default")
    assert sent == ["UPDATE", "BEGIN", "INSERT", "UPDATE", "COMMIT", "UPDATE"]
    assert WorkflowExecutionRecord.objects.get().interruptions == 0


def test_a_delivery_to_a_handler_that_does_nothing_there_is_recorded_in_one(outbox, tmp_path):
    outbox.register("x", handler=lambda event: None, registration_id="nothing")
    outbox.register("x", handler=lambda event: Tag.objects.create(name="a"), registration_id="w")
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    with traced(tmp_path) as sent:
        drain("default")
    first = sent.index("INSERT")
    assert sent[first : first + 6] == ["INSERT", "BEGIN", "INSERT", "INSERT", "COMMIT", "UPDATE"]
    assert WorkflowDeliveryAttempt.objects.filter(status="completed").count() == 2


def test_in_a_callers_transaction_nothing_commits_by_itself():
    with transaction.atomic(), alone(connection):
        assert commits_itself()  # ours alone, and nothing was sent yet
    assert connection.get_autocommit()
    with transaction.atomic(), transaction.atomic(), alone(connection):
        assert not commits_itself()
    with transaction.atomic():
        Tag.objects.create(name="a")
        with alone(connection):
            Tag.objects.create(name="b")
        transaction.set_rollback(True)
    assert Tag.objects.count() == 0


def test_a_block_that_is_to_be_rolled_back_commits_nothing():
    with transaction.atomic():
        transaction.set_rollback(True)
        with alone(connection):
            assert not commits_itself()
