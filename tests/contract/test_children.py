"""Children: started by a handler, waited for, joined, stopped, on every engine."""

from datetime import timedelta

import pytest

from general_manager.workflow import (
    StepUsageError,
    WorkflowDefinition,
    WorkflowInvalidStateError,
    child,
    gather,
)
from general_manager.workflow.durable.children import specs
from general_manager.workflow.signals import execution_changed
from tests.testapp import families, plays
from tests.testapp.families import BOOK, PAGE

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HOUR = timedelta(hours=1)


def numbers(count, **about):
    return {"pages": [{"n": n} for n in range(1, count + 1)], **about}


def pages(engine, state=None):
    """The executions of pages, by number."""
    found = [one for one in engine.executions(workflow=PAGE) if state in (None, one.state)]
    return {one.input_data["n"]: one for one in found}


def calls(name):
    return plays.stage.calls.count(name)


def test_the_outputs_come_in_order_and_the_parent_goes_on_once(engine, driver, started):
    execution = started(BOOK, numbers(5))
    assert execution.state == "completed", execution.error
    assert execution.output_data == {"parts": [{"n": 10 * n} for n in range(1, 6)]}
    once = sorted(name for name in plays.stage.calls if name != "book")
    assert once == sorted(["bound", *(f"page {n}" for n in range(1, 6))])
    # Another thread may complete all of them before their parent has come to wait.
    assert calls("book") == 2 or (hasattr(driver, "transport") and calls("book") == 1)


def test_a_child_says_whose_it_is(engine, started):
    parent = started(families.SHELF, numbers(1), subject="Library 7")
    book = next(iter(engine.executions(workflow=BOOK)))
    page = pages(engine)[1]
    assert (parent.parent_id, parent.root_id, parent.depth) == (None, None, 0)
    assert (book.parent_id, book.root_id, book.depth) == (
        parent.execution_id,
        parent.execution_id,
        1,
    )
    assert (page.parent_id, page.root_id, page.depth) == (
        book.execution_id,
        parent.execution_id,
        2,
    )
    assert {one.subject for one in (parent, book, page)} == {"Library 7"}
    assert parent.output_data == {"book": {"parts": [{"n": 10}]}}


def test_status_says_how_many_are_over(engine, driver, started):
    given = numbers(3)
    given["pages"][1]["waits"] = True
    execution = started(BOOK, given)
    assert execution.state == "waiting"
    assert execution.waiting_for is None
    assert (execution.children.name, str(execution.children)) == ("pages", "2 of 3")
    engine.resume(pages(engine)[2].execution_id, 5)
    driver.settle()
    now = engine.status(execution.execution_id)
    assert (now.state, now.children) == ("completed", None)
    assert now.output_data["parts"][1] == {"n": 5}


def test_nothing_to_gather_is_an_empty_list(engine, started):
    assert started(BOOK, {"pages": []}).output_data == {"parts": []}


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_no_more_run_at_once_than_allowed(engine, driver, started, at_once):
    given = numbers(5, options={"at_once": at_once})
    for one in given["pages"]:
        one["waits"] = True
    execution = started(BOOK, given)
    most = 0
    for _ in range(5):
        waiting = pages(engine, "waiting")
        most = max(most, len(waiting))
        assert len(waiting) == min(at_once, 5 - len(pages(engine, "completed")))
        first = min(waiting)
        with pytest.raises(WorkflowInvalidStateError):
            engine.wake(waiting[first].execution_id)
        engine.resume(waiting[first].execution_id, first)
        driver.settle()
    assert most == at_once
    now = engine.status(execution.execution_id)
    assert now.output_data == {"parts": [{"n": n} for n in range(1, 6)]}
    assert calls("bound") == 1


def test_a_held_child_is_not_woken_by_hand(engine, driver, started):
    given = numbers(2, options={"at_once": 1})
    given["pages"][0]["waits"] = True
    started(BOOK, given)
    held = pages(engine)[2]
    assert held.state == "pending"
    with pytest.raises(WorkflowInvalidStateError, match="not sleeping or waiting for a retry"):
        engine.wake(held.execution_id)
    driver.pass_time(HOUR)
    driver.settle()
    assert calls("page 2") == 0
    engine.cancel(held.execution_id)
    driver.settle()
    assert pages(engine)[1].state == "cancelled"
    assert next(iter(engine.executions(workflow=BOOK))).state == "failed"


