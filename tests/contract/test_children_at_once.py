"""Gathers that start a few children at once, of which some are there already, or cannot start."""

import pytest

from general_manager.workflow import (
    Limit,
    LimitKeyError,
    Rate,
    WorkflowDefinition,
    child,
    gather,
    step,
    wait_for,
)
from general_manager.workflow.models.children import states
from tests.contract.test_children import calls
from tests.testapp.families import BOOK, PAGE
from tests.testapp.plays import HOUR, note, stage

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("mixed", [False, True])
def test_c1_a_correlation_id_that_is_repeated_takes_one_place_of_at_once(
    engine, driver, started, at_once, mixed
):
    given = [
        {"n": n, "waits": True} | ({} if mixed and n == 2 else {"id": f"p{n}"})
        for n in (1, 2, 3)
        for _ in range(2)
    ]
    execution = started(BOOK, {"pages": given, "options": {"at_once": at_once}})
    count = 4 if mixed else 3
    left = count
    while left:
        waiting = [one for one in engine.executions(workflow=PAGE) if one.state == "waiting"]
        assert len(waiting) == min(at_once, left)
        engine.resume(waiting[-1].execution_id, 7)
        driver.settle()
        left -= 1
    assert engine.status(execution.execution_id).output_data == {"parts": [{"n": 7}] * 6}
    assert engine.executions(workflow=PAGE).count() == count


def test_c1_a_child_that_others_hold_takes_no_place_of_at_once(engine, driver, started):
    pages = [{"n": 1, "waits": True, "id": "a"}, {"n": 2, "id": "b"}]
    first = started(BOOK, {"pages": pages, "options": {"at_once": 1}})
    second = started(BOOK, {"pages": [pages[1], {"n": 3}, pages[0]], "options": {"at_once": 1}})
    assert [calls(f"page {n}") for n in (2, 3)] == [0, 1]
    assert str(second.children) == "1 of 3"
    engine.resume(next(iter(engine.executions(workflow=PAGE, state="waiting"))).execution_id, 7)
    driver.settle()
    for one in (first, second):
        assert engine.status(one.execution_id).state == "completed"


# Children that cannot start


def stamp(data):
    return {"n": step("stamp", note, data["n"])}


LIMITED = WorkflowDefinition("limited", handler=stamp, limit=Limit(10, key="shop"))
RATED = WorkflowDefinition("rated", handler=stamp, rate=Rate(10, per=HOUR, key="shop"))


def stamp_all(data):
    definition = RATED if data["rated"] else LIMITED
    good = [child(definition, {"n": n, "shop": 1}) for n in range(data["count"])]
    try:
        gather("stamps", [*good, child(definition, {"n": -1})])
    except LimitKeyError:
        wait_for("go")
    return {}


STAMPS = WorkflowDefinition("stamps", handler=stamp_all)


@pytest.mark.parametrize("rated", [True, False])
@pytest.mark.parametrize("count", [1, 5])
def test_c1_a_child_without_the_key_of_its_limit_is_refused_before_any_is_started(
    engine, driver, started, monkeypatch, count, rated
):
    monkeypatch.setattr(states, "CHILDREN_CHUNK", 2)
    one = started(STAMPS, {"count": count, "rated": rated})
    assert (one.state, one.waiting_for) == ("waiting", "go")
    engine.resume(one.execution_id, 1)
    driver.settle()
    assert engine.status(one.execution_id).state == "completed"
    assert (driver.count(), stage.calls) == (1, [])
