"""A connection that is lost at each statement and commit of deliveries, steps, waits, settlements.

Through a proxy that cuts, stalls and half-opens; connections are kept, as CELERY_DB_REUSE_MAX
does. Nothing waits for the end of a lease here: what the network interrupts, its worker repairs.
"""

from contextlib import suppress
from datetime import timedelta
from functools import partial
from threading import Timer
from typing import Any

import pytest
from celery import current_app
from django.db import Error, connection, connections
from django.test import override_settings
from django.utils import timezone

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowEvent,
    WorkflowInvalidStateError,
    get_workflow_engine,
    sleep,
    step,
    wait_for,
)
from general_manager.workflow.core.leases import _Keeper
from general_manager.workflow.engine import ACTIVE_STATES
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.transport.base import WORK
from tests.reliability.proxy import BEFORE, FAULTS, Proxy
from tests.servers import wait_until
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no connection to lose"),
]


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    yield
    hang_up.clear()


SETTINGS = {"WORKFLOW_MODE": "production", "WORKFLOW_OUTBOX_PROCESS_CHUNK_SIZE": 3}


@pytest.fixture
def proxy():
    """Between this process and the database, from here to the end of the test."""
    settings = connections.settings["default"]
    before = {name: settings[name] for name in ("HOST", "PORT")}
    if connection.vendor == "postgresql":
        port = before["PORT"] or 5432
        server: Any = f"{before['HOST']}/.s.PGSQL.{port}"
        if not str(before["HOST"]).startswith("/"):
            server = (before["HOST"], int(port))
    else:
        server = (before["HOST"], int(before["PORT"] or 3306))
    proxy = Proxy(server)
    connection.close()
    settings.update(HOST="127.0.0.1", PORT=str(proxy.port))
    yield proxy
    proxy.fail(None)
    connection.close()
    settings.update(before)
    proxy.close()


def as_a_worker(name, *arguments):
    """Run the task as a worker's process does: nobody calls it."""
    task = current_app.tasks[name]
    task.push_request(called_directly=False, is_eager=False, args=arguments)
    try:
        return task.run(*arguments)
    except Error:
        return None  # Celery logs it, and goes on to the next task
    finally:
        task.pop_request()


def let_delays_pass():
    """But no lease: what is claimed or running stays so."""
    past = timezone.now() - timedelta(seconds=1)
    WorkflowOutbox.objects.filter(status="failed").update(available_at=past)
    WorkflowDeliveryAttempt.objects.filter(available_at__isnull=False).update(available_at=past)
    resting = WorkflowExecutionRecord.objects.filter(state__in=("pending", "waiting"))
    resting.filter(wake_at__isnull=False).update(wake_at=past)


def work():
    """What a tick and a message would ask for, once."""
    _patiently(lambda: WorkflowExecutionRecord.objects.wake_due(10))
    as_a_worker(WORK, "default")


def _patiently(ask):
    try:
        return ask()
    except Error:
        connection.close()
        return ask()


def work_off(*, answer=False):
    for _ in range(12):
        entries = WorkflowOutbox.objects.exclude(status="processed")
        active = WorkflowExecutionRecord.objects.filter(state__in=ACTIVE_STATES)
        if not entries.exists() and not active.exists():
            return
        let_delays_pass()
        work()
        if answer:
            end_sleeps()
            for one in WorkflowExecutionRecord.objects.filter(
                state="waiting", waiting_for__isnull=False
            ):
                get_workflow_engine().resume(one.execution_id, "yes")


def end_sleeps():
    past = timezone.now() - timedelta(seconds=1)
    WorkflowStep.objects.filter(answerable=False).update(until=past)
    WorkflowExecutionRecord.objects.filter(state="waiting").update(wake_at=past)


def tags():
    return sorted(Tag.objects.values_list("name", flat=True))


def forget():
    flows.calls.clear()
    for model in (WorkflowExecutionRecord, WorkflowDeliveryAttempt, WorkflowOutbox, Tag):
        model.objects.all().delete()


