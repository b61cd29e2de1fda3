"""Sagas: what was done is undone, last first, whoever ends the execution, and only then."""

from datetime import timedelta

import pytest

from general_manager.workflow import (
    PermanentFailure,
    Retry,
    StepUsageError,
    WorkflowCancelledError,
    WorkflowDefinition,
    WorkflowInvalidStateError,
    saga,
    step,
    wait_for,
)
from general_manager.workflow.executions import store
from general_manager.workflow.signals import saga_undone
from tests.testapp import plays
from tests.testapp.models import Tag
from tests.testapp.plays import HOUR, note, off, on, stage, stumble

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

MINUTE = timedelta(minutes=1, seconds=1)
AGAIN = Retry(max_attempts=2, base=60, factor=1, jitter=0)
TRIP = WorkflowDefinition("trip", handler=plays.book_trip)
PATIENT = WorkflowDefinition("trip", handler=plays.book_trip, retry=AGAIN)
NESTED = WorkflowDefinition("nested", handler=plays.trip_in_trip)


def later(driver, execution, duration=MINUTE):
    driver.pass_time(duration)
    driver.settle()
    return driver.engine.status(execution.execution_id)


def in_force():
    return sorted(Tag.objects.values_list("name", flat=True))


def undone():
    return [call.removeprefix("undo ") for call in stage.calls if call.startswith("undo ")]


def settled(driver, execution):
    driver.settle()
    return driver.engine.status(execution.execution_id)


# An exception that leaves the block


def test_what_was_done_is_undone_last_first_and_the_exception_goes_on(started, engine):
    stage.failing.add("c")
    one = started(TRIP)
    assert (one.state, one.error) == ("failed", "c fails")
    assert "in on" in one.traceback
    assert (undone(), in_force()) == (["b", "a"], [])
    kinds = [(str(one.kind), one.detail, one.step) for one in engine.history(one.execution_id)]
    assert kinds == [("undoing", "c fails", "trip")]


def register_late(_):
    with saga("trip") as undo:
        step("a", int)
    undo("undo a", int)


def test_an_undo_that_is_registered_after_its_block_is_refused(started):
    execution = started(WorkflowDefinition("late", handler=register_late))
    assert execution.state == "failed"
    assert "'undo a' was registered when the block of saga 'trip' had been left" in execution.error


def test_so_it_is_outside_of_an_execution():
    with saga("trip") as undo:
        pass
    with pytest.raises(
        StepUsageError, match="'undo a' was registered when the block had been left"
    ):
        undo("undo a", int)


def test_a_saga_that_ends_well_is_not_undone(started, driver, engine):
    one = started(TRIP, {"after": True})
    stage.failing.add("last")
    engine.resume(one.execution_id, "go")
    one = settled(driver, one)
    assert (one.state, one.error) == ("failed", "last fails")
    assert (undone(), in_force()) == ([], ["a", "b", "c"])


def test_nothing_is_undone_that_was_never_begun_unless_it_was_registered_before(started):
    stage.failing.add("a")
    assert started(TRIP).state == "failed"
    assert (undone(), in_force()) == ([], [])
    stage.failing.clear()
    stage.calls.clear()
    stage.failing.add("b")
    assert started(TRIP).state == "failed"
    assert (undone(), in_force()) == (["b", "a"], [])


def test_while_another_attempt_follows_nothing_is_undone(started, driver):
    stage.failing.add("c")
    one = started(PATIENT, {"catches": True})
    assert (one.state, undone()) == ("pending", [])
    one = later(driver, one)
    assert one.output_data == {"sorry": "sorry: c fails"}
    assert undone() == ["b", "a"]


def test_an_attempt_that_fails_in_a_block_is_not_caught_by_the_handler(started, driver):
    """It would go on as if the saga were undone."""
    stage.failing.add("c")
    one = started(PATIENT, {"catches": True})
    assert "sorry: c fails" not in stage.calls
    stage.failing.clear()
    assert later(driver, one).output_data == {"done": True}
    assert in_force() == ["a", "b", "c"]


@pytest.mark.parametrize("error", [PermanentFailure("never"), RuntimeError("between")])
def test_an_exception_between_the_steps_starts_the_undos_when_it_is_final(started, driver, error):
    stage.troubles[:] = [error, error]
    one = started(PATIENT, {"moment": True})
    if isinstance(error, RuntimeError):
        assert (one.state, undone()) == ("pending", [])
        one = later(driver, one)
    assert (one.state, one.error) == ("failed", str(error))
    assert (undone(), in_force()) == (["b", "a"], [])


def test_the_last_failure_of_a_step_with_a_budget_is_final_at_once(started, driver):
    stage.failing.add("c")
    one = started(PATIENT, {"budget": True})
    assert (one.state, undone()) == ("pending", [])
    one = later(driver, one)
    assert one.output_data == {"sorry": "sorry: Step 'c' failed after 2 attempts: c fails"}
    assert undone() == ["b", "a"]


