"""Children that a saga has started: what undoing, retries and decisions make of them."""

import pytest

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowInvalidStateError,
    child,
    gather,
    saga,
    step,
    wait_for,
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


# Children that are others', or that go on: nobody who undoes waits for them


def wait_here(data):
    with saga("page") as undo:
        undo("unprint", note, f"unprint {data['n']}")
        step("print", note, f"print {data['n']}")
        wait_for("go")
    return {"n": data["n"]}


PAGE = WorkflowDefinition("page", handler=wait_here)


def bind(data):
    with saga("book") as undo:
        undo("unbind", note, "unbind")
        step("bind", note, "bind")
        pages = [
            child(PAGE, {"n": n}, correlation_id=one.get("id"), abandon=one.get("abandon", False))
            for n, one in enumerate(data["pages"], 1)
        ]
        gather("pages", pages, **data.get("options", {}))


BOOK = WorkflowDefinition("book", handler=bind)
BOOK_IN_TIME = WorkflowDefinition("book", handler=bind, deadline=HOUR)


def states(engine):
    return {one.input_data["n"]: str(one.state) for one in engine.executions(workflow=PAGE)}


def taken_back():
    return [call for call in stage.calls if call.startswith("un")]


@pytest.mark.parametrize("way", ["cancel", "deadline"])
def test_s1_a_parent_that_undoes_does_not_wait_for_a_child_that_it_joined(
    started, driver, engine, way
):
    stranger = started(PAGE, {"n": 1}, correlation_id="p")
    one = started(BOOK_IN_TIME, {"pages": [{"id": "p"}, {}]})
    assert str(one.children) == "0 of 2"
    if way == "cancel":
        engine.cancel(one.execution_id, reason="fire", compensate=True)
    else:
        driver.pass_time(2 * HOUR)
    one = settled(driver, one)
    assert one.state == ("cancelled" if way == "cancel" else "failed")
    assert taken_back() == ["unprint 2", "unbind"]
    assert states(engine) == {1: "waiting", 2: "cancelled"}
    engine.resume(stranger.execution_id, "go")
    assert settled(driver, stranger).state == "completed"
    again = settled(driver, engine.retry_from_checkpoint(one.execution_id))
    assert str(again.children) == "1 of 2"


@pytest.mark.parametrize("way", ["cancel", "deadline"])
def test_c1_a_child_that_is_abandoned_goes_on_when_its_parent_undoes(started, driver, engine, way):
    one = started(BOOK_IN_TIME, {"pages": [{"abandon": True}, {}]})
    if way == "cancel":
        engine.cancel(one.execution_id, reason="fire", compensate=True)
    else:
        driver.pass_time(2 * HOUR)
    one = settled(driver, one)
    assert one.state == ("cancelled" if way == "cancel" else "failed")
    assert taken_back() == ["unprint 2", "unbind"]
    assert states(engine) == {1: "waiting", 2: "cancelled"}
    assert engine.status(one.execution_id).children is None


def test_c1_a_parent_that_undoes_waits_for_no_child_if_all_are_abandoned(started, driver, engine):
    one = started(BOOK, {"pages": [{"abandon": True}]})
    engine.cancel(one.execution_id, compensate=True)
    assert settled(driver, one).state == "cancelled"
    assert (taken_back(), states(engine)) == (["unbind"], {1: "waiting"})


@pytest.mark.parametrize("compensate", [True, False])
def test_c1_an_abandoned_child_that_is_held_as_its_parent_ends_never_starts(
    started, driver, engine, compensate
):
    """Nobody would release it."""
    abandoned = {"abandon": True}
    one = started(BOOK, {"pages": [{}, abandoned, abandoned], "options": {"at_once": 2}})
    engine.cancel(one.execution_id, compensate=compensate)
    assert settled(driver, one).state == "cancelled"
    assert states(engine) == {1: "cancelled", 2: "waiting", 3: "cancelled"}
    assert "print 3" not in stage.calls
