"""Our own bookkeeping does not wait for the disk; whatever others rely on does."""

import re
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import override_settings

from general_manager.workflow import WorkflowDefinition, WorkflowEvent, step, wait_for
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox, WorkflowSignal
from general_manager.workflow.models.executions.claims import give_back, take_ready
from general_manager.workflow.models.sql.due import Share
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.workers.tick import sweep
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.skipif(
        connection.vendor != "postgresql", reason="Only PostgreSQL lets one commit not wait"
    ),
]
LEASE = timedelta(minutes=1)


@pytest.fixture
def claims(outbox, celery_engine):
    """One claim of an entry and one of an execution, each ready to be made."""
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    started = celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    return (
        lambda: WorkflowOutbox.objects.claim(1, lease=LEASE).size,
        lambda: WorkflowExecutionRecord.objects.claim(started.execution_id, lease=LEASE),
    )


def waits_for_disk():
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        return cursor.fetchone() == ("on",)


def check(claim):
    """Make *claim*, in one statement, which waits for the disk only in a transaction."""
    asked = []

    def look(execute, sql, parameters, many, context):
        if "RETURNING" in sql:
            assert sql.endswith("(SELECT set_config('synchronous_commit', 'off', true))") == (
                not connection.in_atomic_block
            )
            asked.append(sql)
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(look):
        assert claim()
    assert len(asked) == 1


def test_a_claim_does_not_wait_for_the_disk_and_what_follows_does(claims):
    for claim in claims:
        check(claim)
        assert waits_for_disk()
        with transaction.atomic():
            assert waits_for_disk()


def test_a_claim_in_a_callers_transaction_leaves_its_commit_alone(claims):
    for claim in claims:
        with transaction.atomic():
            check(claim)
            assert waits_for_disk()


def test_a_settlement_does_not_wait_for_the_disk_and_is_fenced_all_the_same(outbox):
    for number in ("1", "2", "3"):
        outbox.publish(WorkflowEvent(number, "a.b", {}, event_name="x"))
    entries = WorkflowOutbox.objects
    claim = entries.claim(3, lease=LEASE)
    done, dead, failed = claim.together
    outcomes: Any = {"processed": [done], "dead": [dead], "later": {failed: LEASE}}
    assert entries.settle("another", **outcomes) == 0
    statements = []

    def look(execute, sql, parameters, many, context):
        statements.append(sql)
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(look):
        assert entries.settle(claim.token, **outcomes) == 3
    assert len(statements) == 3
    assert all("set_config('synchronous_commit', 'off', true)" in sql for sql in statements)
    assert waits_for_disk()
    states = dict(entries.values_list("pk", "status"))
    assert states == {done: "processed", dead: "dead_letter", failed: "failed"}


RELAXED = {"WORKFLOW_MODE": "production", "WORKFLOW_SYNCHRONOUS_COMMIT": False}
WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE|WITH\b.* (INSERT|UPDATE) )", re.DOTALL)
TABLES = {
    "workflowoutbox": "entry", "workflowdeliveryattempt": "delivery",
    "workflowexecutionrecord": "execution", "workflowstep": "step", "workflowsignal": "signal",
    "workflowqueue": "queue", "testapp_tag": "tag", "workflowhistory": "history",
    "workflowlane": "lane",
}  # fmt: skip


@contextmanager
def commits():
    """Each commit of a write: the table that it wrote last, and whether it waited for the disk."""
    found, written, commit = list[tuple[str, bool]](), list[str](), connection.commit

    def look(execute, sql, parameters, many, context):
        result = execute(sql, parameters, many, context)
        if WRITES.match(sql):
            place = {sql.find(name): kind for name, kind in TABLES.items() if name in sql}
            written.append(place[min(place)])
            if not connection.in_atomic_block:
                found.append((written.pop(), not sql.endswith("'off', true))")))
        return result

    def commit_and_note():
        if written:
            found.append((written[-1], waits_for_disk()))
            written.clear()
        commit()

    with connection.execute_wrapper(look), pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "commit", commit_and_note)
        yield found


def test_renewals_returns_and_the_sweep_do_not_wait_for_the_disk(outbox, celery_engine, workers):
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    claim = WorkflowOutbox.objects.claim(1, lease=LEASE)
    executions = WorkflowExecutionRecord.objects
    running, _ = (celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
                      for _ in range(2))  # fmt: skip
    record = executions.claim(running.execution_id, lease=LEASE)
    assert record is not None
    batch = take_ready(executions.exclude(pk=record.pk), 5, Share(""))
    with commits() as found:
        assert WorkflowOutbox.objects.begin(claim.token, claim.together, lease=LEASE) == 1
        assert WorkflowOutbox.objects.renew(claim.token, claim.together, lease=LEASE) == 1
        assert WorkflowOutbox.objects.release(claim.token, claim.together) == 1
        assert executions.renew(record, lease=LEASE) == 1
        assert give_back(executions, batch.token, batch.calm) == 1
    assert found == [("entry", False)] * 3 + [("execution", False)] * 2
    workers.let_rest_pass()
    with commits() as found:
        assert executions.wake_due(10).ready == 1
    assert found == [("history", False)], "with the history of its death"


