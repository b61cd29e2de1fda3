"""A delivery or a step that cannot be recorded, or committed, leaves none of its writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from general_manager.workflow import WorkflowDefinition, WorkflowEvent, step
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.models.sql import guarded
from general_manager.workflow.models.sql.commits import alone
from general_manager.workflow.outbox.drain import drain
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


def test_x5_a_step_whose_claim_is_lost_is_no_failure_to_its_handler(celery_engine):
    """Another worker has the execution, so this one must not act on a failure."""

    def lose() -> None:
        Tag.objects.create(name="x")
        steal = WorkflowExecutionRecord.objects.update

        def steal_and_close() -> None:
            steal(claim_token="another's")
            connection.close()

        thread = Thread(target=steal_and_close)
        thread.start()
        thread.join()

    def handle(_: dict[str, Any]) -> None:
        try:
            step("first", lose)
        except Exception:
            flows.note("refund")

    execution_id = start(celery_engine, flows.echo)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows, "echo", handle)
        run(execution_id, "default")
    assert flows.calls == []
    assert not Tag.objects.exists()


def test_a_hook_of_a_handler_that_did_nothing_in_the_database_waits_for_a_commit_of_its_own(
    outbox, monkeypatch
):
    """A statement that commits by itself may do so unseen, if a time limit interrupts it."""
    seen: list[bool] = []
    real = alone

    def look(own: Any) -> Any:
        block = real(own)
        seen.append(block._raw is not None)
        return block

    monkeypatch.setattr(guarded, "alone", look)
    publish(outbox, lambda _: transaction.on_commit(lambda: flows.note("hook")))
    drain("default")
    assert (seen, flows.calls) == ([False], ["hook"])


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


@contextmanager
def refusing_at_the_commit() -> Iterator[None]:
    """A trigger of the project's, which runs at the commit."""
    table = Tag._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'late'; END $$"
        )
        cursor.execute(
            f"CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {table} "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TRIGGER late ON {table}")
            cursor.execute("DROP FUNCTION refuse")


def test_e7_a_trigger_that_raises_at_the_commit_is_the_handlers_failure(outbox):
    with refusing_at_the_commit():
        publish(outbox)
        drain("default")
    [row] = WorkflowDeliveryAttempt.objects.all()
    assert (row.status, row.attempts) == ("failed", 1)
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