def test_a_parent_that_waits_is_neither_woken_nor_answered(engine, started):
    given = numbers(1)
    given["pages"][0]["waits"] = True
    execution = started(BOOK, given)
    with pytest.raises(WorkflowInvalidStateError, match="waiting for its children"):
        engine.wake(execution.execution_id)
    with pytest.raises(WorkflowInvalidStateError, match="waiting for its children; no wait is"):
        engine.resume(execution.execution_id, 1)
    assert engine.status(execution.execution_id).state == "waiting"


def test_the_first_failure_stops_the_others_and_is_raised_once_all_are_over(engine, started):
    given = numbers(4, options={"at_once": 3}, catches=True)
    given["pages"][0]["waits"] = given["pages"][2]["waits"] = True
    given["pages"][1]["fails"] = True
    execution = started(BOOK, given)
    assert execution.state == "completed"
    assert "Child '1' of 'pages' is failed" in execution.output_data["caught"]
    assert "page 2 is torn" in execution.output_data["caught"]
    states = {n: str(one.state) for n, one in pages(engine).items()}
    assert states == {1: "cancelled", 2: "failed", 3: "cancelled", 4: "cancelled"}
    assert calls("page 4") == 0
    assert calls("caught ChildFailed") == 1


def test_the_same_failure_is_raised_in_every_run(engine, driver, started):
    given = numbers(2)
    given["pages"][1]["fails"] = True
    execution = started(BOOK, given)
    assert execution.state == "failed"
    assert "ChildFailed" in execution.traceback
    assert "page 2 is torn" in execution.error


def test_collect_puts_failures_in_their_places(engine, driver, started):
    given = numbers(3, options={"on_failure": "collect"}, then=True)
    given["pages"][0]["fails"] = True
    given["pages"][1]["waits"] = True
    execution = started(BOOK, given)
    engine.cancel(pages(engine)[2].execution_id, reason="enough")
    driver.settle()
    engine.resume(execution.execution_id, "bind it")
    driver.settle()
    parts = engine.status(execution.execution_id).output_data["parts"]
    assert parts[0]["key"] == "0"
    assert parts[0]["state"] == "failed"
    assert "page 1 is torn" in parts[0]["error"]
    assert parts[1] == {"key": "1", "state": "cancelled", "error": "enough"}
    assert parts[2] == {"n": 30}


def test_the_timeout_cancels_what_is_left(engine, driver, started):
    given = numbers(3, hours=1, catches=True)
    given["pages"][1]["waits"] = True
    execution = started(BOOK, given)
    assert execution.waiting_until is not None
    driver.pass_time(2 * HOUR)
    driver.settle()
    now = engine.status(execution.execution_id)
    assert now.state == "completed"
    assert calls("caught WaitTimeout") == 1
    assert {n: one.state for n, one in pages(engine).items()} == {
        1: "completed",
        2: "cancelled",
        3: "completed",
    }


def test_cancelling_a_parent_cancels_its_children_but_those_that_are_abandoned(
    engine, driver, started
):
    given = numbers(3, options={"at_once": 2})
    for one in given["pages"]:
        one["waits"] = True
    given["pages"][1]["abandon"] = True
    execution = started(families.SHELF, given)
    engine.cancel(execution.execution_id, reason="fire")
    driver.settle()
    states = {n: one.state for n, one in pages(engine).items()}
    assert states == {1: "cancelled", 2: "waiting", 3: "cancelled"}
    assert next(iter(engine.executions(workflow=BOOK))).state == "cancelled"
    engine.resume(pages(engine)[2].execution_id, 2)
    driver.settle()
    assert pages(engine)[2].state == "completed"