def test_a_wait_that_times_out_is_final_at_once(started, driver):
    one = later(driver, started(PATIENT, {"waits": True}), 25 * HOUR)
    assert (one.state, one.error) == ("failed", "Wait 'answer' timed out without an answer.")
    assert (undone(), in_force()) == (["b", "a"], [])


def test_a_handler_that_catches_what_left_the_saga_goes_on(started):
    stage.failing.add("c")
    one = started(TRIP, {"catches": True})
    assert (one.state, one.output_data) == ("completed", {"sorry": "sorry: c fails"})
    assert (undone(), in_force()) == (["b", "a"], [])


def catch_and_wait(data):
    try:
        plays.book_trip({})
    except ValueError as error:
        note(f"caught {error}")
        wait_for("after")
    stumble()
    return {}


def test_every_replay_raises_what_left_the_saga_and_runs_nothing_in_it(started, driver, engine):
    stage.failing.add("c")
    one = started(WorkflowDefinition("w", handler=catch_and_wait, retry=None))
    assert one.state == "waiting"
    stage.failing.clear()
    before = list(stage.calls)
    engine.resume(one.execution_id, "go")
    one = settled(driver, one)
    assert (one.state, in_force()) == ("completed", [])
    assert stage.calls == [*before, "caught c fails"]


def test_an_undo_that_fails_is_retried_and_holds_no_worker_meanwhile(started, driver):
    stage.failing |= {"c", "undo b"}
    one = started(TRIP)
    assert (one.state, undone()) == ("pending", ["b"])
    stage.failing.discard("undo b")
    one = later(driver, one)
    assert (one.state, one.error) == ("failed", "c fails")
    assert (undone(), in_force()) == (["b", "b", "a"], [])
    assert stage.calls.count("do c") == 1


def test_an_undo_that_fails_for_good_is_named_and_the_others_run(started, driver):
    stage.failing |= {"c", "undo b"}
    one = later(driver, started(TRIP, {"catches": True}))
    assert (one.state, in_force()) == ("failed", ["b"])
    assert one.error == (
        "compensation incomplete: not undone: 'undo b'. It was undone because of: c fails"
    )
    assert undone() == ["b", "b", "a"]


def test_observers_hear_what_was_undone_and_what_is_left(started, driver):
    heard = []

    def hear(**told):
        heard.append((told["execution_id"], told["workflow_id"], told["saga"], told["left"]))

    saga_undone.connect(hear)
    try:
        stage.failing |= {"c"}
        whole = started(TRIP)
        stage.failing |= {"undo b"}
        partly = later(driver, started(TRIP))
    finally:
        saga_undone.disconnect(hear)
    assert heard == [
        (whole.execution_id, "trip", "trip", ()),
        (partly.execution_id, "trip", "trip", ("undo b",)),
    ]


def test_a_step_in_doubt_starts_no_undo(started, driver, engine):
    one = started(WorkflowDefinition("w", handler=charge_in_a_saga))
    assert one.state == "failed"
    assert "resolve it" in str(one.error)
    assert undone() == []
    stage.troubles[:] = [ValueError("then")]
    again = engine.resolve_step(one.execution_id, "charge", happened=True, result="receipt")
    again = settled(driver, again)
    assert (again.state, again.error) == ("failed", "then")
    assert (undone(), in_force()) == (["a"], [])


def charge_in_a_saga(data):
    with saga("trip") as undo:
        step("a", on, "a")
        undo("undo a", off, "a")
        if "charged" not in stage.calls:
            note("charged")
            stage.troubles[:] = [SystemError("x")]
        step("charge", die_in_doubt, once=True, atomic=False)
        stumble()


def die_in_doubt():
    """Leaves the step as one whose worker died: its end is not recorded."""
    from general_manager.workflow.exceptions import StepInDoubt

    raise StepInDoubt("id", "charge: resolve it")


# Sagas in sagas


@pytest.mark.parametrize("failing", ["c", "d", "e"])
def test_an_inner_saga_that_ended_well_is_undone_with_the_outer_one(started, failing):
    stage.failing.add(failing)
    one = started(NESTED, {"inside": True})
    assert one.state == "failed"
    order = {"c": ["b", "a"], "d": ["b", "a"], "e": ["d", "b", "a"]}
    assert undone() == order[failing]
    assert in_force() == ["c"] * (failing != "c")


def test_an_inner_saga_that_cannot_be_undone_has_the_outer_one_undone_too(started, driver):
    stage.failing |= {"c", "undo b"}
    one = later(driver, started(NESTED, {"inside": True}))
    assert one.state == "failed"
    assert "not undone: 'undo b'" in str(one.error)
    assert (undone(), in_force()) == (["b", "b", "a"], ["b"])


