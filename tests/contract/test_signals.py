"""Signals: kept in order under their name, taken by waits, on every engine."""

from datetime import timedelta

import pytest
from django.db import transaction

from general_manager.workflow import (
    WorkflowCancelledError,
    WorkflowDefinition,
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
    acting_as,
)
from general_manager.workflow.exceptions import EncodingError
from general_manager.workflow.signals import execution_signalled
from tests.testapp import plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HOUR = timedelta(hours=1)
ORDER = WorkflowDefinition("order", handler=plays.ask_for_one)


def later(driver, definition=ORDER):
    """An execution that has not run yet."""
    return driver.engine.start(definition, {}, at=driver.now() + HOUR).execution_id


def go_on(driver, key):
    driver.pass_time(HOUR)
    driver.settle()
    return driver.engine.status(key)


def statuses(engine, key):
    return [(one.name, one.value, one.status) for one in engine.signals(key)]


def test_m1_a_signal_that_comes_before_its_wait_answers_it_and_nothing_is_asked(engine, driver):
    key = later(driver)
    engine.signal(key, "paid", {"amount": 3})
    assert statuses(engine, key) == [("paid", {"amount": 3}, "kept")]
    assert go_on(driver, key).output_data == {"paid": {"amount": 3}}
    assert plays.stage.calls == []
    assert statuses(engine, key) == [("paid", {"amount": 3}, "taken")]


def test_m1_a_signal_answers_the_wait_that_is_open(engine, driver, started):
    key = started(ORDER).execution_id
    with acting_as("the bank"):
        engine.signal(key, "paid", 5)
    driver.settle()
    assert engine.status(key).output_data == {"paid": 5}
    assert plays.stage.calls == ["asked"]
    [entry] = engine.history(key)
    assert (entry.kind, entry.step, entry.by) == ("signalled", "paid", "the bank")
    [signal] = engine.signals(key)
    assert (signal.taken_by, signal.wait, signal.sent_by) == (key, "paid", "the bank")
    assert signal.sent_at <= signal.taken_at


def test_m1_waits_of_one_name_take_the_signals_in_their_order(engine, driver):
    key = later(driver, WorkflowDefinition("w", handler=plays.ask_for_payments))
    for amount in (1, 2, 3):
        engine.signal(key, "paid", amount)
    assert go_on(driver, key).output_data == {"paid": [1, 2]}
    assert [one.status for one in engine.signals(key)] == ["taken", "taken", "unread"]


def test_m1_a_signal_of_another_name_answers_nothing(engine, driver, started):
    key = started(ORDER).execution_id
    engine.signal(key, "refunded", 1)
    driver.settle()
    assert engine.status(key).waiting_for == "paid"
    engine.signal(key, "paid", 2)
    driver.settle()
    assert engine.status(key).output_data == {"paid": 2}
    assert statuses(engine, key) == [("refunded", 1, "unread"), ("paid", 2, "taken")]


def test_m1_a_signal_that_was_sent_in_time_wins_over_the_timeout(engine, driver):
    at = driver.now() + HOUR
    key = engine.start(ORDER, {"timeout": 0}, at=at).execution_id
    engine.signal(key, "paid", "in time")
    assert go_on(driver, key).output_data == {"paid": "in time"}


def test_a_timeout_without_a_signal_is_one(engine, driver, started):
    key = started(ORDER, {"timeout": 60}).execution_id
    engine.signal(key, "refunded", 1)
    assert go_on(driver, key).output_data == {"paid": "nobody"}


def test_resume_stays_what_it_is_and_leaves_the_signals(engine, driver, started):
    key = started(WorkflowDefinition("w", handler=plays.pay_then_sign)).execution_id
    engine.signal(key, "signed", "by a signal")
    engine.resume(key, "by hand", wait="paid")
    driver.settle()
    assert engine.status(key).output_data == {"paid": "by hand", "signed": "by a signal"}
    assert [one.kind for one in engine.history(key)] == ["resumed", "signalled"]


def test_an_execution_that_is_over_takes_no_signal(engine, started):
    over = started(WorkflowDefinition("w", handler=plays.echo)).execution_id
    with pytest.raises(WorkflowInvalidStateError, match="Only pending, running or waiting"):
        engine.signal(over, "paid", 1)
    cancelled = started(ORDER).execution_id
    engine.cancel(cancelled)
    with pytest.raises(WorkflowCancelledError, match="Cannot signal"):
        engine.signal(cancelled, "paid", 1)
    with pytest.raises(WorkflowExecutionNotFoundError):
        engine.signal("nonsense", "paid", 1)
    assert engine.signals(over) == engine.signals(cancelled) == []