def test_a_deadline_of_the_parent_stops_its_children(engine, driver, started):
    given = numbers(1)
    given["pages"][0]["waits"] = True
    definition = WorkflowDefinition("book", handler=families.book, deadline=HOUR)
    execution = started(definition, given)
    driver.pass_time(2 * HOUR)
    driver.settle()
    assert engine.status(execution.execution_id).state == "failed"
    assert pages(engine)[1].state == "cancelled"


def test_c1_a_timeout_leaves_abandoned_children_alone(engine, driver, started):
    given = numbers(3, hours=1, catches=True, options={"at_once": 2})
    for one in given["pages"]:
        one |= {"waits": True, "abandon": one["n"] > 1}
    execution = started(BOOK, given)
    driver.pass_time(2 * HOUR)
    driver.settle()
    assert engine.status(execution.execution_id).state == "completed"
    states = {n: one.state for n, one in pages(engine).items()}
    assert states == {1: "cancelled", 2: "waiting", 3: "cancelled"}  # 3 was held, and never began


def test_c1_a_failure_leaves_abandoned_children_alone_and_is_raised_when_they_are_over(
    engine, driver, started
):
    given = numbers(4, options={"at_once": 3})
    given["pages"][0]["waits"] = given["pages"][1]["waits"] = True
    given["pages"][0]["abandon"] = given["pages"][3]["abandon"] = True
    given["pages"][2]["fails"] = True
    execution = started(BOOK, given)
    states = {n: one.state for n, one in pages(engine).items()}
    assert states == {1: "waiting", 2: "cancelled", 3: "failed", 4: "cancelled"}
    assert execution.state == "waiting"
    engine.resume(pages(engine)[1].execution_id, 1)
    driver.settle()
    assert "page 3 is torn" in engine.status(execution.execution_id).error


def test_a_child_that_is_there_is_joined_and_has_several_waiters(engine, driver, started):
    one = {"pages": [{"n": 1, "waits": True, "id": "p"}]}
    first = started(BOOK, one)
    second = started(BOOK, one)
    other = started(BOOK, {"pages": [{"n": 1, "id": "p"}, {"n": 2}]})
    assert len(pages(engine)) == 2
    engine.cancel(second.execution_id)
    driver.settle()
    assert pages(engine)[1].state == "waiting"  # it is not that one's child
    engine.resume(pages(engine)[1].execution_id, 9)
    driver.settle()
    assert engine.status(first.execution_id).output_data == {"parts": [{"n": 9}]}
    assert engine.status(other.execution_id).output_data == {"parts": [{"n": 9}, {"n": 20}]}
    late = started(BOOK, one)
    assert late.output_data == {"parts": [{"n": 9}]}
    assert calls("page 1") == 2


def test_others_that_wait_for_a_child_get_its_cancellation_by_its_parent(engine, driver, started):
    one = {"pages": [{"n": 1, "waits": True, "id": "p"}], "catches": True}
    first = started(BOOK, one)
    second = started(BOOK, one)
    engine.cancel(first.execution_id)
    driver.settle()
    assert "is cancelled" in engine.status(second.execution_id).output_data["caught"]


def test_an_execution_that_anybody_started_is_joined(engine, driver, started):
    page = engine.start(PAGE, {"n": 1, "waits": True}, correlation_id="p")
    driver.settle()
    execution = started(BOOK, {"pages": [{"n": 1, "id": "p"}]})
    assert execution.state == "waiting"
    engine.cancel(execution.execution_id)
    driver.settle()
    assert engine.status(page.execution_id).state == "waiting"
    again = started(BOOK, {"pages": [{"n": 1, "id": "p"}]})
    engine.resume(page.execution_id, 3)
    driver.settle()
    assert engine.status(again.execution_id).output_data == {"parts": [{"n": 3}]}


def test_observers_hear_of_what_is_started_and_not_of_what_is_joined(started, caplog):
    heard = []

    def hear(execution, **_):
        if execution.workflow_id == "page" and execution.state == "pending":
            heard.append(execution.correlation_id)

    pages = [{"n": 1, "waits": True, "id": "p"}, {"n": 2, "waits": True, "id": "q"}]
    started(BOOK, {"pages": pages[:1]})
    execution_changed.connect(hear)
    try:
        started(BOOK, {"pages": pages})
    finally:
        execution_changed.disconnect(hear)
    assert heard == ["q"]
    assert "could not be called" not in caplog.text