def lose_at_each_request(proxy, fault, *, prepare, live, check):
    """Live again and again, each time with a *fault* one request later; returns how often."""
    proxy.pause = 0.02
    for number in range(1000):
        connection.close()
        prepare(number)
        proxy.fail_once(fault, number)
        live()
        was_lost = bool(proxy.happened)
        proxy.fail(None)
        connection.close()
        check(number)
        forget()
        if not was_lost:
            return number
    raise AssertionError("a life without an end")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("atomic", [True, False])
def test_a_delivery_survives_a_connection_that_is_lost_anywhere(outbox, proxy, fault, atomic):
    def handle(event):
        Tag.objects.create(name=event.event_id)
        flows.note(event.event_id)

    outbox.register("x", handler=handle, atomic=atomic, registration_id="r")

    def prepare(number):
        outbox.publish_many(
            WorkflowEvent(f"{number}-{n}", "a.b", {}, event_name="x") for n in range(2)
        )

    def check(number):
        assert "claimed" not in WorkflowOutbox.objects.values_list("status", flat=True), number
        work_off()
        expected = [f"{number}-0", f"{number}-1"]
        assert set(flows.calls) == set(expected)
        if atomic:
            assert tags() == expected
        else:  # at least once: its writes are its own
            assert set(tags()) == set(expected)
        rows = WorkflowDeliveryAttempt.objects.values_list("status", "crashes", "first_failed_at")
        assert list(rows) == [("completed", 0, None)] * 2
        assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}

    with override_settings(GENERAL_MANAGER=SETTINGS):
        lives = lose_at_each_request(
            proxy, fault, prepare=prepare, live=lambda: as_a_worker(WORK, "default"), check=check
        )
    assert lives > 5


def long_life(input_data: dict[str, Any]) -> dict[str, Any]:
    step("in the database", flows.write, "in the database")
    step("outside", flows.note, "outside", atomic=False)
    step("once", flows.note, "once", atomic=False, once=True)
    answer = wait_for("answer", ask=lambda: flows.note("asked"), timeout=timedelta(days=1))
    sleep("a while", timedelta(hours=1))
    step("last", flows.write, "last")
    return {"answer": answer}


@pytest.mark.parametrize("fault", FAULTS)
def test_steps_waits_and_ends_survive_a_connection_that_is_lost_anywhere(
    celery_engine, proxy, fault
):
    def prepare(number):
        celery_engine.start(WorkflowDefinition("life", handler=long_life), {"n": number})

    def live():
        work()
        for one in _patiently(
            lambda: list(
                WorkflowExecutionRecord.objects.filter(state="waiting", waiting_for__isnull=False)
            )
        ):
            _patiently(lambda one=one: answer(one.execution_id))
        work()
        _patiently(end_sleeps)
        work()

    def answer(execution_id):
        with suppress(WorkflowInvalidStateError):  # answered, and not heard
            celery_engine.resume(execution_id, "yes")

    def check(number):
        assert not WorkflowExecutionRecord.objects.filter(state="running").exists(), number
        work_off(answer=True)
        execution = WorkflowExecutionRecord.objects.get()
        assert (execution.state, execution.error, execution.crashes) == ("completed", None, 0)
        assert execution.output_data == {"answer": "yes"}
        assert tags() == ["in the database", "last"]
        assert set(flows.calls) == {"in the database", "outside", "once", "asked", "last"}
        assert flows.calls.count("once") == 1
        failed = execution.history.filter(kind__in=("attempt_failed", "recovered"))
        assert not failed.exists(), number

    assert lose_at_each_request(proxy, fault, prepare=prepare, live=live, check=check) > 20


def test_a_lease_is_renewed_over_a_fresh_connection_wherever_the_old_one_was_lost(proxy):
    WorkflowExecutionRecord.objects.create(
        execution_id="1", workflow_id="w", state="running", claim_token="t"
    )
    record = WorkflowExecutionRecord.objects.get()

    def renewing(seen):
        rows = WorkflowExecutionRecord.objects
        return lambda: seen.append(rows.renew(record, lease=timedelta(hours=1)))

    for fault in FAULTS:
        for number in range(8):
            seen: list[int] = []
            proxy.fail_once(fault, number)
            keeper = _Keeper()
            turn = keeper.add(renewing(seen), 0.01)
            wait_until(partial(seen.__contains__, 1), "a renewal")
            keeper.remove(turn)
            proxy.fail(None)
    assert WorkflowExecutionRecord.objects.get().wake_at is not None