# Cancelling


def test_a_compensating_cancel_undoes_what_waits_and_then_cancels_it(started, driver, engine):
    one = started(TRIP, {"waits": True})
    assert one.state == "waiting"
    now = engine.cancel(one.execution_id, reason="enough", compensate=True)
    assert now.state in ("pending", "cancelled")
    one = settled(driver, one)
    assert (one.state, one.error, one.waiting_for) == ("cancelled", "enough", None)
    assert one.metadata["cancel_reason"] == "enough"
    assert (undone(), in_force()) == (["b", "a"], [])
    kinds = [str(entry.kind) for entry in engine.history(one.execution_id)]
    assert kinds == ["end_requested", "undoing", "cancelled"]
    with pytest.raises(WorkflowCancelledError):
        engine.resume(one.execution_id, "late")


def test_a_plain_cancel_undoes_nothing(started, engine):
    one = started(TRIP, {"waits": True})
    one = engine.cancel(one.execution_id)
    assert (one.state, undone(), in_force()) == ("cancelled", [], ["a", "b"])


def test_without_an_open_saga_a_compensating_cancel_is_a_plain_one(started, engine):
    one = started(WorkflowDefinition("w", handler=plays.ask_twice))
    one = engine.cancel(one.execution_id, reason="enough", compensate=True)
    assert (one.state, one.error) == ("cancelled", "enough")
    with pytest.raises(WorkflowInvalidStateError):
        engine.cancel(one.execution_id, compensate=True)


def test_a_closed_saga_is_not_reopened_by_a_compensating_cancel(started, driver, engine):
    one = started(TRIP, {"after": True})
    engine.cancel(one.execution_id, compensate=True)
    one = settled(driver, one)
    assert (one.state, undone(), in_force()) == ("cancelled", [], ["a", "b", "c"])


def test_a_compensating_cancel_ends_the_delay_before_the_next_attempt(started, driver, engine):
    stage.failing.add("c")
    one = started(PATIENT)
    assert one.state == "pending"
    engine.cancel(one.execution_id, compensate=True)
    one = settled(driver, one)
    assert (one.state, undone(), in_force()) == ("cancelled", ["b", "a"], [])


@pytest.mark.parametrize("atomic", [True, False])
def test_x8_the_step_under_way_finishes_and_is_undone(started, driver, atomic):
    """The undo of the step itself was not reached: its step raises before it is registered."""
    definition = WorkflowDefinition("w", handler=plays.cancel_itself_and_undo)
    one = settled(driver, started(definition, {"atomic": atomic}))
    assert (one.state, one.error) == ("cancelled", "enough")
    assert stage.calls == ["do a", "between", "undo b", "undo a"]
    assert in_force() == []


def test_x8_a_step_that_asks_for_the_end_finishes_however_slow_its_record_is(
    started, driver, monkeypatch
):
    """As if the process had been held up between the step's end and its record."""
    monkeypatch.setattr(store, "monotonic", lambda: 0.0)
    one = settled(
        driver,
        started(WorkflowDefinition("w", handler=plays.cancel_itself_and_undo), {"atomic": True}),
    )
    assert (one.state, one.error) == ("cancelled", "enough")
    assert stage.calls == ["do a", "between", "undo b", "undo a"]


def swallow_the_request(data):
    with saga("trip") as undo:
        step("a", on, "a")
        undo("undo a", off, "a")
        try:
            wait_for("answer")
        except BaseException:
            note("swallowed")
    return {"kept": True}


def test_a_handler_that_swallows_the_request_is_undone_and_cancelled(started, driver, engine):
    one = started(WorkflowDefinition("w", handler=swallow_the_request))
    stage.calls.clear()
    engine.cancel(one.execution_id, compensate=True)
    one = settled(driver, one)
    assert (one.state, one.output_data, in_force()) == ("cancelled", None, [])


def cancel_in_the_last_step(data):
    with saga("trip") as undo:
        step("a", plays.cancel_here, atomic=data["atomic"])
        undo("undo a", off, "b")
    return {"done": True}


@pytest.mark.parametrize("atomic", [True, False])
def test_a_handler_that_returns_although_it_was_to_end_is_undone(started, driver, atomic):
    definition = WorkflowDefinition("w", handler=cancel_in_the_last_step)
    one = settled(driver, started(definition, {"atomic": atomic}))
    assert (one.state, one.error, in_force()) == ("cancelled", "enough", [])


def test_a_plain_cancel_stops_the_undoing_and_names_what_is_left(started, driver, engine):
    stage.failing |= {"c", "undo b"}
    one = started(TRIP)
    assert one.state == "pending"
    one = engine.cancel(one.execution_id, reason="enough")
    assert (one.state, one.error) == ("cancelled", "enough\nNot undone: 'undo b', 'undo a'.")
    stage.failing.clear()
    again = settled(driver, engine.retry_from_checkpoint(one.execution_id))
    assert (again.state, in_force()) == ("cancelled", [])
    assert stage.calls.count("do c") == 1


