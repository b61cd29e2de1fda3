"""The last statement of our own transaction brings its COMMIT with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.db import IntegrityError, connection, transaction
from django.test import override_settings

from general_manager.workflow import WorkflowDefinition, WorkflowEvent, step
from general_manager.workflow.executions.runner import run
from general_manager.workflow.executions.store import DatabaseRunStore
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.outbox.row import DeliveryRow
from general_manager.workflow.signals import event_delivered
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL can"),
]


def tag(event: Any) -> None:
    Tag.objects.create(name="handled")
    transaction.on_commit(lambda: flows.note("hook"))


def tagged(_: dict[str, Any]) -> None:
    step("first", tag, None)
    flows.note("after")


def publish(outbox: Any, handler: Any = tag, **options: Any) -> None:
    outbox.register("x", handler=handler, registration_id="r", **options)
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))


def start(engine: Any, handler: Any = tagged) -> str:
    return str(engine.start(WorkflowDefinition("w", handler=handler)).execution_id)


@contextmanager
def messages() -> Iterator[list[str]]:
    """Statements, and the commits that are sent by themselves."""
    found: list[str] = []
    own: Any = connection
    commit = own.commit

    def note_commit() -> None:
        if connection.connection.pgconn.transaction_status:
            found.append("COMMIT")
        commit()

    def look(execute: Any, sql: str, *rest: Any) -> Any:
        found.append(sql)
        return execute(sql, *rest)

    own.commit = note_commit
    try:
        with connection.execute_wrapper(look):
            yield found
    finally:
        del own.commit


@pytest.mark.parametrize("waits", [True, False])
def test_a_delivery_and_a_step_are_recorded_and_committed_by_one_message(
    outbox, celery_engine, waits
):
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_SYNCHRONOUS_COMMIT": waits}
    with override_settings(GENERAL_MANAGER=settings):
        publish(outbox)
        execution_id = start(celery_engine)
        with messages() as sent:
            drain("default")
            run(execution_id, "default")
    assert "COMMIT" not in sent
    closing = [sql for sql in sent if sql.endswith("; COMMIT")]
    assert len(closing) == 2
    assert all(("set_config" in sql) == (not waits) for sql in closing)
    assert flows.calls == ["hook", "hook", "after"]
    assert Tag.objects.count() == 2


def test_e5_a_handlers_writes_are_rolled_back_if_its_claim_is_lost(outbox):
    def lose(event: Any) -> None:
        tag(event)
        WorkflowOutbox.objects.update(claim_token="another's")

    publish(outbox, lose)
    drain("default")
    assert not Tag.objects.exists()
    assert not WorkflowDeliveryAttempt.objects.exists()
    assert flows.calls == []


def test_a_delivery_that_is_recorded_already_is_not_committed_again(outbox):
    def record_first(event: Any) -> None:
        [entry] = WorkflowOutbox.objects.all()
        tag(event)
        WorkflowDeliveryAttempt.objects.create(
            outbox=entry, registration_id="r", status="completed", claim_token="another's"
        )

    publish(outbox, record_first)
    drain("default")
    assert not Tag.objects.exists()


def test_x5_a_steps_writes_are_rolled_back_if_its_claim_is_lost(celery_engine):
    def lose() -> None:
        tag(None)
        WorkflowExecutionRecord.objects.update(claim_token="another's")

    execution_id = start(celery_engine, flows.two_steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows, "write", lambda name: lose())
        run(execution_id, "default")
    assert not Tag.objects.exists()
    assert not WorkflowStep.objects.exists()


@contextmanager
def checked_at_the_commit() -> Iterator[None]:
    """A constraint of the project's: names of tags are unique, checked at the commit."""
    table = Tag._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT late UNIQUE (name) DEFERRABLE INITIALLY DEFERRED"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT late")


def test_e7_a_constraint_that_is_checked_at_the_commit_is_the_handlers_failure(outbox):
    with checked_at_the_commit():
        Tag.objects.create(name="handled")
        publish(outbox)
        drain("default")
    [row] = WorkflowDeliveryAttempt.objects.all()
    assert (row.status, row.attempts, row.error_class) == (
        "failed", 1, "django.db.utils.IntegrityError",
    )  # fmt: skip
    assert flows.calls == []


def test_x4_a_constraint_that_is_checked_at_the_commit_is_the_steps_failure(celery_engine):
    caught: list[BaseException] = []

    def handle(_: dict[str, Any]) -> None:
        try:
            step("first", tag, None)
        except IntegrityError as error:
            caught.append(error)

    with checked_at_the_commit(), pytest.MonkeyPatch.context() as patch:
        Tag.objects.create(name="handled")
        execution_id = start(celery_engine, flows.echo)
        patch.setattr(flows, "echo", handle)
        run(execution_id, "default")
    assert len(caught) == 1
    assert WorkflowExecutionRecord.objects.get().state == "completed"


def test_hooks_are_called_if_a_time_limit_follows_the_commit_of_a_delivery(outbox, monkeypatch):
    """It has happened, so whatever waited for the commit happens too, once."""
    add = DeliveryRow.add

    def add_and_stop(self: DeliveryRow, *arguments: Any, **options: Any) -> bool:
        add(self, *arguments, **options)
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(DeliveryRow, "add", add_and_stop)
    told: list[Any] = []
    event_delivered.connect(lambda **_: told.append(1), weak=False, dispatch_uid="told")
    publish(outbox)
    drain("default")
    event_delivered.disconnect(dispatch_uid="told")
    assert told == [1]
    assert WorkflowOutbox.objects.get().status == "processed"
    assert WorkflowDeliveryAttempt.objects.get().status == "completed"
    assert (Tag.objects.count(), flows.calls) == (1, ["hook"])


def test_hooks_are_called_if_the_process_must_end_after_the_commit_of_a_step(
    celery_engine, workers, monkeypatch
):
    finish = DatabaseRunStore.finish

    def finish_and_stop(self: DatabaseRunStore, *arguments: Any, **options: Any) -> None:
        finish(self, *arguments, **options)
        raise SystemExit

    execution_id = start(celery_engine)
    with monkeypatch.context() as patch:
        patch.setattr(DatabaseRunStore, "finish", finish_and_stop)
        with pytest.raises(SystemExit):
            run(execution_id, "default")
    assert (Tag.objects.count(), flows.calls) == (1, ["hook"])
    assert WorkflowStep.objects.get().status == "done"
    WorkflowExecutionRecord.objects.update(state="pending", ready=True, claim_token=None)
    workers.run()
    assert (Tag.objects.count(), flows.calls) == (1, ["hook", "after"])
