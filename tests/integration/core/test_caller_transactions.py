"""Handlers that fail inside somebody else's transaction."""

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.transaction import TransactionManagementError

from general_manager.manager.signals import post_data_change
from general_manager.workflow import (
    Retry,
    WorkflowDefinition,
    WorkflowEvent,
    step,
    wait_for,
)
from general_manager.workflow.signals import event_published
from tests.testapp.models import Person, Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def names():
    return sorted(Tag.objects.values_list("name", flat=True))


def break_the_transaction(*_, **__):
    Tag.objects.create(name="by the handler")
    with connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")


def publish(registry):
    """Handlers run inside the caller's transaction, which `publish` would wait for."""
    registry.publish_sync(WorkflowEvent("1", "a.b", {}, event_name="x"))


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


def test_in_local_mode_a_rollback_undoes_what_a_workflow_wrote_and_not_the_execution(engine):
    flow = WorkflowDefinition("w", handler=lambda data: {"id": Tag.objects.create(name="a").pk})
    with pytest.raises(RuntimeError), transaction.atomic():
        execution = engine.start(flow, correlation_id="key")
        assert (execution.state, names()) == ("completed", ["a"])
        raise RuntimeError
    assert names() == []
    assert engine.status(execution.execution_id) == execution
    assert engine.start(flow, correlation_id="key") == execution
    assert names() == []


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


def test_a_step_that_must_run_once_does_so_inside_a_callers_transaction_too(engine, clock):
    charged: list[int] = []

    def handler(data):
        step("charge", charged.append, 1, once=True, atomic=False)
        if data is not None and len(attempts) < 1:
            attempts.append(1)
            raise ValueError("later")

    attempts: list[int] = []
    with transaction.atomic():
        execution = engine.start(WorkflowDefinition("w", handler=handler, retry=Retry(base=1)))
        clock.advance(minutes=1)
        assert engine.status(execution.execution_id).state == "completed"
    assert charged == [1]


def test_the_budget_of_attempts_ends_though_every_attempt_is_undone(engine, clock):
    def handler(data):
        step("write", lambda: Tag.objects.create(name="undone").name)
        raise ValueError("always")

    retry = Retry(max_attempts=3, base=1, jitter=0)
    with transaction.atomic():
        execution = engine.start(WorkflowDefinition("w", handler=handler, retry=retry))
        for _ in range(2):
            assert execution.state == "pending"
            clock.advance(minutes=1)
            execution = engine.status(execution.execution_id)
    assert execution.state == "failed"
    assert names() == []


def write_and_swallow(*_):
    """What Django would roll back at the end without a word."""
    Tag.objects.create(pk=1, name="lost")
    try:
        Tag.objects.create(pk=1, name="duplicate")
    except DatabaseError:
        return {"made": True}


def test_a_swallowed_database_error_is_not_taken_for_success_in_a_step(engine):
    execution = engine.start(
        WorkflowDefinition("w", handler=lambda data: step("write", write_and_swallow))
    )
    assert execution.state == "failed"
    assert "database error was caught" in execution.error
    assert names() == []


def test_a_swallowed_database_error_is_not_taken_for_success_in_a_handler(event_registry):
    errors = []
    event_registry.register(
        "x",
        handler=write_and_swallow,
        dead_letter_handler=lambda event, error: errors.append(str(error)),
    )
    with transaction.atomic():
        publish(event_registry)
        Tag.objects.create(name="after")
    assert names() == ["after"]
    assert "database error was caught" in errors[0]


def test_a_swallowed_database_error_undoes_a_managers_change_with_an_error():
    def swallow(**_):
        write_and_swallow()

    post_data_change.connect(swallow)
    try:
        with pytest.raises(TransactionManagementError, match="database error was caught"):
            Person.create(name="Ada")
    finally:
        post_data_change.disconnect(swallow)
    assert not Person.all().exists()


def test_a_committed_step_is_done_whatever_an_on_commit_hook_raises(engine, caplog):
    after = []

    def write():
        Tag.objects.create(name="once")
        transaction.on_commit(lambda: 1 / 0)
        transaction.on_commit(lambda: after.append("the next hook"))

    execution = engine.start(WorkflowDefinition("w", handler=lambda data: step("write", write)))
    assert execution.state == "completed"
    assert names() == ["once"]
    assert after == ["the next hook"]
    assert "raised after the commit" in caplog.text


@pytest.mark.parametrize("where", ["when", "retry_on", "dead_letter_handler", "observer"])
def test_whatever_is_called_on_the_side_leaves_the_callers_transaction_usable(
    event_registry, where
):
    def fail(event):
        raise ValueError

    options = {"handler": fail, "retries": 1}
    if where == "observer":
        event_published.connect(break_the_transaction)
    else:
        options[where] = break_the_transaction
    event_registry.register("x", **options)
    try:
        with transaction.atomic():
            publish(event_registry)
            Tag.objects.create(name="after")
    finally:
        event_published.disconnect(break_the_transaction)
    assert "after" in names()


def test_a_hook_called_from_a_workflow_is_not_inside_it(event_registry, engine):
    def fail(event):
        raise ValueError

    event_registry.register(
        "x", handler=fail, dead_letter_handler=lambda event, error: wait_for("a trap")
    )
    execution = engine.start(WorkflowDefinition("w", handler=lambda data: publish(event_registry)))
    assert execution.state == "completed"
