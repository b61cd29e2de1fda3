"""While somebody's long transaction keeps every dead row, claims read no more than they must."""

import json
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection, transaction

from general_manager.workflow import WorkflowDefinition, step, wait_for
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from general_manager.workflow.models.sql import claims
from general_manager.workflow.models.sql.low_water import SLACK, LowWater
from general_manager.workflow.transport import broker
from general_manager.workflow.workers.work import empty

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        connection.vendor != "postgresql", reason="Only there the hint is in the statement"
    ),
]
LEASE = timedelta(minutes=5)
DEAD = 20_000

SETTLED = """WITH events AS (
    INSERT INTO general_manager_workfloweventrecord (event_id, event_type, payload, metadata)
    SELECT n, 'a.b', '{}', '{}' FROM generate_series(1, %s) n RETURNING id)
    INSERT INTO general_manager_workflowoutbox (event_id, expected_registrations, available_at)
    SELECT id, '[]', now() - interval '1 hour' FROM events"""
RUN = """INSERT INTO general_manager_workflowexecutionrecord
    (execution_id, workflow_id, version, state, input_data, metadata, wake_at)
    SELECT 'e' || n, 'w', '1', 'pending', '{}', '{}', now() - interval '1 hour'
    FROM generate_series(1, %s) n"""
DUE = """WITH events AS (
    INSERT INTO general_manager_workfloweventrecord (event_id, event_type, payload, metadata)
    SELECT 'due' || n, 'a.b', '{}', '{}' FROM generate_series(1, 100) n RETURNING id)
    INSERT INTO general_manager_workflowoutbox (event_id, expected_registrations)
    SELECT id, '[]' FROM events"""


@contextmanager
def a_long_transaction():
    """On a connection of its own, with a snapshot of before."""
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM general_manager_workflowoutbox")
        yield
    finally:
        other.close()


def buffers(work):
    """How many pages the scan of what is due reads, in the statement that claims."""
    plans = []

    def explain(execute, sql, parameters, many, context):
        if "SKIP LOCKED" not in sql:
            return execute(sql, parameters, many, context)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", parameters)
            found = cursor.fetchone()[0]
            plans.extend(json.loads(found) if isinstance(found, str) else found)
            transaction.set_rollback(True)
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(explain):
        work()
    [plan] = plans
    [scan] = scans(plan["Plan"])
    return scan["Shared Hit Blocks"] + scan["Shared Read Blocks"]


def scans(node):
    if node.get("Index Name") == "gm_outbox_due":
        yield node
    for inner in node.get("Plans", ()):
        yield from scans(inner)


@pytest.fixture
def hint(monkeypatch):
    hint = LowWater(lambda: 0.0)
    monkeypatch.setattr(claims, "low_water", lambda using, table: hint)
    return hint


@pytest.fixture
def full_of_dead_rows():
    with a_long_transaction(), connection.cursor() as cursor:
        cursor.execute(SETTLED, [DEAD])
        WorkflowOutbox.objects.update(status="processed", available_at=None)
        cursor.execute(DUE)
        cursor.execute("ANALYZE general_manager_workflowoutbox")
        yield


def claim():
    assert WorkflowOutbox.objects.claim(50, lease=LEASE).size == 50


def test_a_claim_after_a_slow_one_does_not_walk_over_the_dead_rows(full_of_dead_rows, hint):
    slow = buffers(claim)  # it finds the first fifty behind twenty thousand dead ones
    hint._valid_until = 1.0  # it was slow, by a clock that this test does not ask
    quick = buffers(claim)
    assert slow > 100
    assert quick < slow / 4, (quick, slow)


def test_what_was_committed_late_is_found_by_the_next_claim_from_the_beginning(hint):
    with connection.cursor() as cursor:
        cursor.execute(DUE)
    claim()
    first = hint._mark
    late = WorkflowOutbox.objects.filter(status="pending")
    late.update(available_at=first - SLACK)
    hint._valid_until = 1.0
    assert WorkflowOutbox.objects.claim(50, lease=LEASE).size in (0, 50)
    hint._valid_until = 0.0
    WorkflowOutbox.objects.filter(status="pending").update(available_at=first - 2 * SLACK)
    left = WorkflowOutbox.objects.filter(status="pending").count()
    assert WorkflowOutbox.objects.claim(50, lease=LEASE).size == left


def pages_of(work):
    """How many pages each statement of *work* reads that finds executions by their keys."""
    found = {}

    def explain(execute, sql, parameters, many, context):
        finds_due = "ORDER BY wake_at" in sql or "wake_at IS NOT NULL" in sql  # from a mark on
        if "workflowexecutionrecord" in sql and not finds_due:
            raw = connection.connection
            before, after = "BEGIN", "ROLLBACK"
            if raw.info.transaction_status:  # our own transactions begin without Django
                before, after = "SAVEPOINT look", "ROLLBACK TO look; RELEASE look"
            with raw.cursor() as cursor:
                cursor.execute(before)
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", parameters)
                plan = cursor.fetchone()[0]
                cursor.execute(after)
            [top] = json.loads(plan) if isinstance(plan, str) else plan
            pages = top["Plan"]["Shared Hit Blocks"] + top["Plan"]["Shared Read Blocks"]
            found[sql] = max(pages, found.get(sql, 0))
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(explain):
        work()
    return found


@pytest.fixture
def full_of_dead_executions():
    rows = WorkflowExecutionRecord.objects
    with a_long_transaction(), connection.cursor() as cursor:
        cursor.execute(RUN, [DEAD])
        rows.update(state="running")
        rows.update(state="waiting", ready=False)
        rows.update(state="pending", ready=True)
        rows.update(state="completed", wake_at=None)
        cursor.execute("ANALYZE general_manager_workflowexecutionrecord")
        yield


def wait_after_a_step(_):
    return {"answer": [step("first", int), wait_for("go")]}


def fail(_):
    raise ValueError("no")


@pytest.mark.parametrize("together", [1, 5])
def test_from_start_to_end_no_statement_walks_over_what_is_dead(
    full_of_dead_executions, celery_engine, monkeypatch, together
):
    monkeypatch.setattr(broker, "has_app", lambda *_: True)
    monkeypatch.setattr(broker, "_publish", lambda *_: None)
    waits = WorkflowDefinition("waits", handler=wait_after_a_step)
    fails = WorkflowDefinition("fails", handler=fail)

    def work():
        keys = [celery_engine.start(waits).execution_id for _ in range(together)]
        keys += [celery_engine.start(fails).execution_id for _ in range(together)]
        empty("default")
        for key in keys[:together]:
            celery_engine.resume(key, 1)
        empty("default")
        celery_engine.cancel(celery_engine.start(waits).execution_id)
        assert {celery_engine.status(key).state for key in keys} == {"completed", "failed"}

    found = pages_of(work)
    assert len(found) > 5
    for sql, pages in found.items():  # an insert of a row reads about forty, of indexes and all
        assert pages < 100 * together + 100, (pages, sql)
