"""Every write asks whether it may: what is not held any more, or is over, is left as it is."""

from datetime import timedelta
from threading import Event

import pytest
from django.db import DataError, connection, transaction
from django.utils import timezone

from general_manager.workflow import (
    PermanentFailure,
    WorkflowDefinition,
    WorkflowEvent,
    WorkflowInvalidStateError,
    step,
)
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.durable.stops import StopRun, Suspended
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.executions.runner import run
from general_manager.workflow.executions.store import DatabaseRunStore
from general_manager.workflow.models import (
    DeliveryStatus,
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.models.sql.columns import from_now
from general_manager.workflow.outbox.drain import deliver, drain
from tests.integration.outbox.test_races import PATIENCE, race
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
LEASE = timedelta(minutes=5)
NOBODY = "0" * 32


has_row_locks = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="There, one writer excludes all others"
)


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()


@pytest.fixture
def held(outbox):
    """A claim on one entry, and the entry's key."""
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    claim = WorkflowOutbox.objects.claim(1, lease=LEASE, begin=1)
    return claim.token, claim.together[0]


@pytest.fixture
def running(celery_engine):
    """An execution, as the run knows it that claimed it."""
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    record = WorkflowExecutionRecord.objects.claim(execution.execution_id, lease=LEASE)
    assert record is not None
    return record


def take_over(record):
    """As the sweep and another worker do."""
    WorkflowExecutionRecord.objects.filter(pk=record.pk).update(claim_token=NOBODY)


# Entries of the outbox


@pytest.mark.parametrize(
    "write",
    [
        lambda entries, token, key: entries.settle(token, processed=[key]),
        lambda entries, token, key: entries.settle(token, dead=[key]),
        lambda entries, token, key: entries.settle(token, later={key: LEASE}),
        lambda entries, token, key: entries.release(token, [key]),
        lambda entries, token, key: entries.renew(token, [key], lease=LEASE * 9),
        lambda entries, token, key: entries.begin(token, [key], lease=LEASE * 9),
    ],
)
def test_e5_nothing_is_written_to_an_entry_that_another_has(held, write):
    token, key = held
    entries = WorkflowOutbox.objects
    entries.update(claim_token=NOBODY, started=False)
    before = entries.values().get()
    assert write(entries, token, key) == 0
    assert entries.values().get() == before


def test_e5_nor_to_an_entry_that_was_settled_meanwhile(held):
    token, key = held
    entries = WorkflowOutbox.objects
    entries.update(status="processed", available_at=None)
    assert entries.settle(token, later={key: LEASE}) == 0
    assert entries.release(token, [key]) == 0
    assert entries.get().status == "processed"


# Deliveries


def test_e5_a_settled_delivery_is_not_written_again(held):
    token, key = held
    rows = WorkflowDeliveryAttempt.objects
    for status in (DeliveryStatus.COMPLETED, DeliveryStatus.DEAD_LETTER, DeliveryStatus.DISCARDED):
        rows.all().delete()
        rows.create(outbox_id=key, registration_id="r", status=status)
        assert not rows.move(key, "r", token, DeliveryStatus.FAILED)
        rows.forget(key, "r", token)
        assert rows.get().status == status


def test_e5_a_late_worker_forgets_nothing_of_the_new_owners(held):
    token, key = held
    rows = WorkflowDeliveryAttempt.objects
    rows.create(outbox_id=key, registration_id="r", status="running", crashes=1)
    WorkflowOutbox.objects.update(claim_token=NOBODY)
    rows.forget(key, "r", token)
    assert rows.get().crashes == 1
    rows.forget(key, "r", NOBODY)
    assert not rows.exists()


def test_e5_a_worker_that_lost_its_claim_tells_no_hook(outbox):
    told = []

    def lose_the_claim_and_fail(event):
        WorkflowOutbox.objects.update(claim_token=NOBODY)
        raise PermanentFailure("never")

    outbox.register(
        "x", handler=lose_the_claim_and_fail, atomic=False, registration_id="r",
        dead_letter_handler=lambda event, error: told.append(error),
    )  # fmt: skip
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    drain("default")
    assert told == []


def test_e5_a_handler_that_is_not_atomic_is_not_begun_without_the_claim(outbox):
    calls = []

    def lose_the_second_entry(event):
        calls.append(event.event_id)
        WorkflowOutbox.objects.filter(event__event_id="2").update(claim_token=NOBODY)

    outbox.register("x", handler=lose_the_second_entry, atomic=False, registration_id="r")
    for number in "12":
        outbox.publish(WorkflowEvent(number, "a.b", {}, event_name="x"))
    drain("default")
    assert calls == ["1"]


