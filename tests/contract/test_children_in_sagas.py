"""Children that a saga has started: what undoing, retries and decisions make of them."""

import pytest

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowInvalidStateError,
    child,
    gather,
    saga,
    step,
)
from tests.testapp.plays import HOUR, SHORT, note, off, on, stage

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

PAID: list[int] = []


@pytest.fixture(autouse=True)
def _nothing_is_paid():
    PAID.clear()
    yield
    PAID.clear()


def charge(data):
    step("charge", PAID.append, data["n"])
    return data


CHARGE = WorkflowDefinition("charge", handler=charge)


def order(data):
    step("count", note, "counted")
    with saga("payment") as undo:
        undo("refund all", PAID.clear)
        gather("charges", [child(CHARGE, {"n": n}) for n in (1, 2)])
        step("ship", on, "ship")
        undo("unship", off, "ship")
    return {"paid": sorted(PAID)}


ORDER = WorkflowDefinition("order", handler=order)


def order_and_apologise(data):
    """What fails afterwards fails outside the saga, whose failure the handler has caught."""
    try:
        order(data)
    except ValueError:
        step("apologise", note, "sorry")
    step("last", on, "last")


APOLOGISING = WorkflowDefinition("order", handler=order_and_apologise)


def settled(driver, execution):
    driver.settle()
    return driver.engine.status(execution.execution_id)


def test_s1_a_retry_starts_the_children_again_that_an_undone_saga_took_back(
    started, driver, engine
):
    stage.failing.add("ship")
    one = started(ORDER)
    assert (one.state, PAID) == ("failed", [])
    preview = engine.preview_retry(one.execution_id)
    assert (preview.kept, preview.taken_back) == (("count",), ("charges", "ship"))
    assert set(preview.runs_again) == {"charges", "ship"}
    stage.failing.clear()
    again = settled(driver, engine.retry_from_checkpoint(one.execution_id))
    assert (again.state, again.output_data) == ("completed", {"paid": [1, 2]})
    assert stage.calls.count("counted") == 1


def test_a_retry_keeps_the_children_of_a_saga_that_was_undone_and_caught(started, driver, engine):
    stage.failing |= {"ship", "last"}
    one = started(APOLOGISING)
    assert (one.state, one.error) == ("failed", "last fails")
    assert engine.preview_retry(one.execution_id).taken_back == ()
    stage.failing.clear()
    again = settled(driver, engine.retry_from_checkpoint(one.execution_id))
    assert (again.state, PAID) == ("completed", [])
    assert engine.executions(workflow=CHARGE).count() == 2


# What an operator says of a step that was undone


def pay_once(data):
    with saga("payment") as undo:
        undo("refund all", PAID.clear)
        try:
            step("pay", pay, 100, once=True)
        finally:
            step("ship", on, "ship")
    return {"paid": list(PAID)}


def pay(amount):
    PAID.append(amount)
    if "pay" in stage.failing:
        raise ConnectionError("no answer")


ONCE = WorkflowDefinition("once", handler=pay_once)


@pytest.mark.parametrize("failing", ["ship", "pay"])
def test_s1_what_a_saga_took_back_did_not_happen_whoever_says_so(started, driver, engine, failing):
    stage.failing.add(failing)
    one = started(ONCE)
    assert (one.state, PAID) == ("failed", [])
    stage.failing.clear()
    with pytest.raises(WorkflowInvalidStateError, match="'pay' was undone with its saga"):
        engine.resolve_step(one.execution_id, "pay", happened=True)
    again = settled(driver, engine.retry_from_checkpoint(one.execution_id, repeat_once=True))
    assert (again.state, again.output_data) == ("completed", {"paid": [100]})


def test_that_a_step_of_an_undone_saga_did_not_happen_may_be_said(started, driver, engine):
    stage.failing.add("ship")
    one = started(ONCE)
    stage.failing.clear()
    again = settled(driver, engine.resolve_step(one.execution_id, "pay", happened=False))
    assert (again.state, again.output_data) == ("completed", {"paid": [100]})


def pay_in_vain(data):
    with saga("payment") as undo:
        undo("refund all", off, "refund", retry=SHORT)
        step("pay", pay, 100, once=True)
        step("ship", on, "ship")


IN_VAIN = WorkflowDefinition("in vain", handler=pay_in_vain)


def test_s1_no_result_is_corrected_before_the_rest_of_a_saga_is_undone(started, driver, engine):
    stage.failing |= {"ship", "undo refund"}
    one = started(IN_VAIN)
    driver.pass_time(HOUR)
    one = settled(driver, one)
    assert (one.state, "compensation incomplete" in one.error) == ("failed", True)
    for happened in (True, False):
        with pytest.raises(WorkflowInvalidStateError, match="'payment' is not undone completely"):
            engine.resolve_step(one.execution_id, "pay", happened=happened)
    stage.failing.clear()
    again = settled(driver, engine.retry_from_checkpoint(one.execution_id))
    assert (again.state, again.error) == ("failed", "ship fails")
    assert "undo refund" in stage.calls