def test_who_sends_knows_the_business_key(engine, driver, started):
    first = started(ORDER, correlation_id="order-7").execution_id
    engine.cancel(first)
    second = started(ORDER, correlation_id="order-7").execution_id
    started(ORDER, correlation_id="order-8")
    execution = engine.signal(workflow=ORDER, correlation_id="order-7", name="paid", value=1)
    assert execution.execution_id == second
    driver.settle()
    assert engine.status(second).output_data == {"paid": 1}
    assert engine.signals(first) == []
    with pytest.raises(WorkflowInvalidStateError):  # it has completed
        engine.signal(workflow="order", correlation_id="order-7", name="paid", value=1)
    with pytest.raises(WorkflowExecutionNotFoundError, match="order-9"):
        engine.signal(workflow=ORDER, correlation_id="order-9", name="paid")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"workflow": ORDER},
        {"correlation_id": "order-7"},
        {"execution_id": "x", "workflow": ORDER},
        {"execution_id": "x", "workflow": ORDER, "correlation_id": "order-7"},
        {"workflow": 7, "correlation_id": "order-7"},
        {"workflow": ORDER, "correlation_id": 7},
    ],
)
def test_an_execution_is_named_in_one_way(engine, arguments):
    with pytest.raises(TypeError):
        engine.signal(name="paid", **arguments)


def test_a_signal_has_a_name_and_a_value_that_json_holds(engine, started):
    key = started(ORDER).execution_id
    for name in ("", "\n"):
        with pytest.raises(ValueError, match="name must not"):
            engine.signal(key, name, 1)
    with pytest.raises(EncodingError, match="value"):
        engine.signal(key, "paid", b"")
    assert engine.signals(key) == []
    assert engine.status(key).state == "waiting"


def test_a_signal_of_a_transaction_is_sent_by_its_commit_or_not_at_all(engine, driver, started):
    key = started(ORDER).execution_id
    with pytest.raises(LookupError), transaction.atomic():
        engine.signal(key, "paid", "rolled back")
        raise LookupError
    driver.settle()
    assert engine.status(key).state == "waiting"
    assert engine.signals(key) == []
    with transaction.atomic():
        engine.signal(key, "paid", "committed")
        assert engine.status(key).state == "waiting"
    driver.settle()
    assert engine.status(key).output_data == {"paid": "committed"}


def test_a_step_that_fails_has_sent_nothing(engine, driver, started):
    key = started(ORDER).execution_id
    other = WorkflowDefinition("other", handler=plays.signal_the_other)
    plays.stage.troubles[:] = [ValueError("behind the signal")]
    assert started(other, {"to": key, "value": 1}).state == "failed"
    assert engine.signals(key) == []
    started(other, {"to": key, "value": 2})
    driver.settle()
    assert engine.status(key).output_data == {"paid": 2}


def test_an_execution_may_signal_itself(started):
    definition = WorkflowDefinition("w", handler=plays.signal_oneself)
    assert started(definition).output_data == {"paid": "mine"}


def test_a_retry_gives_later_signals_back_in_order_and_withdraws_the_answer_itself(
    engine, driver, started
):
    """Before the first wait: its own answer is withdrawn, that of the second is taken again."""
    key = later(driver, WorkflowDefinition("w", handler=plays.pay_then_sign))
    plays.stage.troubles[:] = [ValueError("both are known")]
    for name, value in (("paid", 1), ("signed", 2), ("paid", 3)):
        engine.signal(key, name, value)
    assert go_on(driver, key).state == "failed"
    preview = engine.preview_retry(key, before="paid")
    assert preview.signals_returned == ("signed",)
    assert preview.signals_withdrawn == ("paid",)
    fresh = engine.retry_from_checkpoint(key, before="paid").execution_id
    driver.settle()
    assert engine.status(fresh).output_data == {"paid": 3, "signed": 2}
    found = [("paid", 1, "withdrawn"), ("signed", 2, "taken"), ("paid", 3, "taken")]
    assert statuses(engine, fresh) == statuses(engine, key) == found
    kinds = [(one.kind, one.detail) for one in engine.history(fresh)]
    assert ("signals_returned", "signed") in kinds
    assert ("signal_withdrawn", "paid") in kinds


def test_a_retry_that_keeps_the_waits_keeps_their_signals(engine, driver, started):
    definition = WorkflowDefinition("w", handler=plays.pay_then_sign)
    key = started(definition).execution_id
    plays.stage.troubles[:] = [ValueError("both are known"), ValueError("again")]
    for name, value in (("paid", 1), ("signed", 2)):
        engine.signal(key, name, value)
    driver.settle()
    second = engine.retry_from_checkpoint(key).execution_id
    driver.settle()
    assert engine.status(second).state == "failed"
    assert engine.preview_retry(second, before="signed").signals_returned == ()
    third = engine.retry_from_checkpoint(second, before="signed").execution_id
    driver.settle()
    assert engine.status(third).waiting_for == "signed"
    assert statuses(engine, third) == [("paid", 1, "taken"), ("signed", 2, "withdrawn")]
    engine.signal(key, "signed", "to the first id of the chain")
    driver.settle()
    assert engine.status(third).output_data == {
        "paid": 1,
        "signed": "to the first id of the chain",
    }


def test_observers_hear_of_a_signal(engine, started):
    heard = []

    def hear(**told):
        heard.append((told["execution_id"], told["workflow_id"], told["name"]))

    key = started(ORDER).execution_id
    execution_signalled.connect(hear)
    try:
        engine.signal(key, "paid", 1)
    finally:
        execution_signalled.disconnect(hear)
    assert heard == [(key, "order", "paid")]
