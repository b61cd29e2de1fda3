"""Each unit of work begins on a sound connection, whatever was done with it before."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from celery.exceptions import SoftTimeLimitExceeded
from django.db import DatabaseError, connection, connections, transaction
from django.utils import timezone

from general_manager.workflow import (
    PermanentFailure,
    Retry,
    RetryAfter,
    WorkflowDefinition,
    WorkflowEvent,
    current_execution_id,
    get_workflow_engine,
    publish_sync,
    sleep,
    step,
    wait_for,
)
from general_manager.workflow.core.connections import IDLE_SECONDS, persist, refresh, unit_of_work
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.models.step import StepQuerySet
from general_manager.workflow.outbox.drain import deliver, drain
from general_manager.workflow.transport.base import TICK, WORK
from tests.integration.conftest import data_statements
from tests.integration.core.test_lost_connections import as_a_worker
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture(autouse=True)
def _nothing_left():
    flows.calls.clear()
    flows.troubles.clear()
    yield
    for one in connections.all(initialized_only=True):
        one.in_atomic_block = False
        one.close()


def make_event(event_id="1"):
    return WorkflowEvent(event_id, "a.b", {}, event_name="x")


def leave_autocommit_off():
    transaction.set_autocommit(False)
    Tag.objects.create(name="left open")


def begin_raw():
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT 1")


def never_leave_an_atomic_block():
    transaction.atomic().__enter__()
    Tag.objects.create(name="left open")


def break_the_transaction():
    transaction.atomic().__enter__()
    with pytest.raises(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")


def turn_it_off_behind_djangos_back():
    connection.ensure_connection()
    if connection.vendor == "mysql":
        connection.connection.autocommit(False)
    elif connection.vendor == "postgresql":
        connection.connection.autocommit = False
    else:
        connection.connection.isolation_level = "DEFERRED"


def be_struck_in_commit():
    """As by a time limit that strikes in COMMIT: Django cannot set autocommit back."""
    wrapper: Any = connection

    def strike():
        wrapper.set_autocommit = refuse
        raise SoftTimeLimitExceeded

    def refuse(*_, **__):
        raise DatabaseError("a transaction is in progress")

    wrapper._commit = strike
    try:
        with pytest.raises(DatabaseError), transaction.atomic():
            Tag.objects.create(name="left open")
    finally:
        del wrapper._commit, wrapper.set_autocommit


WRAPPER: Any = type(connections["default"])
SPOILERS = [
    leave_autocommit_off,
    begin_raw,
    never_leave_an_atomic_block,
    break_the_transaction,
    turn_it_off_behind_djangos_back,
    be_struck_in_commit,
]


def seen_by_others():
    """What is committed: asked over another connection."""
    connection.close()
    return sorted(Tag.objects.values_list("name", flat=True))


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_task_of_ours_works_whatever_an_earlier_task_left_behind(
    outbox, celery_engine, spoil, caplog
):
    outbox.register("x", handler=lambda event: flows.write("delivered"))
    outbox.publish(make_event())
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.two_steps))
    spoil()
    as_a_worker(WORK, "default")
    assert "Discarding the connection" in caplog.text
    assert seen_by_others() == ["delivered", "first", "second"]
    assert celery_engine.status(execution.execution_id).state == "completed"
    assert WorkflowOutbox.objects.get().status == "processed"
    spoil()
    as_a_worker(TICK)
    connection.close()
    assert Tag.objects.count() == 3


@pytest.mark.parametrize(
    "spoil", [leave_autocommit_off, begin_raw, turn_it_off_behind_djangos_back]
)
def test_what_one_handler_leaves_behind_harms_none_after_it(outbox, workers, spoil):
    outbox.register("x", handler=lambda event: spoil(), atomic=False, registration_id="spoils")
    outbox.register(
        "x", handler=lambda event: flows.write(event.event_id), registration_id="writes"
    )
    for number in range(3):
        outbox.publish(make_event(str(number)))
    workers.deliver()
    assert seen_by_others() == ["0", "1", "2"]
    rows = WorkflowDeliveryAttempt.objects.filter(registration_id="writes")
    assert set(rows.values_list("status", flat=True)) == {"completed"}


def test_a_handler_that_returns_with_open_work_has_failed_and_says_on_which_database(
    outbox, workers
):
    outbox.register("x", handler=lambda event: leave_autocommit_off(), atomic=False)
    outbox.publish(make_event())
    workers.deliver()
    assert seen_by_others() == []
    row = WorkflowDeliveryAttempt.objects.get()
    assert row.status == "failed"
    assert "open transaction on database 'default'" in row.error


def leave_only_the_flag():
    transaction.set_autocommit(False)
    Tag.objects.create(name="committed")
    transaction.commit()


def step_that_leaves_autocommit_off(input_data):
    step("flag", leave_only_the_flag, atomic=False)
    step("after", flows.write, "after")


def test_a_step_that_leaves_autocommit_off_but_nothing_open_is_done(celery_engine):
    execution = celery_engine.start(
        WorkflowDefinition("w", handler=step_that_leaves_autocommit_off)
    )
    as_a_worker(WORK, "default")
    assert seen_by_others() == ["after", "committed"]
    assert celery_engine.status(execution.execution_id).state == "completed"


def step_that_leaves_its_work_open(input_data):
    step("open", leave_autocommit_off, atomic=False)


def test_a_step_whose_work_is_left_open_has_failed_and_is_not_taken_for_done(celery_engine):
    execution = celery_engine.start(WorkflowDefinition("w", handler=step_that_leaves_its_work_open))
    as_a_worker(WORK, "default")
    failed = celery_engine.status(execution.execution_id)
    assert failed.state == "failed"
    assert "step 'open' returned with an open transaction" in failed.error
    assert not WorkflowStep.objects.exists()
    assert seen_by_others() == []


def test_a_unit_in_a_callers_transaction_leaves_that_alone(outbox):
    outbox.register("x", handler=lambda event: flows.write("by the handler"))
    with transaction.atomic():
        Tag.objects.create(name="by the caller")
        assert publish_sync(make_event())
        assert connection.in_atomic_block
    assert seen_by_others() == ["by the caller", "by the handler"]


def test_a_task_that_is_called_by_another_leaves_the_callers_transaction_alone(outbox):
    outbox.register("x", handler=lambda event: flows.write("by the handler"))
    outbox.publish(make_event())
    with transaction.atomic():
        Tag.objects.create(name="by the caller")
        current_app.tasks[WORK]("default")
    assert seen_by_others() == ["by the caller", "by the handler"]


def test_looking_at_a_connection_that_works_costs_no_statement(celery_engine):
    connection.ensure_connection()
    with unit_of_work(outermost=True):
        pass
    with data_statements() as statements, unit_of_work(outermost=True):
        refresh(connection)
        persist("default", lambda: None)
    assert statements == []


def test_a_connection_is_asked_after_idleness_or_an_error_only(monkeypatch):
    asked = []

    def ask():
        asked.append(1)
        return True

    wrapper: Any = connections["default"]
    wrapper.ensure_connection()
    refresh(connection)
    monkeypatch.setattr(wrapper, "is_usable", ask)
    refresh(connection)
    assert asked == []
    connection.errors_occurred = True
    refresh(connection)
    assert (len(asked), connection.errors_occurred) == (1, False)
    wrapper._general_manager_used -= IDLE_SECONDS + 1
    refresh(connection)
    assert len(asked) == 2


# Delivered is delivered


@pytest.mark.parametrize("atomic", [True, False])
def test_what_a_hook_raises_after_the_commit_undoes_no_delivery(outbox, workers, atomic, caplog):
    after = []

    def handle(event):
        flows.note(event.event_id)
        with transaction.atomic():
            Tag.objects.create(name=event.event_id)
            if atomic:
                transaction.on_commit(lambda: 1 / 0)
            transaction.on_commit(lambda: after.append(event.event_id))

    outbox.register("x", handler=handle, atomic=atomic)
    for number in range(3):
        outbox.publish(make_event(str(number)))
    workers.deliver()
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}
    assert flows.calls == after == ["0", "1", "2"]
    assert ("raised after the commit" in caplog.text) is atomic


def step_with_a_raising_hook(input_data):
    step("first", write_with_a_raising_hook)
    step("second", flows.write, "second")


def write_with_a_raising_hook():
    flows.write("first")
    transaction.on_commit(lambda: 1 / 0)


def test_what_a_hook_raises_after_a_steps_commit_undoes_nothing(celery_engine, workers):
    execution = celery_engine.start(WorkflowDefinition("w", handler=step_with_a_raising_hook))
    workers.run()
    assert celery_engine.status(execution.execution_id).state == "completed"
    assert flows.calls == ["first", "second"]


def test_a_failure_to_leave_a_committed_transaction_is_not_taken_for_a_failure(
    outbox, workers, monkeypatch
):
    """On MariaDB that is a statement of its own, which may find the connection gone."""
    real, after = WRAPPER._set_autocommit, []

    def stumble(self, autocommit):
        if autocommit and flows.calls and not after:
            after.append("stumbled")
            raise DatabaseError("gone")
        return real(self, autocommit)

    def handle(event):
        flows.write(event.event_id)
        transaction.on_commit(lambda: after.append("hook"))

    outbox.register("x", handler=handle)
    outbox.publish(make_event())
    monkeypatch.setattr(WRAPPER, "_set_autocommit", stumble)
    workers.deliver()
    assert flows.calls == ["1"]
    assert after == ["stumbled", "hook"]
    assert WorkflowOutbox.objects.get().status == "processed"


def test_what_cannot_be_committed_is_the_handlers_failure(outbox, workers, monkeypatch):
    """A constraint that is checked there, say."""
    real = WRAPPER._commit

    def refuse(self):
        if flows.calls:
            flows.calls.clear()
            raise DatabaseError("a constraint")
        return real(self)

    outbox.register("x", handler=lambda event: flows.write(event.event_id))
    outbox.publish(make_event())
    monkeypatch.setattr(WRAPPER, "_commit", refuse)
    workers.deliver()
    row = WorkflowDeliveryAttempt.objects.get()
    assert (row.status, row.error) == ("failed", "a constraint")


# Whose failure it is


def deadlock():
    error = DatabaseError("deadlock detected")
    cause = Exception()
    cause.sqlstate = "40P01"  # type: ignore[attr-defined]
    error.__cause__ = cause
    return error


def test_a_deadlock_in_an_atomic_handler_is_tried_again_and_is_no_failure(outbox, workers):
    def handle(event):
        flows.write(event.event_id)
        flows.stumble()

    flows.troubles.append(deadlock())
    outbox.register("x", handler=handle)
    outbox.publish(make_event())
    workers.deliver()
    row = WorkflowDeliveryAttempt.objects.get()
    assert (row.status, row.first_failed_at) == ("completed", None)
    assert seen_by_others() == ["1"]


def test_a_deadlock_that_never_ends_comes_to_an_end(outbox, celery_engine, workers):
    outbox.register("x", handler=lambda event: flows.stumble())
    outbox.publish(make_event())
    execution = celery_engine.start(WorkflowDefinition("w", handler=stumble_in_a_step))
    flows.troubles += [deadlock() for _ in range(200)]
    for _ in range(30):
        workers.let_rest_pass()
        workers.deliver()
        workers.run()
    assert WorkflowDeliveryAttempt.objects.get().status == "dead_letter"
    failed = celery_engine.status(execution.execution_id)
    assert (failed.state, failed.error) == ("failed", "deadlock detected")
    assert WorkflowExecutionRecord.objects.get().crashes == 0


def stumble_in_a_step(input_data):
    step("stumble", stumble_and_write)
    return {"done": True}


def stumble_and_write():
    flows.stumble()
    flows.write("stepped")


def test_a_deadlock_in_a_step_leaves_the_execution_to_another_run(celery_engine, workers):
    flows.troubles.append(deadlock())
    execution = celery_engine.start(WorkflowDefinition("w", handler=stumble_in_a_step))
    workers.run()
    row = WorkflowExecutionRecord.objects.get()
    assert (row.state, row.attempts, row.crashes, row.interruptions) == ("pending", 0, 0, 1)
    assert [entry.kind for entry in celery_engine.history(execution.execution_id)] == [
        "interrupted"
    ]
    workers.let_rest_pass()
    workers.run()
    row.refresh_from_db()
    assert (row.state, row.interruptions) == ("completed", 0)
    assert seen_by_others() == ["stepped"]


def test_a_database_error_of_the_handlers_own_is_its_failure(outbox, celery_engine, workers):
    outbox.register("x", handler=lambda event: flows.break_the_transaction({}))
    outbox.publish(make_event())
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.break_the_transaction))
    workers.deliver()
    workers.run()
    assert WorkflowDeliveryAttempt.objects.get().status == "failed"
    assert celery_engine.status(execution.execution_id).state == "failed"


def test_a_verdict_stands_whatever_the_database_did(outbox, workers):
    def handle(event):
        try:
            raise deadlock()
        except DatabaseError:
            raise PermanentFailure("the card is invalid") from None

    outbox.register("x", handler=handle)
    outbox.publish(make_event())
    workers.deliver()
    assert WorkflowDeliveryAttempt.objects.get().status == "dead_letter"


STRANGE = [
    asyncio.CancelledError("a task was cancelled"),
    BaseExceptionGroup("several", [asyncio.CancelledError(), ValueError()]),
    GeneratorExit("a generator"),
]


@pytest.mark.parametrize("error", STRANGE)
def test_whatever_the_handlers_code_raises_is_an_ordinary_failure(
    outbox, celery_engine, workers, error
):
    heard = []
    outbox.register(
        "x",
        handler=lambda event: flows.stumble() if event.event_id == "1" else flows.note("next"),
        dead_letter_handler=lambda event, error: heard.append(error),
    )
    flows.troubles += [error, error]
    outbox.publish_many([make_event("1"), make_event("2")])
    execution = celery_engine.start(
        WorkflowDefinition("w", handler=flows.two_steps, retry=Retry(base=1, jitter=0))
    )
    workers.deliver()
    workers.run()
    assert flows.calls == ["next", "first"]
    first = WorkflowDeliveryAttempt.objects.get(outbox__event__event_id="1")
    assert (first.status, first.error) == ("failed", str(error))
    row = WorkflowExecutionRecord.objects.get()
    assert (row.state, row.attempts, row.crashes) == ("pending", 1, 0)
    for _ in range(2):
        flows.troubles.append(error)
        workers.let_rest_pass()
        workers.deliver()
    assert heard == [error]
    workers.let_rest_pass()
    workers.run()
    assert celery_engine.status(execution.execution_id).state == "completed"


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_what_ends_the_process_releases_the_rest_of_its_chunk_at_once(
    outbox, celery_engine, workers, error, monkeypatch
):
    sent = []

    def send(task, arguments, app=None, *, queue=""):
        sent.append(arguments)
        return True

    monkeypatch.setattr("general_manager.workflow.transport.broker.send", send)
    outbox.register("x", handler=lambda event: flows.stumble() if event.event_id == "1" else None)
    outbox.publish_many([make_event(str(number)) for number in range(4)])
    flows.troubles.append(error)
    with pytest.raises(type(error)):
        workers.deliver()
    states = dict(WorkflowOutbox.objects.values_list("event__event_id", "status"))
    assert states == {"0": "processed", "1": "claimed", "2": "pending", "3": "pending"}
    ids = [
        celery_engine.start(WorkflowDefinition("w", handler=flows.two_steps)).execution_id
        for _ in range(3)
    ]
    sent.clear()
    flows.troubles.append(error)
    with pytest.raises(type(error)):
        as_a_worker(WORK, "default")
    assert sent == [["default", ""]]
    ready = WorkflowExecutionRecord.objects.runnable().filter(claim_token=None)
    assert sorted(ready.values_list("execution_id", flat=True)) == sorted(ids[1:])


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([ValueError("a"), PermanentFailure("b")], "dead_letter"),
        ([ValueError("a"), ExceptionGroup("inner", [PermanentFailure("b")])], "dead_letter"),
        ([RetryAfter(5), PermanentFailure("b")], "dead_letter"),
        ([RetryAfter(5), ValueError("a"), RetryAfter(3000)], "failed"),
    ],
)
def test_a_verdict_in_an_exception_group_is_recognised(
    outbox, celery_engine, workers, errors, status
):
    group = ExceptionGroup("several", errors)
    outbox.register("x", handler=lambda event: flows.stumble())
    outbox.publish(make_event())
    flows.troubles += [group, group]
    workers.deliver()
    delivery = WorkflowDeliveryAttempt.objects.get()
    assert delivery.status == status
    celery_engine.start(WorkflowDefinition("w", handler=flows.two_steps, retry=Retry(base=1)))
    workers.run()
    row = WorkflowExecutionRecord.objects.get()
    assert row.state == ("failed" if status == "dead_letter" else "pending")
    if status == "failed":
        for due in (delivery.available_at, row.wake_at):
            assert due is not None
            assert timedelta(minutes=45) < due - timezone.now() < timedelta(minutes=55)


# A soft time limit may strike anywhere


def test_a_time_limit_in_a_handler_is_its_failure_and_the_rest_is_released(outbox, workers):
    outbox.register("x", handler=lambda event: flows.stumble() if event.event_id == "1" else None)
    outbox.publish_many([make_event(str(number)) for number in range(4)])
    flows.troubles.append(SoftTimeLimitExceeded())
    claim = WorkflowOutbox.objects.claim(9, lease=timedelta(minutes=5), begin=9)
    deliver("default", claim.token, claim.together, is_started=True)
    states = dict(WorkflowOutbox.objects.values_list("event__event_id", "status"))
    assert states == {"0": "processed", "1": "failed", "2": "pending", "3": "pending"}


def test_a_time_limit_after_a_commit_undoes_nothing(outbox, workers):
    def handle(event):
        flows.write(event.event_id)
        transaction.on_commit(strike)

    def strike():
        raise SoftTimeLimitExceeded

    outbox.register("x", handler=handle)
    outbox.publish_many([make_event("0"), make_event("1")])
    claim = WorkflowOutbox.objects.claim(9, lease=timedelta(minutes=5), begin=9)
    deliver("default", claim.token, claim.together, is_started=True)
    states = dict(WorkflowOutbox.objects.values_list("event__event_id", "status"))
    assert states == {"0": "processed", "1": "pending"}


def test_a_time_limit_in_our_own_commit_charges_nobody(outbox, celery_engine, workers, monkeypatch):
    real, strikes = WRAPPER._commit, []

    def strike_once(self):
        if flows.calls and not strikes:
            strikes.append(1)
            raise SoftTimeLimitExceeded
        return real(self)

    outbox.register("x", handler=lambda event: flows.write(event.event_id))
    outbox.publish(make_event())
    monkeypatch.setattr(WRAPPER, "_commit", strike_once)
    workers.deliver()
    workers.let_rest_pass()
    workers.deliver()
    row = WorkflowDeliveryAttempt.objects.get()
    assert (row.status, row.first_failed_at, row.crashes) == ("completed", None, 0)
    assert seen_by_others() == ["1"]


# What must be durable refuses to live in somebody else's transaction


@transaction.atomic
def wait_in_a_transaction(input_data):
    return {"answer": wait_for("answer", ask=lambda: flows.note("asked"))}


@transaction.atomic
def sleep_in_a_transaction(input_data):
    sleep("a while", timedelta(hours=1))


@transaction.atomic
def charge_in_a_transaction(input_data):
    step("charge", flows.note, "charged", once=True)


@transaction.atomic
def note_in_a_transaction(input_data):
    step("note", flows.note, "noted", atomic=False)


def wait_without_autocommit(input_data):
    transaction.set_autocommit(False)
    wait_for("answer")


def wait_behind_a_raw_begin(input_data):
    begin_raw()
    wait_for("answer")


UNDURABLE = [
    wait_in_a_transaction,
    sleep_in_a_transaction,
    charge_in_a_transaction,
    note_in_a_transaction,
    wait_without_autocommit,
    wait_behind_a_raw_begin,
]


@pytest.mark.parametrize("handler", UNDURABLE)
def test_what_must_be_remembered_is_refused_in_a_handlers_own_transaction(
    celery_engine, workers, handler
):
    execution = celery_engine.start(WorkflowDefinition("w", handler=handler))
    workers.run()
    failed = celery_engine.status(execution.execution_id)
    assert failed.state == "failed"
    assert "inside a transaction that the handler opened" in failed.error
    assert flows.calls == []
    assert WorkflowExecutionRecord.objects.get().runs == 1
    assert not WorkflowStep.objects.exists()


@pytest.mark.parametrize("handler", UNDURABLE)
def test_the_local_engine_refuses_it_too(engine, handler):
    failed = engine.start(WorkflowDefinition("w", handler=handler))
    assert failed.state == "failed"
    assert "inside a transaction that the handler opened" in failed.error
    assert flows.calls == []


def atomic_step_in_a_transaction(input_data):
    with transaction.atomic():
        step("write", flows.write, "written")


def test_an_atomic_step_may_be_part_of_the_handlers_transaction(celery_engine, workers):
    execution = celery_engine.start(WorkflowDefinition("w", handler=atomic_step_in_a_transaction))
    workers.run()
    assert celery_engine.status(execution.execution_id).state == "completed"
    assert seen_by_others() == ["written"]


# An execution that cancels itself


def cancel_in_a_step(input_data):
    step("first", flows.write, "first")
    step("cancel", write_and_cancel)
    flows.note("after")


def write_and_cancel():
    flows.write("undone")
    get_workflow_engine().cancel(str(current_execution_id()), reason="enough")


def cancel_outside_of_a_transaction(input_data):
    step("cancel", write_and_cancel, atomic=False)
    flows.note("after")


@pytest.mark.parametrize(
    ("handler", "written"),
    [(cancel_in_a_step, ["first"]), (cancel_outside_of_a_transaction, ["undone"])],
)
def test_an_execution_that_cancels_itself_in_a_step_is_cancelled(
    celery_engine, workers, handler, written
):
    execution = celery_engine.start(WorkflowDefinition("w", handler=handler))
    for _ in range(3):
        workers.run()
        workers.let_rest_pass()
    cancelled = celery_engine.status(execution.execution_id)
    assert (cancelled.state, cancelled.metadata["cancel_reason"]) == ("cancelled", "enough")
    assert seen_by_others() == written
    assert "after" not in flows.calls
    assert WorkflowExecutionRecord.objects.get().runs == 1


# One lost claim among others


def test_a_claim_that_is_lost_for_one_entry_stops_no_other(outbox, caplog):
    def lose_the_second(event):
        flows.write(event.event_id)
        if event.event_id == "0":
            WorkflowOutbox.objects.filter(event__event_id="1").release_claims()

    outbox.register("x", handler=lose_the_second, atomic=False)
    outbox.publish_many([make_event(str(number)) for number in range(3)])
    claim = WorkflowOutbox.objects.claim(9, lease=timedelta(minutes=5), begin=9)
    deliver("default", claim.token, claim.together, is_started=True)
    assert "was lost" in caplog.text
    states = dict(WorkflowOutbox.objects.values_list("event__event_id", "status"))
    assert states == {"0": "processed", "1": "pending", "2": "processed"}


def test_a_chunk_that_cannot_be_loaded_is_given_back(outbox, monkeypatch):
    outbox.register("x", handler=lambda event: flows.note(event.event_id))
    outbox.publish(make_event())

    def stumble(execute, sql, *rest):
        if sql.startswith("SELECT") and "JOIN" in sql:
            raise DatabaseError("no")
        return execute(sql, *rest)

    with connection.execute_wrapper(stumble), pytest.raises(DatabaseError):
        drain("default")
    assert WorkflowOutbox.objects.get().status == "pending"


def test_a_run_in_the_middle_of_a_callers_transaction_is_part_of_it(celery_engine):
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.two_steps))
    with transaction.atomic():
        assert run(execution.execution_id, "default")
        transaction.set_rollback(True)
    assert celery_engine.status(execution.execution_id).state == "pending"


def test_a_once_step_that_was_begun_and_not_called_is_not_in_doubt(
    celery_engine, workers, monkeypatch
):
    """The run that was interrupted knows that: nobody has to find out."""
    real, lost = StepQuerySet.add, []

    def add_and_lose_the_answer(self, *arguments, **values):
        added = real(self, *arguments, **values)
        if values.get("status") == "started" and not lost:
            lost.append(1)
            raise RuntimeError("no answer")
        return added

    monkeypatch.setattr(StepQuerySet, "add", add_and_lose_the_answer)
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.charge_once))
    workers.run()
    assert flows.calls == []
    workers.let_rest_pass()
    workers.run()
    assert flows.calls == ["charge"]
    assert celery_engine.status(execution.execution_id).state == "completed"
