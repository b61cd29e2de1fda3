"""Sagas together with deadlines, signals, events of ends, coroutines and new executions."""

import asyncio
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync

from general_manager.workflow import (
    EXECUTION_CANCELLED,
    EXECUTION_FAILED,
    Retry,
    SignalStatus,
    StepUsageError,
    WorkflowDefinition,
    astep,
    await_for,
    configure_event_registry,
    continue_as_new,
    current_execution_id,
    get_workflow_engine,
    saga,
    step,
)
from tests.contract.test_ends import TYPES, Ends
from tests.contract.test_sagas import in_force, later, settled, undone
from tests.testapp import plays
from tests.testapp.models import Tag
from tests.testapp.plays import HOUR, SHORT, note, off, on, stage

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

LIMITED = WorkflowDefinition("trip", handler=plays.book_trip, deadline=HOUR)
WAITS = {"waits": True}


@pytest.fixture
def ends(driver):
    ends = Ends(driver)
    configure_event_registry(ends.registry)
    yield ends
    configure_event_registry(None)


# A deadline


def test_a_deadline_that_passes_in_a_saga_undoes_and_then_fails(started, driver, engine):
    one = started(LIMITED, WAITS)
    assert (one.state, in_force()) == ("waiting", ["a", "b"])
    one = later(driver, one, HOUR)
    assert (one.state, in_force(), undone()) == ("failed", [], ["b", "a"])
    assert "did not end within its deadline of 1 h" in one.error
    assert "DeadlinePassed" in one.traceback
    assert one.deadline is None
    kinds = [str(entry.kind) for entry in engine.history(one.execution_id)]
    assert sorted(kinds) == ["deadline_passed", "end_requested", "undoing"]


def test_undos_are_not_stopped_by_the_deadline(started, driver):
    stage.failing.add("undo a")
    one = later(driver, started(LIMITED, WAITS), HOUR)
    assert (one.state, in_force()) == ("pending", ["a"])
    stage.failing.clear()
    one = later(driver, one, 5 * HOUR)
    assert (one.state, in_force()) == ("failed", [])
    assert "deadline" in one.error


def test_a_deadline_does_not_stop_the_undos_of_a_cancellation(started, driver, engine):
    stage.failing.add("undo a")
    one = started(LIMITED, WAITS)
    engine.cancel(one.execution_id, reason="enough", compensate=True)
    assert settled(driver, one).state == "pending"
    stage.failing.clear()
    one = later(driver, one, 5 * HOUR)
    assert (one.state, one.error, in_force()) == ("cancelled", "enough", [])


def outlive_it(data):
    with saga("trip") as undo:
        step("a", on, "a")
        undo("undo a", off, "a")
        if "late" not in stage.seen:
            stage.seen.append("late")
            stage.driver.pass_time(HOUR)
        step("b", on, "b")
        undo("undo b", off, "b")
    return {"done": True}


def test_a_run_that_outlives_the_deadline_is_fenced_and_another_one_undoes(started, driver):
    one = settled(driver, started(WorkflowDefinition("w", handler=outlive_it, deadline=HOUR)))
    assert (one.state, in_force(), undone()[-1]) == ("failed", [], "a")
    assert "deadline" in one.error


def test_a_closed_saga_is_not_undone_by_a_deadline(started, driver):
    one = later(driver, started(LIMITED, {"after": True}), HOUR)
    assert (one.state, in_force(), undone()) == ("failed", ["a", "b", "c"], [])


# Signals and events of ends


def test_an_execution_that_undoes_takes_no_signals(started, driver, engine):
    stage.failing.add("undo a")
    one = started(WorkflowDefinition("trip", handler=plays.book_trip), WAITS)
    engine.cancel(one.execution_id, compensate=True)
    driver.settle()
    engine.signal(one.execution_id, "answer", "late")
    driver.settle()
    [signal] = engine.signals(one.execution_id)
    assert signal.status is SignalStatus.KEPT
    stage.failing.clear()
    one = later(driver, one)
    assert (one.state, in_force()) == ("cancelled", [])
    [signal] = engine.signals(one.execution_id)
    assert (signal.status, signal.wait) == (SignalStatus.UNREAD, None)


@pytest.mark.parametrize("way", ["cancelled", "late", "failed", "incomplete", "plainly cancelled"])
def test_an_end_after_undos_is_emitted_once_and_only_then(started, driver, engine, ends, way):
    ends.listen(*TYPES.values())
    stage.failing.add("undo a")
    stage.failing |= {"c"} if way == "failed" else set()
    one = started(LIMITED, {} if way == "failed" else WAITS)
    if way in ("cancelled", "plainly cancelled"):
        engine.cancel(one.execution_id, compensate=True)
    elif way in ("late", "incomplete"):
        driver.pass_time(HOUR)
    ends.settle()
    assert engine.status(one.execution_id).state == "pending"
    assert ends.events == [], "it has not ended"
    if way == "plainly cancelled":
        engine.cancel(one.execution_id)
    stage.failing -= set() if way == "incomplete" else {"undo a"}
    driver.pass_time(HOUR)
    ends.settle()
    kind = EXECUTION_CANCELLED if "cancelled" in way else EXECUTION_FAILED
    assert [event.event_type for event in ends.events] == [kind]
    is_undone = way not in ("incomplete", "plainly cancelled")
    assert in_force() == ([] if is_undone else ["a"])