@pytest.mark.parametrize("atomic", [True, False])
def test_a_connection_that_died_while_idle_is_replaced_before_it_is_used(
    outbox, celery_engine, proxy, atomic
):
    outbox.register("x", handler=start_an_echo, registration_id="r", atomic=atomic)
    for number in range(4):
        outbox.publish(WorkflowEvent(str(number), "a.b", {}, event_name="x"))
        for _ in range(2):
            proxy.cut_all()
            as_a_worker(WORK, "default")
        connection.close()
    assert flows.calls == ["echo"] * 4
    assert set(WorkflowExecutionRecord.objects.values_list("state", flat=True)) == {"completed"}
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}


def start_an_echo(event: WorkflowEvent) -> None:
    get_workflow_engine().start(WorkflowDefinition("echo", handler=flows.echo))


def test_a_long_step_outlives_the_idle_connection_that_its_checkpoint_needs(celery_engine, proxy):
    """The server's time-out, or a firewall, ends it while the step works."""
    hang_up.append(proxy.cut_all)
    execution = celery_engine.start(WorkflowDefinition("w", handler=be_cut_off))
    as_a_worker(WORK, "default")
    hang_up.clear()
    assert flows.calls == ["long", "once"]
    assert celery_engine.status(execution.execution_id).state == "completed"


hang_up: list[Any] = []


def be_cut_off(input_data: dict[str, Any]) -> None:
    step("long", note_and_hang_up, "long", atomic=False)
    step("once", note_and_hang_up, "once", atomic=False, once=True)


def note_and_hang_up(name: str) -> None:
    flows.note(name)
    for cut in hang_up:
        cut()


def restart_the_server(proxy):
    """Away for a moment: connections break, and new ones are refused."""
    proxy.fail(lambda: BEFORE)
    proxy.cut_all()
    Timer(0.5, proxy.fail, [None]).start()


def test_a_restart_of_the_database_between_and_in_steps_is_no_failure(celery_engine, proxy):
    hang_up.append(lambda: restart_the_server(proxy))
    for handler in (be_cut_off, be_cut_off_in_a_transaction):
        execution = celery_engine.start(WorkflowDefinition("w", handler=handler))
        as_a_worker(WORK, "default")
        hang_up[:] = hang_up[:1] if handler is be_cut_off else []
        work_off()
        row = WorkflowExecutionRecord.objects.get(execution_id=execution.execution_id)
        assert (row.state, row.crashes, row.error) == ("completed", 0, None)
    assert tags() == ["cut off"]


def be_cut_off_in_a_transaction(input_data: dict[str, Any]) -> None:
    step("cut off", write_and_hang_up)


def write_and_hang_up() -> None:
    Tag.objects.create(name="cut off")
    for cut in hang_up[:]:
        hang_up.remove(cut)
        cut()
    Tag.objects.count()


def test_after_a_failed_connect_a_worker_gets_a_new_connection(celery_engine, proxy):
    """MariaDB's client then has none to ask, and raised in every later task."""
    celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    connection.close()
    proxy.fail(lambda: BEFORE)
    as_a_worker(WORK, "default")
    connection.errors_occurred = True
    proxy.fail(None)
    as_a_worker(WORK, "default")
    assert flows.calls == ["echo"]


def test_what_a_broken_connection_raises_when_it_is_looked_at_is_not_raised_on(
    celery_engine, monkeypatch
):
    def raise_something():
        raise AttributeError("'NoneType' object has no attribute 'ping'")

    celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    broken = connection.connection
    monkeypatch.setattr(connection, "is_usable", raise_something)
    connection.errors_occurred = True
    as_a_worker(WORK, "default")
    assert connection.connection is not broken
    assert flows.calls == ["echo"]