@has_row_locks
def test_e13_a_claim_passes_over_what_another_is_taking_and_does_not_wait(outbox):
    outbox.publish_many(WorkflowEvent(str(n), "a.b", {}, event_name="x") for n in range(10))
    taken, done, sizes = Event(), Event(), []

    def first():
        with transaction.atomic():
            sizes.append(WorkflowOutbox.objects.claim(6, lease=LEASE).size)
            taken.set()
            assert done.wait(PATIENCE)

    def second():
        assert taken.wait(PATIENCE)
        sizes.append(WorkflowOutbox.objects.claim(6, lease=LEASE).size)
        done.set()

    race(first, second)
    assert sizes == [6, 4]


@has_row_locks
def test_e4_e5_no_claim_is_taken_over_between_the_last_check_and_the_commit(outbox):
    """The entry's row stays locked from the completed mark to the commit."""
    checked, tried = Event(), Event()

    def write(event):
        Tag.objects.create(name=event.event_id)

    outbox.register("x", handler=write, registration_id="r")
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    claim = WorkflowOutbox.objects.claim(1, lease=LEASE, begin=1)
    add = WorkflowDeliveryAttempt.objects.add

    def first():
        with transaction.atomic():
            write(WorkflowEvent("1", "a.b", {}))
            assert add(claim.together[0], "r", claim.token, DeliveryStatus.COMPLETED)
            checked.set()
            assert tried.wait(PATIENCE)

    def second():
        assert checked.wait(PATIENCE)
        # Time has passed beyond the lease, as far as this one can tell.
        entries = WorkflowOutbox.objects.filter(pk=claim.together[0])
        with transaction.atomic():
            assert not entries.select_for_update(skip_locked=True).exists()
        tried.set()

    race(first, second)
    assert Tag.objects.count() == 1


def test_a_delayed_delivery_is_left_alone_though_its_entry_is_due(outbox, workers):
    calls = []

    def fail(event):
        calls.append(1)
        raise ValueError("boom")

    outbox.register("x", handler=fail, registration_id="r")
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    workers.deliver()
    WorkflowOutbox.objects.update(available_at=timezone.now() - timedelta(seconds=1))
    workers.deliver()
    assert calls == [1]
    entry = WorkflowOutbox.objects.get()
    assert entry.status == "failed"
    assert entry.available_at is not None
    assert entry.available_at > timezone.now()


def test_a_recorded_delivery_of_an_unknown_registration_keeps_its_entry_undelivered(
    outbox, workers
):
    """As when a registration was added by hand to an event, and this process is older."""
    outbox.register("x", handler=lambda event: None, registration_id="here")
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    entry = WorkflowOutbox.objects.get()
    WorkflowDeliveryAttempt.objects.create(
        outbox=entry, registration_id="elsewhere", status=DeliveryStatus.FAILED
    )
    WorkflowOutbox.objects.update(visits=1)
    workers.deliver()
    assert WorkflowOutbox.objects.get().status == "failed"


def test_trouble_with_one_entry_stops_no_other(outbox, workers, monkeypatch):
    """Trouble that is not the handler's: it is delayed, and the rest of the chunk goes on."""
    delivered = []
    outbox.register("x", handler=lambda event: delivered.append(event.event_id), atomic=False)
    for number in range(3):
        outbox.publish(WorkflowEvent(str(number), "a.b", {}, event_name="x"))
    matching = type(outbox).matching

    def stumble(self, event):
        if event.event_id == "1":
            raise RuntimeError("trouble")
        return matching(self, event)

    monkeypatch.setattr(type(outbox), "matching", stumble)
    workers.deliver()
    assert delivered == ["0", "2"]
    monkeypatch.undo()
    workers.let_rest_pass()
    workers.deliver()
    assert delivered == ["0", "2", "1"]
    assert set(WorkflowDeliveryAttempt.objects.values_list("crashes", flat=True)) == {0}


def test_trouble_around_a_handler_is_not_charged_as_a_death(outbox, workers, monkeypatch):
    """The handler was shown to be running; its worker lived, and could not write the end."""
    rows = type(WorkflowDeliveryAttempt.objects.all())
    move = rows.move

    def stumble(self, entry_id, registration_id, token, to, **values):
        if to is not DeliveryStatus.RUNNING:
            raise ConnectionError("gone")
        return move(self, entry_id, registration_id, token, to, **values)

    outbox.register("x", handler=lambda event: None, registration_id="r", atomic=False)
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    monkeypatch.setattr(rows, "move", stumble)
    for _ in range(5):
        workers.deliver()
        workers.let_rest_pass()
    monkeypatch.undo()
    workers.deliver()
    delivery = WorkflowDeliveryAttempt.objects.get()
    assert (delivery.status, delivery.crashes) == ("completed", 0)


