"""What observers hear of executions: the same from every engine."""

from contextlib import contextmanager
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from general_manager.workflow import (
    Retry,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowState,
)
from general_manager.workflow.operations.metrics import install, uninstall
from general_manager.workflow.signals import execution_changed
from tests.testapp import plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

DAY = timedelta(days=1)


def define(handler=None, **options):
    return WorkflowDefinition("w", handler=handler, **options)


@contextmanager
def listening(seen, sender=None):
    def receive(sender, execution, **details):
        seen.append((sender, execution))

    execution_changed.connect(receive, sender=sender)
    try:
        yield
    finally:
        execution_changed.disconnect(receive, sender=sender)


def answer(engine, key):
    engine.resume(key, "yes")


def cancel(engine, key):
    engine.cancel(key)


def wake(engine, key):
    engine.wake(key)


def go_on(engine, key):
    engine.retry_from_checkpoint(key)


STEADY = Retry(max_attempts=2, base=10, jitter=0)
HISTORIES = {
    "no handler": (define(), [], [], "completed"),
    "no such handler": (define(metadata={"handler_path": "no.where"}), [], [], "failed"),
    "in one go": (define(plays.echo), [], [], "pending running completed"),
    "failed": (define(plays.fail), [], [], "pending running failed"),
    "answered": (define(plays.ask), [], [answer], "pending running waiting running completed"),
    "too late": (define(plays.ask), [], [], "pending running waiting running completed"),
    "at once": (
        define(plays.answer_at_once), [], [], "pending running completed",
    ),
    "slept": (define(plays.nap), [], [], "pending running waiting running completed"),
    "woken": (define(plays.nap), [], [wake], "pending running waiting running completed"),
    "cancelled while waiting": (
        define(plays.ask), [], [cancel], "pending running waiting cancelled",
    ),
    "cancelled by itself": (define(plays.cancel_itself), [], [], "pending running cancelled"),
    "tried again": (
        define(plays.fail_as_told, retry=STEADY), [ValueError("once")], [],
        "pending running pending running completed",
    ),
    "tried again for nothing": (
        define(plays.fail_as_told, retry=STEADY), [ValueError("once"), ValueError("twice")], [],
        "pending running pending running failed",
    ),
    "cancelled between attempts": (
        define(plays.fail_as_told, retry=STEADY), [ValueError("once")], [cancel],
        "pending running pending cancelled",
    ),
    "gone on as another": (
        define(plays.two_steps), [ValueError("once")], [go_on],
        "pending running failed pending running completed",
    ),
    "too slow": (
        define(plays.take_an_hour, timeout=timedelta(minutes=1)), [], [],
        "pending running failed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES)
def test_observers_hear_the_same_states_from_every_engine(engine, driver, started, history):
    definition, troubles, acts, states = HISTORIES[history]
    plays.stage.troubles[:] = troubles
    heard = []
    with listening(heard):
        key = started(definition).execution_id
        for act in acts:
            act(engine, key)
            driver.settle()
        driver.pass_time(DAY)
        driver.settle()
    assert [execution.state for _, execution in heard] == states.split()
    assert {sender for sender, _ in heard} == {WorkflowExecution}
    last = heard[-1][1]
    assert last == engine.status(last.execution_id)


def test_an_observer_may_ask_for_the_one_sender_and_hears_all(started):
    heard = []
    with listening(heard, sender=WorkflowExecution):
        started(define(plays.echo))
    assert len(heard) == 3


def test_observers_are_notified_when_a_run_begins_before_its_handler_is_called(started):
    calls = []

    def receive(execution, **details):
        calls.append((str(execution.state), list(plays.stage.calls)))

    execution_changed.connect(receive)
    try:
        started(define(plays.echo))
    finally:
        execution_changed.disconnect(receive)
    assert calls == [("pending", []), ("running", []), ("completed", ["echo"])]


def test_an_observer_that_raises_changes_nothing(started):
    def receive(execution, **details):
        raise RuntimeError("an observer's bug")

    execution_changed.connect(receive)
    try:
        assert started(define(plays.echo)).state == "completed"
    finally:
        execution_changed.disconnect(receive)


def test_metrics_count_the_same_states_whatever_the_engine(driver, started):
    registry = CollectorRegistry(auto_describe=True)
    install(registry)
    plays.stage.troubles[:] = [ValueError("once")]
    try:
        started(define(plays.fail_as_told, retry=STEADY))
        driver.pass_time(DAY)
        driver.settle()
        counted = {
            state: registry.get_sample_value(
                "general_manager_executions_total", {"workflow": "w", "state": state}
            )
            for state in WorkflowState
        }
    finally:
        uninstall(registry)
    assert {state: n for state, n in counted.items() if n} == {
        "pending": 2, "running": 2, "completed": 1,
    }  # fmt: skip