def test_a_look_waits_only_if_it_gave_an_answer(celery_engine, workers):
    started = celery_engine.start(WorkflowDefinition("w", handler=wait_twice))
    workers.run()
    for name, waits in (("b", False), ("a", True)):
        with transaction.atomic():
            celery_engine.signal(started.execution_id, name, 1)
            signal = WorkflowSignal.objects.get(name=name)
            transaction.get_connection().run_on_commit.clear()
        workers.let_rest_pass()
        WorkflowSignal.objects.update(available_at="2020-01-01T00:00:00Z")
        with commits() as found:
            sweep()
        looks = [waited for table, waited in found if table == "signal"]
        assert looks == [True, waits], "the first puts the next look of the sweep off"
        assert WorkflowSignal.objects.get(pk=signal.pk).available_at is None


def wait_twice(_: dict[str, Any]) -> None:
    wait_for("a")


@pytest.mark.parametrize("settings", [{"WORKFLOW_MODE": "production"}, RELAXED])
def test_k1_a_delivery_by_a_worker_waits_unless_the_setting_says_otherwise(outbox, settings):
    outbox.register("x", handler=lambda event: Tag.objects.create(name="atomic"))
    outbox.register(
        "x", handler=lambda event: Tag.objects.create(name="not"), atomic=False,
        registration_id="not",
    )  # fmt: skip
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    with override_settings(GENERAL_MANAGER=settings), commits() as found:
        drain("default")
    waits = settings is not RELAXED
    assert found == [
        ("entry", False), ("delivery", waits),
        ("delivery", True), ("tag", True), ("delivery", True), ("entry", False),
        ("entry", False),  # a claim that finds nothing
    ]  # fmt: skip
    assert waits_for_disk()


def test_k1_a_delivery_in_order_waits_whatever_the_setting(outbox):
    """The next one of its key is built on it."""
    outbox.register("x", handler=lambda event: Tag.objects.create(name="atomic"), in_order=True)
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x", ordering_key="k"))
    outbox.publish(WorkflowEvent("2", "a.b", {}, event_name="x", ordering_key="k"))
    with override_settings(GENERAL_MANAGER=RELAXED), commits() as found:
        drain("default")
    assert [waited for table, waited in found if table == "delivery"] == [True] * 2
    assert Tag.objects.count() == 2


def test_k1_a_retried_delivery_need_not_wait_and_its_failure_does(outbox, workers):
    flows.troubles.append(ValueError("once"))
    outbox.register("x", handler=lambda event: flows.stumble())
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    with override_settings(GENERAL_MANAGER=RELAXED):
        drain("default")
        workers.let_rest_pass()
        with commits() as found:
            drain("default")
    assert [waited for table, waited in found if table == "delivery"] == [False]
    assert WorkflowOutbox.objects.get().status == "processed"


@override_settings(GENERAL_MANAGER=RELAXED)
def test_k1_what_comes_from_outside_waits_whatever_the_setting(outbox, celery_engine, workers):
    outbox.register("x", handler=flows.start_from_event)
    with commits() as found:
        outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
        outbox.publish_sync(WorkflowEvent("2", "a.b", {}, event_name="x"))
        started = celery_engine.start(WorkflowDefinition("w", handler=wait_twice))
    assert [one for one in found if not one[1]] == [("entry", False)] * 2, "begin and settle"
    run(started.execution_id, "default")
    with commits() as found:
        celery_engine.signal(started.execution_id, "later", 1)
        celery_engine.resume(started.execution_id, "yes")
        celery_engine.cancel(celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
                             .execution_id)  # fmt: skip
    assert [one for one in found if not one[1]] == [("signal", False)], "a look that found nothing"


def test_k1_a_callers_transaction_waits_whatever_the_setting(outbox, celery_engine):
    started = celery_engine.start(WorkflowDefinition("w", handler=steps_of_every_kind))
    with override_settings(GENERAL_MANAGER=RELAXED), commits() as found, transaction.atomic():
        run(started.execution_id, "default")
    assert [waited for _, waited in found] == [True]


def steps_of_every_kind(_: dict[str, Any]) -> dict[str, Any]:
    step("first", make_tag)
    step("second", make_tag)
    step("outside", flows.note, "outside", atomic=False)
    step("again", flows.note, "again", atomic=False)
    step("once", make_tag, once=True)
    step("last", make_tag)
    return {}


def make_tag() -> int:
    return Tag.objects.create(name="step").pk


@pytest.mark.parametrize("settings", [{"WORKFLOW_MODE": "production"}, RELAXED])
def test_k1_atomic_steps_wait_only_before_a_call_outside_of_the_database(celery_engine, settings):
    started = celery_engine.start(WorkflowDefinition("w", handler=steps_of_every_kind))
    with override_settings(GENERAL_MANAGER=settings), commits() as found:
        run(started.execution_id, "default")
    waits = settings is not RELAXED
    assert found == [
        ("execution", False),
        ("step", waits), ("step", waits),
        *([] if waits else [("execution", True)]),  # or a crash after the call could undo them
        ("step", True), ("step", True),
        ("step", True), ("step", True),  # begun and done: `once` is never left in doubt for speed
        ("step", waits), ("execution", True),
    ]  # fmt: skip
    assert celery_engine.status(started.execution_id).state == "completed"