def test_what_no_worker_took_is_delivered_here(outbox, workers, settings):
    """More than one chunk, and no broker to hand the others on through."""
    delivered = []
    outbox.register("x", handler=lambda event: delivered.append(event.event_id), atomic=False)
    settings.GENERAL_MANAGER = {
        "WORKFLOW_MODE": "production",
        "WORKFLOW_OUTBOX_PROCESS_CHUNK_SIZE": 2,
    }
    outbox.publish_many(WorkflowEvent(str(n), "a.b", {}, event_name="x") for n in range(7))
    assert drain("default") == 7
    assert sorted(delivered) == [str(number) for number in range(7)]


def test_a_chunk_that_cannot_be_delivered_stops_no_other_of_its_claim(outbox, settings):
    delivered = []
    outbox.register("x", handler=lambda event: delivered.append(event.event_id), atomic=False)
    settings.GENERAL_MANAGER = {
        "WORKFLOW_MODE": "production",
        "WORKFLOW_OUTBOX_PROCESS_CHUNK_SIZE": 2,
    }
    outbox.publish_many(WorkflowEvent(str(n), "a.b", {}, event_name="x") for n in range(6))
    troubles = [DataError("a row that no driver can read")]

    def stumble_once(execute, sql, *rest):
        if sql.startswith("SELECT") and "JOIN" in sql and troubles:
            raise troubles.pop()
        return execute(sql, *rest)

    with connection.execute_wrapper(stumble_once), pytest.raises(DataError):
        drain("default")
    assert len(delivered) == 4


def test_a_message_for_a_chunk_that_another_has_does_nothing(held, outbox):
    outbox.register("x", handler=lambda event: pytest.fail("not mine"), registration_id="r")
    token, key = held
    WorkflowOutbox.objects.update(claim_token=NOBODY)
    assert deliver("default", token, [key]) == 0


# Executions and steps


@pytest.mark.parametrize(
    "write",
    [
        lambda rows, record: rows.complete(record, {"late": True}),
        lambda rows, record: rows.postpone(record, LEASE, "late"),
        lambda rows, record: rows.put_back(record, LEASE, "late"),
        lambda rows, record: rows.renew(record, lease=LEASE * 9),
        lambda rows, record: rows.suspend(record, Suspended("x", None, answerable=True)),
        lambda rows, record: rows.held(record).end(WorkflowState.FAILED, error="late"),
    ],
)
def test_x2_nothing_is_written_to_an_execution_that_another_has(running, write):
    take_over(running)
    rows = WorkflowExecutionRecord.objects
    before = rows.values().get()
    assert not write(rows, running)
    assert rows.values().get() == before


def test_x4_a_step_of_a_run_that_lost_its_execution_is_not_recorded(running):
    steps = WorkflowStep.objects
    assert steps.add(running, "started", StepStatus.STARTED, position=1)
    take_over(running)
    assert not steps.add(running, "new", StepStatus.DONE, position=2)
    assert not steps.finish(running, "started", "late", 2)
    assert list(steps.values_list("name", "status")) == [("started", "started")]


@pytest.mark.parametrize("end", [take_over, lambda record: WorkflowExecutionRecord.objects.filter(
    pk=record.pk).end(WorkflowState.CANCELLED)])  # fmt: skip
def test_x2_a_run_that_lost_its_execution_is_notified_before_it_goes_on(running, end):
    store = DatabaseRunStore(running, "default")
    store.check()
    end(running)
    with pytest.raises(StopRun):
        store.check()


def test_x6_an_answer_that_comes_before_the_run_suspends_is_not_lost(running, celery_engine):
    store = DatabaseRunStore(running, "default")
    store.open_wait("approval", timeout=None, answerable=True, suspends=False)
    celery_engine.resume(running.execution_id, "yes")
    stop = Suspended("approval", None, answerable=True)
    state = WorkflowExecutionRecord.objects.suspend(running, stop)
    assert state is WorkflowState.PENDING
    row = WorkflowExecutionRecord.objects.get()
    assert (row.state, row.ready, row.claim_token) == ("pending", True, None)