def test_wrong_arguments_of_cancel_are_refused(started, engine):
    one = started(TRIP, {"waits": True})
    with pytest.raises(TypeError, match="compensate"):
        engine.cancel(one.execution_id, compensate="yes")


# An operator's retry


def test_an_undone_saga_is_forgotten_as_a_whole_by_a_retry(started, driver, engine):
    stage.failing.add("c")
    one = started(TRIP)
    preview = engine.preview_retry(one.execution_id)
    assert (preview.kept, set(preview.runs_again)) == ((), {"a", "b", "c"})
    stage.failing.clear()
    stage.calls.clear()
    again = settled(driver, engine.retry_from_checkpoint(one.execution_id))
    assert (again.state, in_force()) == ("completed", ["a", "b", "c"])


def test_an_operator_has_the_rest_undone_and_nothing_else(started, driver, engine):
    stage.failing |= {"c", "undo b"}
    one = later(driver, started(TRIP, {"catches": True}))
    assert in_force() == ["b"]
    with pytest.raises(WorkflowInvalidStateError, match="without before="):
        engine.retry_from_checkpoint(one.execution_id, before="a")
    stage.failing.clear()
    stage.calls.clear()
    again = settled(driver, engine.retry_from_checkpoint(one.execution_id))
    assert (again.state, again.error) == ("failed", "c fails")
    assert (stage.calls, in_force()) == (["undo b"], [])


# What ends an execution without its handler


def take_an_hour_in_a_saga(data):
    with saga("trip") as undo:
        step("a", on, "a")
        undo("undo a", off, "a")
        if "a" not in stage.failing:
            stage.driver.pass_time(HOUR)
        undo("undo b", off, "b")
        step("b", on, "b")


def test_an_overdue_execution_is_undone_before_it_fails(started, driver):
    definition = WorkflowDefinition(
        "slow", handler=take_an_hour_in_a_saga, timeout=timedelta(minutes=1)
    )
    one = settled(driver, started(definition))
    for _ in range(3):
        one = later(driver, one)
    assert one.state == "failed"
    assert "timeout" in str(one.error)
    assert in_force() == []


def fail_before_the_saga(data):
    if "before" in stage.failing:
        if data["heals"]:
            stage.failing.discard("before")
        raise ValueError("before the saga")
    with saga("trip") as undo:
        step("a", on, "a")
        undo("undo a", off, "a")
        wait_for("answer")


@pytest.mark.parametrize("heals", [True, False])
def test_a_handler_that_fails_before_its_open_saga_is_run_once_more_to_undo_it(
    started, driver, engine, heals
):
    one = started(WorkflowDefinition("w", handler=fail_before_the_saga), {"heals": heals})
    stage.failing.add("before")
    engine.resume(one.execution_id, "go")
    one = settled(driver, one)
    incomplete = "compensation incomplete: not undone: 'trip'. It was undone because of: "
    why = "before the saga"
    assert (one.state, one.error) == ("failed", why if heals else f"{incomplete}{why}")
    assert in_force() == ([] if heals else ["a"])


# A deploy


def versions(data):
    with saga("trip") as undo:
        step("a", on, "a")
        if "old" in stage.failing:
            undo("undo a as before", off, "a", retry=plays.SHORT)
        else:
            undo("undo a", off, "a", retry=plays.SHORT)
        undo("undo more", off, "more", retry=plays.SHORT)
        step("c", on, "c")


def test_recorded_undos_that_are_registered_no_more_make_it_incomplete_by_name(started, driver):
    stage.failing |= {"c", "undo more", "old"}
    one = started(WorkflowDefinition("w", handler=versions))
    assert one.state == "pending"
    stage.failing -= {"undo more", "old"}
    one = later(driver, one)
    assert one.state == "failed"
    assert "not undone: 'undo a as before'." in str(one.error)
    assert in_force() == [], "the new undo ran"


# Usage


def test_outside_an_execution_the_undos_are_called_at_once():
    with pytest.raises(ValueError, match="c fails"), saga("trip") as undo:
        undo("a", note, "undo a")
        undo("b", (3).__truediv__, 0)
        undo("c", note, "undo c")
        raise ValueError("c fails")
    assert stage.calls == ["undo c", "undo a"]


def wrong_usage(data):
    with saga("trip") as undo:
        undo("trip", note, "x")


def test_names_of_sagas_and_undos_are_unique_in_a_run(started):
    one = started(WorkflowDefinition("w", handler=wrong_usage))
    assert "used twice" in str(one.error)
    assert issubclass(StepUsageError, Exception)