def test_two_that_join_each_other_are_refused(engine, driver, started):
    first = started(families.RING, {"next": "b", "first": True}, correlation_id="a")
    second = started(families.RING, {"next": "a"}, correlation_id="b")
    assert second.state == "waiting"
    engine.resume(first.execution_id, 1)
    driver.settle()
    states = [engine.status(one.execution_id) for one in (first, second)]
    assert [one.state for one in states] == ["failed", "failed"]
    assert "ChildCycle" in states[0].traceback
    assert "ChildFailed" in states[1].traceback


def test_one_that_joins_itself_is_refused(engine, started):
    execution = started(families.RING, {"next": "a"}, correlation_id="a")
    assert execution.state == "failed"
    assert "ChildCycle" in execution.traceback


def test_a_runaway_depth_is_refused(engine, started, monkeypatch):
    monkeypatch.setattr(specs, "MOST_GENERATIONS", 4)
    assert started(families.DESCEND, {"left": 4}).output_data == {"depth": 4}
    execution = started(families.DESCEND, {"left": 5})
    assert execution.state == "failed"
    assert "at most 4" in execution.error


def test_the_newest_of_its_chain_counts_as_the_child(engine, driver, started):
    execution = started(families.PATIENT_BOOK, {"left": 2})
    first = next(iter(engine.executions(workflow=families.RENEWING_PAGE)))
    for _ in range(2):
        assert engine.status(execution.execution_id).state == "waiting"
        engine.resume(first.execution_id, 1)
        driver.settle()
    assert engine.status(execution.execution_id).output_data == {"n": 7}
    assert {one.parent_id for one in engine.executions(workflow=families.RENEWING_PAGE)} == {
        execution.execution_id
    }


def test_the_newest_of_its_chain_is_cancelled_with_the_parent(engine, driver, started):
    execution = started(families.PATIENT_BOOK, {"left": 2})
    first = next(iter(engine.executions(workflow=families.RENEWING_PAGE)))
    engine.resume(first.execution_id, 1)
    driver.settle()
    engine.cancel(execution.execution_id)
    driver.settle()
    assert engine.status(first.execution_id).state == "cancelled"


def test_a_cancel_that_compensates_passes_on_and_the_parent_undoes_last(engine, driver, started):
    execution = started(families.UNDOING_BOOK, {"numbers": [1, 2]})
    engine.cancel(execution.execution_id, compensate=True, reason="fire")
    driver.settle()
    now = engine.status(execution.execution_id)
    assert (now.state, now.error) == ("cancelled", "fire")
    undone = [one for one in plays.stage.calls if one.startswith("un")]
    assert sorted(undone[:2]) == ["unprinted 1", "unprinted 2"]
    assert undone[2:] == ["unbound"]
    states = {one.state for one in engine.executions(workflow=families.UNDOING_PAGE)}
    assert states == {"cancelled"}


def test_a_plain_cancel_stops_children_at_once(engine, driver, started):
    execution = started(families.UNDOING_BOOK, {"numbers": [1]})
    engine.cancel(execution.execution_id)
    driver.settle()
    assert not [one for one in plays.stage.calls if one.startswith("un")]
    assert {one.state for one in engine.executions(workflow=families.UNDOING_PAGE)} == {"cancelled"}


def test_a_failure_has_the_other_children_undo(engine, driver, started):
    given = {"pages": [{"n": 1, "waits": True, "id": "p"}, {"n": 2, "fails": True}]}
    assert started(BOOK, given).state == "failed"
    assert pages(engine)[1].error == "Its parent needs it no longer."