def test_a_wait_that_its_suspension_records_is_there_for_whoever_answers(running, celery_engine):
    store = DatabaseRunStore(running, "default")
    store.open_wait("approval", timeout=timedelta(hours=1), answerable=True, suspends=True)
    with pytest.raises(WorkflowInvalidStateError):
        celery_engine.resume(running.execution_id, "too early")
    stop = Suspended("approval", None, answerable=True)
    executions = WorkflowExecutionRecord.objects
    assert executions.suspend(running, stop, store.opening) is WorkflowState.WAITING
    now = celery_engine.status(running.execution_id)
    assert (now.state, now.waiting_for) == ("waiting", "approval")
    assert timedelta(minutes=59) < now.waiting_until - now.waiting_since <= timedelta(hours=1)
    assert celery_engine.resume(running.execution_id, "yes").state == "pending"


@pytest.mark.parametrize("loses", ["cancelled", "overdue"])
def test_a_run_that_lost_its_execution_records_no_wait(running, celery_engine, loses):
    store = DatabaseRunStore(running, "default")
    store.open_wait("approval", timeout=None, answerable=True, suspends=True)
    executions = WorkflowExecutionRecord.objects
    if loses == "cancelled":
        celery_engine.cancel(running.execution_id)
    else:
        executions.update(run_until=from_now(timedelta(seconds=-1)))
    stop = Suspended("approval", None, answerable=True)
    assert executions.suspend(running, stop, store.opening) is None
    assert not WorkflowStep.objects.exists()


def test_each_wait_of_a_run_is_settled_as_itself(running):
    """Though the run has opened another one: the order of waits may change with a deploy."""
    until = from_now(timedelta(hours=1))
    WorkflowStep.objects.create(
        execution=running, name="earlier", status="open", answerable=True, until=until
    )
    store = DatabaseRunStore(running, "default")
    store.open_wait("approval", timeout=None, answerable=True, suspends=False)
    earlier = store.settle_wait("earlier")
    assert (earlier.name, earlier.until is None) == ("earlier", False)
    assert store.settle_wait("approval").name == "approval"


def test_a_question_that_timed_out_while_it_was_asked_is_not_waited_for(running):
    store = DatabaseRunStore(running, "default")
    store.open_wait("approval", timeout=timedelta(hours=1), answerable=True, suspends=False)
    WorkflowStep.objects.update(until=from_now(timedelta(seconds=-1)))
    stop = Suspended("approval", None, answerable=True)
    executions = WorkflowExecutionRecord.objects
    assert executions.suspend(running, stop) is WorkflowState.PENDING
    assert executions.get().ready


def test_an_execution_whose_handler_nobody_has_fails_in_the_end(celery_engine, workers):
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    WorkflowExecutionRecord.objects.update(handler_path="shop.gone.handler")
    for _ in range(41):
        run(execution.execution_id, "default")
        workers.let_rest_pass()
    failed = celery_engine.status(execution.execution_id)
    assert failed.state == "failed"
    assert "shop.gone" in failed.error


@has_row_locks
def test_x4_no_execution_is_taken_over_between_a_step_and_its_commit(running):
    kept, tried = Event(), Event()
    WorkflowExecutionRecord.objects.update(wake_at=timezone.now() - timedelta(seconds=1))

    def first():
        with transaction.atomic():
            assert WorkflowStep.objects.add(running, "one", StepStatus.DONE, position=1)
            kept.set()
            assert tried.wait(PATIENCE)

    def second():
        assert kept.wait(PATIENCE)
        assert not any(WorkflowExecutionRecord.objects.wake_due(10))
        tried.set()

    race(first, second)


def test_x2_a_failure_of_a_run_that_another_took_over_is_not_the_executions(
    celery_engine, monkeypatch
):
    def lose_the_lease_and_fail(input_data):
        WorkflowExecutionRecord.objects.update(claim_token=NOBODY)
        raise ValueError("late")

    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    monkeypatch.setattr(flows, "echo", lose_the_lease_and_fail)
    run(execution.execution_id, "default")
    row = WorkflowExecutionRecord.objects.get()
    assert (row.state, row.error, row.claim_token) == ("running", None, NOBODY)


@pytest.mark.parametrize("atomic", [True, False])
def test_x5_a_once_step_whose_worker_died_is_in_doubt_atomic_or_not(
    celery_engine, workers, monkeypatch, atomic
):
    class Died(SystemExit):
        pass

    def charge_once(input_data):
        step("charge", flows.charge, once=True, atomic=atomic)

    flows.troubles.append(Died())
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    monkeypatch.setattr(flows, "echo", charge_once)
    with pytest.raises(Died):
        run(execution.execution_id, "default")
    workers.let_rest_pass()
    workers.run()
    assert "may have happened" in celery_engine.status(execution.execution_id).error
    assert flows.calls == ["charge"]
