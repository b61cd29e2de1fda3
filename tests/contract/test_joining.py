"""Which executions wait for each other, and may therefore not join each other, on every engine."""

from typing import Any

import pytest

from general_manager.workflow import (
    Retry,
    WaitTimeout,
    WorkflowDefinition,
    child,
    gather,
    saga,
    wait_for,
)
from tests.testapp.plays import HOUR, stage

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def asker(data: dict[str, Any]) -> dict[str, Any]:
    """Waits for its turn, then for the one named ``of``."""
    wait_for("go")
    return {"got": gather("of", [child(ASKER, {}, correlation_id=data["of"])])}


ASKER = WorkflowDefinition("asker", handler=asker)


def impatient(data: dict[str, Any]) -> dict[str, Any]:
    """Gives up the one named ``of``, and waits for something else."""
    try:
        gather("of", [child(ASKER, {}, correlation_id=data["of"])], timeout=HOUR)
    except WaitTimeout:
        return {"went": wait_for("else")}
    return {}


IMPATIENT = WorkflowDefinition("asker", handler=impatient)


def refuse_once() -> None:
    if "undo" in stage.failing:
        raise ConnectionError("not now")


def stubborn(data: dict[str, Any]) -> dict[str, Any]:
    """Takes long to undo what it did."""
    with saga("all") as undo:
        undo("nothing", refuse_once, retry=Retry(base=60, jitter=0))
        wait_for("ever")
    return {}


STUBBORN = WorkflowDefinition("stubborn", handler=stubborn)


def pair(data: dict[str, Any]) -> dict[str, Any]:
    """Waits for a child of its own, and for the one named ``of``."""
    gather("both", [child(STUBBORN, {}), child(ASKER, {}, correlation_id=data["of"])])
    return {}


PAIR = WorkflowDefinition("asker", handler=pair)


def settled(driver: Any, execution: Any) -> Any:
    driver.settle()
    return driver.engine.status(execution.execution_id)


def test_one_that_has_given_up_waiting_may_be_waited_for(engine, driver, started):
    first = started(ASKER, {"of": "b"}, correlation_id="a")
    second = started(IMPATIENT, {"of": "a"}, correlation_id="b")
    driver.pass_time(2 * HOUR)
    assert settled(driver, second).waiting_for == "else"
    engine.resume(first.execution_id, 1)
    assert str(settled(driver, first).children) == "0 of 1"
    engine.resume(second.execution_id, 5)
    driver.settle()
    assert settled(driver, first).output_data == {"got": [{"went": 5}]}


def test_one_that_ends_and_waits_for_its_own_children_only_may_be_waited_for(
    engine, driver, started
):
    stage.failing.add("undo")
    first = started(ASKER, {"of": "b"}, correlation_id="a")
    second = started(PAIR, {"of": "a"}, correlation_id="b")
    engine.cancel(second.execution_id, compensate=True, reason="fire")
    assert settled(driver, second).state == "waiting"
    engine.resume(first.execution_id, 1)
    assert str(settled(driver, first).children) == "0 of 1"
    stage.failing.clear()
    driver.pass_time(HOUR)
    assert settled(driver, second).state == "cancelled"
    first = settled(driver, first)
    assert ("ChildFailed" in first.traceback, "fire" in first.error) == (True, True)


def test_one_that_waits_still_may_not_be_waited_for_by_those_it_waits_for(engine, driver, started):
    first = started(ASKER, {"of": "b"}, correlation_id="a")
    second = started(IMPATIENT, {"of": "a"}, correlation_id="b")
    engine.resume(first.execution_id, 1)
    assert "ChildCycle" in settled(driver, first).traceback
    assert "ChildFailed" in settled(driver, second).traceback
