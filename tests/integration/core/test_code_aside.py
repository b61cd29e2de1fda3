"""Hooks, receivers and predicates: user code that is called beside a delivery or a run."""

import asyncio
from typing import Any

import pytest
from django.db import connection, connections, transaction

from general_manager.workflow import PermanentFailure, WorkflowDefinition, step
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowOutbox,
)
from general_manager.workflow.outbox.deliver_again import deliver_again, recipients
from general_manager.workflow.signals import (
    event_dead,
    event_delivered,
    event_failed,
    execution_changed,
)
from general_manager.workflow.transport.base import WORK
from tests.integration.core.test_lost_connections import as_a_worker
from tests.integration.core.test_sound_connections import (
    begin_raw,
    leave_autocommit_off,
    make_event,
    never_leave_an_atomic_block,
    seen_by_others,
    turn_it_off_behind_djangos_back,
)
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

SIGNALS = {
    "delivered": event_delivered,
    "failed": event_failed,
    "dead": event_dead,
    "changed": execution_changed,
}
NOT_EXCEPTIONS = [
    asyncio.CancelledError("a task was cancelled"),
    GeneratorExit("a generator"),
    BaseExceptionGroup("several", [asyncio.CancelledError()]),
]

SPOILERS = [leave_autocommit_off, never_leave_an_atomic_block, turn_it_off_behind_djangos_back]
if connection.vendor != "mysql":  # its client does not know of a raw BEGIN
    SPOILERS.append(begin_raw)


class Aside:
    """Code that does *act* when it is called for the first time."""

    act: Any = None
    is_called = False

    def __call__(self, *_: object, **__: object) -> bool:
        if not self.is_called:
            self.is_called = True
            self.act()
        return True


aside = Aside()


@pytest.fixture(autouse=True)
def _nothing_left():
    aside.act, aside.is_called = None, False
    yield
    for signal in SIGNALS.values():
        signal.disconnect(dispatch_uid="aside")
    for one in connections.all(initialized_only=True):
        one.in_atomic_block = False
        one.close()


def deliver_three(outbox, place):
    """Three events, of which the handler refuses the first where *place* needs that."""

    def handle(event):
        flows.write(event.event_id)
        if place == "on_commit":
            transaction.on_commit(aside)
        elif place != "delivered" and event.event_id == "0":
            raise PermanentFailure("no") if "dead" in place else ValueError("not now")

    if place in SIGNALS:
        SIGNALS[place].connect(aside, weak=False, dispatch_uid="aside")
    hooks: dict[str, Any] = {place: aside} if place in ("dead_letter_handler", "retry_on") else {}
    outbox.register("x", handler=handle, registration_id="x", **hooks)
    outbox.publish_many([make_event(str(number)) for number in range(3)])
    as_a_worker(WORK, "default")
    assert aside.is_called


def require_the_neighbours_delivered(place):
    is_done = place in ("on_commit", "delivered")
    assert seen_by_others() == (["0", "1", "2"] if is_done else ["1", "2"])
    assert flows.calls == ["0", "1", "2"]
    first = "processed" if is_done else "dead_letter" if "dead" in place else "failed"
    found = WorkflowOutbox.objects.order_by("pk").values_list("status", flat=True)
    assert list(found) == [first, "processed", "processed"]
    assert set(WorkflowDeliveryAttempt.objects.values_list("crashes", flat=True)) == {0}


PLACES = ["on_commit", "delivered", "failed", "dead", "dead_letter_handler", "retry_on"]


@pytest.mark.parametrize("error", NOT_EXCEPTIONS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_is_raised_beside_a_delivery_stops_neither_it_nor_its_neighbours(
    outbox, place, error
):
    aside.act = raising(error)
    deliver_three(outbox, place)
    require_the_neighbours_delivered(place)


def raise_cancelled(event):
    raise asyncio.CancelledError


def raising(error):
    def act():
        raise error

    return act


def step_with_a_hook(input_data):
    step("first", write_with_a_hook)
    step("second", flows.write, "second")


def write_with_a_hook():
    flows.write("first")
    transaction.on_commit(aside)


def run_two(celery_engine, place):
    if place == "changed":
        execution_changed.connect(on_running, weak=False, dispatch_uid="aside")
    handler = flows.two_steps if place == "changed" else step_with_a_hook
    for _ in range(2):
        celery_engine.start(WorkflowDefinition("w", handler=handler))
    as_a_worker(WORK, "default")
    assert aside.is_called


def on_running(*, execution, **_):
    if execution.state == "running":
        aside()


def require_both_completed():
    assert seen_by_others() == ["first", "first", "second", "second"]
    assert flows.calls == ["first", "second"] * 2
    rows = WorkflowExecutionRecord.objects.values_list("state", "crashes", "interruptions")
    assert list(rows) == [("completed", 0, 0)] * 2


@pytest.mark.parametrize("error", NOT_EXCEPTIONS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("place", ["changed", "on_commit"])
def test_whatever_is_raised_beside_a_run_stops_neither_it_nor_its_neighbours(
    celery_engine, place, error
):
    aside.act = raising(error)
    run_two(celery_engine, place)
    require_both_completed()


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_left_open_beside_a_delivery_swallows_nothing_that_follows(outbox, place, spoil):
    aside.act = spoil
    deliver_three(outbox, place)
    require_the_neighbours_delivered(place)


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("place", ["changed", "on_commit"])
def test_what_is_left_open_beside_a_run_swallows_nothing_that_follows(celery_engine, place, spoil):
    aside.act = spoil
    run_two(celery_engine, place)
    require_both_completed()


@pytest.mark.parametrize("act", [flows.break_the_transaction, raise_cancelled])
def test_a_condition_that_fails_hinders_no_delivery_of_its_event_to_others(outbox, workers, act):
    """The replay asks each condition, within its own transaction."""
    outbox.register("x", handler=lambda event: flows.note("delivered"), registration_id="good")
    outbox.publish(make_event())
    workers.deliver()
    outbox.register("x", handler=flows.note, when=act, registration_id="bad")
    record = WorkflowEventRecord.objects.get()
    assert [one.id for one in recipients(record)] == ["good", "bad"]
    deliver_again(record, ["good"])
    workers.deliver()
    assert flows.calls == ["delivered", "delivered"]