# Continuing as new


def renew_in_a_saga(data):
    with saga("trip") as undo:
        step("a", on, "a")
        undo("undo a", off, "a")
        continue_as_new({"n": 1})


def renew_after_a_saga(data):
    if data:
        return {"n": data["n"]}
    with saga("trip") as undo:
        step("a", on, "a")
        undo("undo a", off, "a")
    return continue_as_new({"n": 1})


def test_continuing_as_new_is_refused_in_a_saga(started):
    one = started(WorkflowDefinition("w", handler=renew_in_a_saga))
    assert (one.state, in_force()) == ("failed", [])
    assert "while the saga 'trip' is open" in one.error


def test_after_a_saga_an_execution_may_continue_as_new(started, engine):
    one = started(WorkflowDefinition("w", handler=renew_after_a_saga))
    assert (one.state, one.output_data, in_force()) == ("completed", {"n": 1}, ["a"])
    assert engine.executions().count() == 2


def renew_although_it_is_to_end(data):
    with saga("trip") as undo:
        step("a", on, "a")
        undo("undo a", off, "a")
        if not data:
            step("b", plays.cancel_here, atomic=False)
    return continue_as_new({"n": 1})


def test_an_execution_that_is_to_end_does_not_continue_as_new(started, driver, engine):
    one = settled(driver, started(WorkflowDefinition("w", handler=renew_although_it_is_to_end)))
    assert (one.state, one.error) == ("cancelled", "enough")
    assert undone() == ["a"]
    assert engine.executions().count() == 1


# Coroutines


async def off_async(name):
    note(f"undo {name}")
    await Tag.objects.filter(name=name).adelete()


async def trip(data):
    async with saga("trip") as undo:
        await astep("a", on, "a")
        undo("undo a", off_async, "a")
        undo("undo b", off, "b")
        await astep("b", on, "b", atomic=False, timeout=HOUR)
        if "waits" in data:
            await await_for("answer", signal="paid")
        await astep("c", on, "c", retry=SHORT)
    return {"done": True}


TRIP = WorkflowDefinition("atrip", handler=trip)


def test_a_coroutine_has_sagas(started, driver):
    stage.failing.add("c")
    one = started(TRIP)
    assert (one.state, stage.calls.count("do c")) == ("pending", 1)
    one = later(driver, one)
    assert (one.state, in_force(), undone()) == ("failed", [], ["b", "a"])
    assert "c fails" in one.error


def test_a_saga_of_a_coroutine_that_ends_well_stays(started, engine, driver):
    one = started(TRIP, WAITS)
    engine.signal(one.execution_id, "paid", 7)
    one = settled(driver, one)
    assert (one.state, in_force(), undone()) == ("completed", ["a", "b", "c"], [])


def test_a_coroutine_is_cancelled_with_its_undos(started, engine, driver):
    one = started(TRIP, WAITS)
    assert async_to_sync(engine.acancel)(one.execution_id, compensate=True).state != "completed"
    one = settled(driver, one)
    assert (one.state, in_force(), undone()) == ("cancelled", [], ["b", "a"])


async def plain_block(data):
    with saga("trip") as undo:
        undo("undo a", off, "a")


def test_a_plain_block_in_a_coroutine_names_the_other_one(started):
    one = started(WorkflowDefinition("w", handler=plain_block))
    assert one.state == "failed"
    assert "with saga('trip') was called in a coroutine: write async with saga('trip')" in one.error


def test_outside_an_execution_coroutines_have_sagas_too():
    async def book():
        async with saga("trip") as undo:
            undo("undo a", off_later, "a")
            raise ValueError("no")

    async def off_later(name):
        await asyncio.sleep(0)
        note(f"undo {name}")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(book())
    assert undone() == ["a"]
    with pytest.raises(StepUsageError, match="async with saga"):
        asyncio.run(plain_block({}))


def fails_at_most_twice(data):
    return {"n": step("n", plays.book, retry=Retry(max_attempts=3, base=60, jitter=0))}


def test_a_deadline_counts_the_delays_of_steps(started, driver):
    stage.troubles[:] = [ValueError("one"), ValueError("two")]
    limit = timedelta(seconds=90)
    definition = WorkflowDefinition("w", handler=fails_at_most_twice, deadline=limit)
    one = later(driver, started(definition), timedelta(seconds=61))
    assert one.state == "pending"
    one = later(driver, one, timedelta(seconds=61))
    assert (one.state, stage.calls) == ("failed", ["book", "book"])
    assert "deadline" in one.error


def depose(data):
    with saga("reign") as undo:
        undo("restore", note, "restored")
        step("rise", note, "risen")
        get_workflow_engine().cancel(current_execution_id(), reason="enough")


def test_x2_a_cancelled_execution_stays_so_though_its_handler_leaves_a_saga(started):
    one = started(WorkflowDefinition("deposed", handler=depose))
    assert (one.state, one.error) == ("cancelled", "enough")
    assert stage.calls == ["risen"]
