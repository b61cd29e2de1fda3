"""A crash of the database undoes commits that did not wait for its disk, and the process lives on.

Played by a session beside it, which takes back what was committed last and ends the other session,
as a server does that comes up again with what its disk has.
"""

from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connection, transaction
from django.test import override_settings

from general_manager.workflow import WorkflowDefinition, WorkflowEvent, report, step, wait_for
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.outbox.drain import drain
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.skipif(
        connection.vendor != "postgresql", reason="Only PostgreSQL lets one commit not wait"
    ),
]

RELAXED = {"WORKFLOW_MODE": "production", "WORKFLOW_SYNCHRONOUS_COMMIT": False}


@pytest.fixture(autouse=True)
def _relaxed(outbox, celery_engine):
    with override_settings(GENERAL_MANAGER=RELAXED):
        yield


def crash(*, undone: list[str]) -> None:
    """The server comes up again without what these statements delete."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [[own]] = cursor.fetchall()
    parameters: Any = connection.get_connection_params()
    names = ("host", "port", "user", "password", "dbname")
    about = {name: parameters[name] for name in names if parameters.get(name)}
    with psycopg.connect(**about, autocommit=True) as other:
        for statement in undone:
            other.execute(statement)
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [own])


def tags() -> list[str]:
    return sorted(Tag.objects.values_list("name", flat=True))


def make(name: str) -> str:
    Tag.objects.create(name=name)
    return name


TAG, STEP, DELIVERY = (
    f"DELETE FROM {model._meta.db_table} WHERE "
    for model in (Tag, WorkflowStep, WorkflowDeliveryAttempt)
)


def publish(registry: Any, *ids: str) -> None:
    registry.publish_many(WorkflowEvent(one, "a.b", {}, event_name="x") for one in ids)


@pytest.mark.parametrize("grouped", [False, True])
def test_k1_a_delivery_that_a_crash_has_undone_is_repeated(outbox, workers, grouped):
    """The worker knows of it, and would settle its entry."""

    def handle(event: WorkflowEvent) -> None:
        make(event.event_id)

    def handle_and_crash(event: WorkflowEvent) -> None:
        if not flows.calls:
            flows.note("crash")
            delivery = f"outbox_id = (SELECT min(id) FROM {WorkflowOutbox._meta.db_table})"
            crash(undone=[f"{TAG} name = 'first'", f"{DELIVERY} {delivery}"])
        make(event.event_id)

    outbox.register("x", handler=handle, registration_id="r", grouped=grouped)
    outbox.register("y", handler=handle_and_crash, registration_id="c", atomic=False)
    publish(outbox, "first")
    outbox.publish(WorkflowEvent("second", "a.b", {}, event_name="y"))
    publish(outbox, "third")
    drain("default")
    for _ in range(3):
        workers.let_rest_pass()
        drain("default")
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}
    assert [name for name in tags() if name != "second"] == ["first", "third"]
    rows = WorkflowDeliveryAttempt.objects.filter(registration_id="r")
    assert sorted(rows.values_list("outbox__event__event_id", "status", "crashes")) == [
        ("first", "completed", 0), ("third", "completed", 0),
    ]  # fmt: skip


def crash_once(data: dict[str, Any]) -> None:
    if not flows.calls:
        flows.note("crash")
        crash(undone=[f"{TAG} name = 'a'", f"{STEP} name = 'a'"])


def crash_between(data: dict[str, Any]) -> dict[str, Any]:
    """After step ``a``, and before what *then* says."""
    report("progress", 1)
    step("a", make, "a")
    if data.get("reports"):
        report("progress", 2)  # written at the end: the first was a moment ago
    crash_once(data)
    if data["then"] == "a step":
        step("b", make, "b")
    elif data["then"] == "a call":
        step("b", make, "b", atomic=False)
    elif data["then"] == "once":
        step("b", make, "b", once=True)
    elif data["then"] == "a wait":
        wait_for("b")
    elif data["then"] == "a failure" and flows.calls == ["crash"]:
        flows.note("failed")
        raise ValueError("after the crash")
    return {"done": True}


@pytest.mark.parametrize("reports", [False, True])
@pytest.mark.parametrize("then", ["a step", "a call", "once", "a wait", "a failure", "the end"])
def test_k1_nothing_is_built_on_a_step_that_a_crash_has_undone(
    celery_engine, workers, then, reports
):
    started = celery_engine.start(
        WorkflowDefinition("w", handler=crash_between), {"then": then, "reports": reports}
    ).execution_id
    run(started, "default")
    assert celery_engine.status(started).state == "pending"
    assert tags() == []
    for _ in range(3):
        workers.let_rest_pass()
        workers.run()
    found = celery_engine.status(started)
    assert found.state == ("waiting" if then == "a wait" else "completed"), found.error
    makes_b = then in ("a step", "a call", "once")
    assert tags() == ["a", *(["b"] if makes_b else [])]
    row = WorkflowExecutionRecord.objects.get()
    assert row.crashes == 0
    names = row.steps.values_list("name", flat=True)
    assert "a" in names


@pytest.mark.parametrize("is_seen", [True, False], ids=["lost", "another error"])
@pytest.mark.parametrize("then", ["a step", "once", "the end"])
def test_k1_a_look_for_a_step_that_fails_itself_is_repeated(celery_engine, workers, then, is_seen):
    """The server is not up again."""
    started = celery_engine.start(
        WorkflowDefinition("w", handler=crash_between), {"then": then}
    ).execution_id
    failed: list[str] = []

    def fail_once(execute: Any, sql: str, *arguments: Any) -> Any:
        if flows.calls and not failed and sql.startswith("SELECT %s") and "workflowstep" in sql:
            failed.append(sql)
            lost = psycopg.OperationalError("server closed the connection unexpectedly")
            raise OperationalError(*lost.args) from (lost if is_seen else None)
        return execute(sql, *arguments)

    with connection.execute_wrapper(fail_once):
        run(started, "default")
    assert failed
    for _ in range(3):
        workers.let_rest_pass()
        workers.run()
    assert celery_engine.status(started).state == "completed"
    assert tags() == ["a", *(["b"] if then != "the end" else [])]


def make_and_crash(name: str) -> str:
    """The commit is made; what follows it finds the session ended, and another begins."""
    if not flows.calls:
        flows.note("crash")
        undone = [f"{TAG} name = 'a'", f"{STEP} name = 'a'", f"{DELIVERY} TRUE"]
        transaction.on_commit(lambda: crash(undone=undone))
    return make(name)


def crash_at_once(data: dict[str, Any]) -> dict[str, Any]:
    step("a", make_and_crash, "a")
    step("b", make, "b")
    return {}


def test_k1_nothing_is_built_on_a_step_that_a_crash_undoes_at_its_commit(celery_engine, workers):
    definition = WorkflowDefinition("w", handler=crash_at_once)
    started = celery_engine.start(definition).execution_id
    run(started, "default")
    for _ in range(3):
        workers.let_rest_pass()
        workers.run()
    assert celery_engine.status(started).state == "completed"
    assert tags() == ["a", "b"]


@pytest.mark.parametrize("grouped", [False, True])
def test_k1_a_delivery_that_a_crash_undoes_at_its_commit_is_repeated(outbox, workers, grouped):
    def handle(event: WorkflowEvent) -> None:
        make_and_crash(event.event_id)

    outbox.register("x", handler=handle, registration_id="r", grouped=grouped)
    publish(outbox, "a", *(["z"] if grouped else []))
    for _ in range(3):
        drain("default")
        workers.let_rest_pass()
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}
    assert [name for name in tags() if name == "a"] == ["a"]
    row = WorkflowDeliveryAttempt.objects.get(outbox__event__event_id="a")
    assert (row.status, row.crashes) == ("completed", 0)


def lose_the_session(data: dict[str, Any]) -> dict[str, Any]:
    step("a", make, "a")
    crash(undone=[])
    step("b", make, "b")
    return {}


def test_k1_a_step_that_survives_the_loss_of_its_session_is_not_repeated(celery_engine):
    definition = WorkflowDefinition("w", handler=lose_the_session)
    started = celery_engine.start(definition).execution_id
    run(started, "default")
    assert celery_engine.status(started).state == "completed"
    assert tags() == ["a", "b"]