def test_a_retry_of_the_parent_keeps_children_that_completed(engine, driver, started):
    given = numbers(3, options={"at_once": 1})  # so that the first is over before the second
    plays.stage.failing.add("2")
    failed = started(BOOK, given)
    assert failed.state == "failed"
    assert calls("page 1") == 1
    plays.stage.failing.clear()
    fresh = engine.retry_from_checkpoint(failed.execution_id)
    driver.settle()
    now = engine.status(fresh.execution_id)
    assert now.state == "completed", now.error
    assert now.output_data == {"parts": [{"n": 10}, {"n": 20}, {"n": 30}]}
    assert (calls("page 1"), calls("page 2")) == (1, 2)


def test_a_retry_before_the_gather_starts_all_of_them_again(engine, driver, started):
    failed = started(BOOK, numbers(2, ends="badly"))
    assert failed.state == "failed"
    engine.retry_from_checkpoint(failed.execution_id, before="pages")
    driver.settle()
    assert (calls("page 1"), calls("page 2")) == (2, 2)


def test_a_retry_after_the_gather_keeps_it_whole(engine, driver, started):
    failed = started(BOOK, numbers(2, ends="badly"))
    engine.retry_from_checkpoint(failed.execution_id)
    driver.settle()
    assert (calls("page 1"), calls("page 2")) == (1, 1)


def test_an_outcome_that_was_recorded_stands_although_the_child_is_retried(engine, driver, started):
    plays.stage.failing.add("1")
    execution = started(BOOK, numbers(1, options={"on_failure": "collect"}, then=True))
    plays.stage.failing.clear()
    fresh = engine.retry_from_checkpoint(pages(engine)[1].execution_id)
    driver.settle()
    assert engine.status(fresh.execution_id).state == "completed"
    assert fresh.parent_id == execution.execution_id
    engine.resume(execution.execution_id, 1)
    driver.settle()
    parts = engine.status(execution.execution_id).output_data["parts"]
    assert parts[0]["state"] == "failed"


def test_it_stands_although_the_gather_is_open_still(engine, driver, started):
    plays.stage.failing.add("1")
    given = numbers(2, options={"on_failure": "collect"})
    given["pages"][1]["waits"] = True
    execution = started(BOOK, given)
    plays.stage.failing.clear()
    fresh = engine.retry_from_checkpoint(pages(engine)[1].execution_id)
    driver.settle()
    assert engine.status(fresh.execution_id).state == "completed"
    assert str(engine.status(execution.execution_id).children) == "1 of 2"
    engine.resume(pages(engine)[2].execution_id, 5)
    driver.settle()
    first, second = engine.status(execution.execution_id).output_data["parts"]
    assert (first["state"], second) == ("failed", {"n": 5})


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("key used twice", "The key 'a' is used twice"),
        ("inside a step", "is called inside step 'outer'"),
        ("no child", "takes what child"),
        ("none at once", "at_once must be 1 or more"),
        ("on failure", 'must be "raise" or "collect"'),
        ("name used twice", "'pages' is used twice"),
    ],
)
def test_misuse_is_refused(engine, started, wrong, why):
    execution = started(families.BAD_GATHER, {"wrong": wrong})
    assert execution.state == "failed"
    assert why in execution.error


def test_outside_an_execution_it_is_refused():
    with pytest.raises(StepUsageError, match="outside a workflow's handler"):
        gather("pages", [child(PAGE, {"n": 1})])


def test_gathers_follow_each_other(engine, started):
    assert started(families.TWO_GATHERS, {}).output_data == {"parts": [{"n": 100}, {"n": 200}]}


def test_children_that_are_over_as_they_start_count(engine, started):
    parts = started(families.ODD_CHILDREN, {}).output_data["parts"]
    assert parts[0] == {}
    assert (parts[1]["key"], parts[1]["state"]) == ("1", "failed")
    assert "tests.nowhere" in parts[1]["error"]


def test_a_coroutine_gathers(engine, started):
    assert started(families.ABOOK, {"numbers": [1, 2]}).output_data == {
        "parts": [{"n": 10}, {"n": 20}]
    }


def test_many_children_do_not_deepen_the_stack(engine, started):
    execution = started(BOOK, numbers(25, options={"at_once": 7}))
    assert len(execution.output_data["parts"]) == 25
    assert calls("bound") == 1
