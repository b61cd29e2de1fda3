"""Handlers that fail inside somebody else's transaction."""

import pytest
from django.db import DatabaseError, connection, transaction

from general_manager.workflow import (
    Retry,
    WorkflowDefinition,
    WorkflowEvent,
    step,
    wait_for,
)
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def names():
    return sorted(Tag.objects.values_list("name", flat=True))


def break_the_transaction(*_):
    Tag.objects.create(name="by the handler")
    with connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")


def publish(registry):
    registry.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))


def test_a_failing_event_handler_leaves_the_publishers_transaction_usable(event_registry):
    errors = []
    event_registry.register(
        "x",
        handler=break_the_transaction,
        dead_letter_handler=lambda event, error: errors.append(error),
    )
    with transaction.atomic():
        Tag.objects.create(name="before")
        publish(event_registry)
        Tag.objects.create(name="after")
    assert names() == ["after", "before"]
    assert isinstance(errors[0], DatabaseError)


def test_a_handler_that_is_not_atomic_keeps_what_it_wrote(event_registry):
    def write_and_fail(event):
        Tag.objects.create(name="kept")
        raise ValueError

    event_registry.register("x", handler=write_and_fail, atomic=False)
    with transaction.atomic():
        publish(event_registry)
    assert names() == ["kept"]


def test_a_failing_workflow_leaves_the_callers_transaction_usable(engine):
    with transaction.atomic():
        Tag.objects.create(name="before")
        execution = engine.start(WorkflowDefinition("w", handler=break_the_transaction))
        Tag.objects.create(name="after")
    assert execution.state == "failed"
    assert names() == ["after", "before"]


def test_inside_a_callers_transaction_undone_steps_are_run_again(engine, clock):
    fail = [True]

    def handler(data):
        step("write", lambda: Tag.objects.create(name="written").name)
        if fail.pop():
            fail.append(False)
            raise ValueError("later")

    with transaction.atomic():
        execution = engine.start(WorkflowDefinition("w", handler=handler, retry=Retry(base=1)))
        assert names() == []
        clock.advance(minutes=1)
        assert engine.status(execution.execution_id).state == "completed"
    assert names() == ["written"]


def test_a_wait_inside_a_callers_transaction_keeps_what_was_written(engine):
    def handler(data):
        step("write", lambda: Tag.objects.create(name="written").name)
        wait_for("approval")

    with transaction.atomic():
        assert engine.start(WorkflowDefinition("w", handler=handler)).state == "waiting"
    assert names() == ["written"]


def test_an_atomic_step_that_fails_undoes_its_own_writes_and_no_others(engine, clock):
    def write(name, error=None):
        Tag.objects.create(name=name)
        if error:
            raise error

    def handler(data):
        step("first", write, "first")
        step("second", write, "second", ValueError("no"))

    execution = engine.start(WorkflowDefinition("w", handler=handler))
    assert execution.state == "failed"
    assert names() == ["first"]


def test_a_step_that_is_not_atomic_keeps_what_it_wrote(engine):
    def write_and_fail():
        Tag.objects.create(name="kept")
        raise ValueError

    def handler(data):
        step("write", write_and_fail, atomic=False)

    assert engine.start(WorkflowDefinition("w", handler=handler)).state == "failed"
    assert names() == ["kept"]


def test_cancelling_in_the_middle_of_an_atomic_step_rolls_that_step_back(engine):
    def write_and_cancel():
        Tag.objects.create(name="undone")
        engine.cancel(engine.executions()[0].execution_id)

    execution = engine.start(
        WorkflowDefinition("w", handler=lambda data: step("write", write_and_cancel))
    )
    assert execution.state == "cancelled"
    assert names() == []
