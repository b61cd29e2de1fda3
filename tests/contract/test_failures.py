"""Steps that fail: budgets of their own, and branches that stay what they were."""

from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from general_manager.workflow import (
    PermanentFailure,
    Retry,
    RetryAfter,
    StepFailed,
    StepUsageError,
    WorkflowDefinition,
    WorkflowInvalidStateError,
    step,
    wait_for,
)
from general_manager.workflow.exceptions import WaitTimeout
from tests.testapp import plays
from tests.testapp.models import Tag
from tests.testapp.plays import HOUR, DeclinedError, UnknownBankError, stage

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

MINUTE = timedelta(minutes=1, seconds=1)
AGAIN = Retry(max_attempts=5, base=60, factor=1, jitter=0)
BOOKING = WorkflowDefinition("booking", handler=plays.try_to_book, retry=AGAIN)
OR_FAIL = WorkflowDefinition("or fail", handler=plays.book_or_fail, retry=AGAIN)
PLAINLY = WorkflowDefinition("plainly", handler=plays.book_plainly, retry=AGAIN)
CATCHING = WorkflowDefinition("catching", handler=plays.catch_then, retry=AGAIN)
SEEN: list[object] = []
LATE = WorkflowDefinition("late", handler=plays.book_late)


def later(driver, execution, duration=MINUTE):
    driver.pass_time(duration)
    driver.settle()
    return driver.engine.status(execution.execution_id)


# A budget of its own


@pytest.mark.parametrize("atomic", [True, False])
def test_a_step_is_tried_again_on_its_own_budget_and_its_success_goes_on(started, driver, atomic):
    stage.troubles[:] = [ValueError("full"), ValueError("full"), None]
    one = started(BOOKING, {"attempts": 3, "atomic": atomic})
    assert (one.state, stage.calls) == ("pending", ["book"])
    one = later(driver, one)
    assert (one.state, stage.calls) == ("pending", ["book"] * 2)
    one = later(driver, one)
    assert (one.state, one.output_data) == ("completed", {"seat": "confirm 7"})
    assert stage.calls == ["book"] * 3 + ["confirm 7"]


@pytest.mark.parametrize("atomic", [True, False])
def test_after_its_last_attempt_a_step_raises_step_failed_with_the_text(started, driver, atomic):
    stage.troubles[:] = [ValueError("full"), KeyError("closed")]
    one = later(driver, started(BOOKING, {"attempts": 2, "atomic": atomic}))
    assert one.output_data == {"apology": "KeyError: 'closed'"}
    assert stage.calls.count("book") == 2


def test_attempts_of_a_step_do_not_count_for_the_execution(started, driver):
    stage.troubles[:] = [ValueError("full")] * 6
    one = started(WorkflowDefinition("w", handler=plays.try_to_book), {"attempts": 7})
    for _ in range(6):
        assert one.state == "pending"
        one = later(driver, one)
    assert one.output_data == {"seat": "confirm 7"}


def test_each_attempt_is_in_the_history_with_its_step_and_number(started, driver, engine):
    stage.troubles[:] = [ValueError("full"), ValueError("closed")]
    one = later(driver, started(BOOKING, {"attempts": 3}))
    entries = [(str(e.kind), e.detail, e.step, e.number) for e in engine.history(one.execution_id)]
    assert entries == [
        ("attempt_failed", "full", "seat", 1),
        ("attempt_failed", "closed", "seat", 2),
    ]


def test_a_step_that_waits_for_its_next_attempt_is_not_run_before(started, driver):
    stage.troubles[:] = [ValueError("full"), None]
    one = later(driver, started(BOOKING, {"attempts": 2}), timedelta(seconds=50))
    assert (one.state, stage.calls) == ("pending", ["book"])
    assert later(driver, one).state == "completed"


def test_an_operator_ends_the_delay_before_a_steps_next_attempt(started, driver, engine):
    stage.troubles[:] = [ValueError("full"), None]
    one = started(BOOKING, {"attempts": 2})
    engine.wake(one.execution_id)
    driver.settle()
    assert engine.status(one.execution_id).state == "completed"


def test_retry_after_says_when_the_next_attempt_of_a_step_comes(started, driver):
    stage.troubles[:] = [RetryAfter(HOUR, "busy"), None]
    one = later(driver, started(BOOKING, {"attempts": 2}))
    assert (one.state, stage.calls) == ("pending", ["book"])
    assert later(driver, one, HOUR).state == "completed"


def stop_on_recursion(data):
    try:
        step("seat", plays.book, retry=Retry(max_attempts=5, stop_on=(RecursionError,)))
    except StepFailed as failure:
        return {"failed": failure.error, "attempts": failure.attempts}


@pytest.mark.parametrize("error", [PermanentFailure("never"), RecursionError("deep")])
def test_what_is_permanent_or_in_stop_on_is_the_last_attempt(started, error):
    stage.troubles[:] = [error]
    one = started(WorkflowDefinition("w", handler=stop_on_recursion))
    assert one.output_data == {"failed": str(error), "attempts": 1}


def test_a_final_failure_that_leaves_the_handler_fails_at_once_and_shows_its_cause(started, driver):
    stage.troubles[:] = [ValueError("full")] * 3
    one = started(OR_FAIL)
    for _ in range(2):
        assert one.state == "pending"
        one = later(driver, one)
    assert (one.state, one.error) == ("failed", "Step 'seat' failed after 3 attempts: full")
    assert "in stumble" in one.traceback
    assert "ValueError: full" in one.traceback
    assert stage.calls == ["book"] * 3


def look_at_the_cause(data):
    try:
        step("seat", plays.book, retry=Retry(max_attempts=1))
    except StepFailed as failure:
        SEEN.append((repr(failure.__cause__), failure.error, failure.kind, failure.attempts))
    step("next", plays.note, "next")
    plays.stumble()


def test_the_cause_of_step_failed_is_rebuilt_on_every_replay(started, driver):
    SEEN.clear()
    stage.troubles[:] = [KeyError("closed"), RuntimeError("again"), None]
    one = started(WorkflowDefinition("w", handler=look_at_the_cause, retry=AGAIN))
    assert later(driver, one).state == "completed"
    assert SEEN == [("KeyError('closed')", "KeyError: 'closed'", "builtins.KeyError", 1)] * 2


# A time limit


@pytest.mark.parametrize("atomic", [True, False])
def test_an_attempt_that_takes_too_long_has_failed_and_its_result_does_not_count(
    started, driver, atomic
):
    one = started(LATE, {"atomic": atomic})
    assert one.output_data is not None
    assert "took longer than its timeout" in one.output_data["failed"]
    assert one.output_data["kind"] == "StepTimeout"
    assert stage.calls == ["book"]
    assert Tag.objects.count() == (not atomic)


def test_an_attempt_that_takes_too_long_is_followed_by_the_next_one(started, driver):
    one = started(LATE, {"atomic": True, "again": True})
    assert (one.state, stage.calls) == ("pending", ["book"])
    one = later(driver, one)
    assert stage.calls == ["book"] * 2
    assert one.state == "completed"
    assert not Tag.objects.exists()


def test_an_attempt_in_time_counts(started):
    assert started(BOOKING, {"seconds": 5}).output_data == {"seat": "confirm 7"}
    assert started(BOOKING, {"seconds": 5, "atomic": False}).output_data == {"seat": "confirm 7"}


def test_a_step_with_a_timeout_alone_has_one_attempt(started):
    stage.troubles[:] = [ValueError("full")]
    assert started(BOOKING, {"seconds": 5}).output_data == {"apology": "full"}
    assert stage.calls.count("book") == 1


# A failure that the handler catches


@pytest.mark.parametrize("following", ["atomic", "not atomic", "once", "wait", "sleep"])
@pytest.mark.parametrize("error", [ValueError("a"), UnknownBankError(object())])
def test_a_caught_failure_is_raised_again_by_every_replay(
    started, driver, engine, following, error
):
    stage.troubles[:] = [error]
    one = started(CATCHING, {"then": following})
    if following == "wait":
        engine.resume(one.execution_id)
    one = later(driver, one, HOUR)
    # The second run would not stumble; that of the sleep and of the wait has replayed it.
    caught = {"ValueError": "ValueError: a"}
    text = caught.get(type(error).__name__, "StepFailed: Step 'fragile' failed: unknown bank")
    assert (one.state, one.output_data) == ("completed", {"caught": text})


@pytest.mark.parametrize("following", ["atomic", "not atomic", "once"])
def test_a_caught_failure_stands_when_a_later_attempt_of_the_execution_replays_it(
    started, driver, following
):
    stage.troubles[:] = [ValueError("a"), RuntimeError("between the steps"), None]
    one = started(CATCHING, {"then": following})
    assert one.state == "pending"
    one = later(driver, one)
    assert (one.state, one.output_data) == ("completed", {"caught": "ValueError: a"})


def test_a_failure_that_leaves_the_handler_is_not_recorded(started, driver):
    stage.troubles[:] = [ValueError("full"), None]
    one = started(PLAINLY)
    assert one.state == "pending"
    assert later(driver, one).output_data == {"seat": 7}


def test_a_caught_failure_is_not_recorded_if_the_next_step_is_undone(started, driver):
    """Both were as if they had never been."""
    stage.troubles[:] = [ValueError("full"), ValueError("no mail"), None]
    handler = plays.try_to_book
    one = started(WorkflowDefinition("w", handler=catching_both, retry=AGAIN))
    assert one.state == "pending"
    assert later(driver, one).output_data == {"seat": 7}
    assert handler is plays.try_to_book


def catching_both(data):
    try:
        return {"seat": step("seat", plays.book)}
    except ValueError as error:
        return {"apology": step("apologise", plays.apologise, str(error))}


def test_a_once_step_whose_failure_was_caught_is_not_in_doubt(started, driver):
    stage.troubles[:] = [ValueError("declined"), RuntimeError("between"), None]
    one = started(CATCHING, {"then": "atomic", "once": True})
    assert later(driver, one).output_data == {"caught": "ValueError: declined"}


def test_a_recorded_failure_that_is_raised_on_fails_the_execution_at_once(started):
    """Every attempt would raise it again."""
    stage.troubles[:] = [ValueError("a")]
    one = started(WorkflowDefinition("w", handler=plays.clean_up_and_raise, retry=AGAIN))
    stage.troubles[:] = []
    assert stage.calls == ["clean up"]
    assert one.error == "a"


def test_a_wait_that_timed_out_and_left_the_handler_fails_the_execution_at_once(started, driver):
    one = started(WorkflowDefinition("w", handler=wait_an_hour, retry=AGAIN))
    one = later(driver, one, HOUR)
    assert (one.state, one.error) == ("failed", str(WaitTimeout("answer")))


def wait_an_hour(data):
    wait_for("answer", timeout=HOUR / 2)


def look(data):
    try:
        step("seat", plays.book)
    except Exception as error:
        SEEN.append((type(error).__name__, str(error), vars(error).get("code")))
        SEEN.append(vars(error).get("body"))
    step("next", plays.note, "next")
    plays.stumble()


@pytest.mark.parametrize(
    "error",
    [
        DeclinedError(code=51, body=object()),
        DeclinedError(code=51, body={"a": 1}),
        FileNotFoundError(2, "No such file", "a.txt"),
        UnknownBankError(object()),
        Tag.DoesNotExist("gone"),
        ExceptionGroup("both", [ValueError("a")]),
    ],
)
def test_an_exception_is_the_same_in_the_first_run_as_in_every_other(started, driver, error):
    SEEN.clear()
    stage.troubles[:] = [error, RuntimeError("again"), None]
    one = started(WorkflowDefinition("w", handler=look, retry=AGAIN))
    assert later(driver, one).state == "completed"
    assert SEEN[:2] == SEEN[2:]
    assert len(SEEN) == 4


def test_the_execution_is_retried_by_what_the_step_raised_whatever_the_handler_saw(started):
    """`StepFailed` stands for an exception that cannot be rebuilt, and decides nothing."""
    stage.troubles[:] = [UnknownBankError(object())]
    stop = Retry(max_attempts=5, stop_on=(UnknownBankError,))
    one = started(WorkflowDefinition("w", handler=plays.book_plainly, retry=stop))
    assert (one.state, one.error) == ("failed", "unknown bank")
    assert "in stumble" in one.traceback
    assert "StepFailed" not in one.traceback


class GoneForeverError(PermanentFailure):
    def __init__(self, thing):
        super().__init__(thing)

    def __str__(self):
        return "gone for ever"


def test_a_permanent_failure_that_cannot_be_rebuilt_ends_the_execution(started):
    stage.troubles[:] = [GoneForeverError(object())]
    one = started(PLAINLY)
    assert (one.state, one.error) == ("failed", "gone for ever")


# Taken back


def test_a_final_failure_that_left_the_handler_is_forgotten_by_a_retry(started, driver, engine):
    stage.troubles[:] = [ValueError("full")] * 3
    one = later(driver, later(driver, started(OR_FAIL)))
    preview = engine.preview_retry(one.execution_id)
    assert (preview.kept, preview.runs_again) == ((), ("seat",))
    again = engine.retry_from_checkpoint(one.execution_id)
    driver.settle()
    assert engine.status(again.execution_id).output_data == {"seat": 7}


def test_a_caught_failure_is_kept_by_a_retry(started, driver, engine):
    stage.troubles[:] = [ValueError("a"), PermanentFailure("between"), None]
    one = started(CATCHING, {"then": "atomic"})
    assert one.state == "failed"
    assert engine.preview_retry(one.execution_id).kept == ("fragile", "next")
    again = engine.retry_from_checkpoint(one.execution_id)
    driver.settle()
    assert engine.status(again.execution_id).output_data == {"caught": "ValueError: a"}


def test_a_caught_failure_is_forgotten_from_before_it(started, driver, engine):
    stage.troubles[:] = [ValueError("a"), PermanentFailure("between"), None, None]
    one = started(CATCHING, {"then": "atomic"})
    again = engine.retry_from_checkpoint(one.execution_id, before="fragile")
    driver.settle()
    assert engine.status(again.execution_id).output_data == {"caught": ""}


def test_a_step_between_two_attempts_starts_with_a_fresh_budget_after_a_retry(
    started, driver, engine
):
    stage.troubles[:] = [ValueError("full")] * 4 + [None]
    one = later(driver, started(OR_FAIL))
    engine.cancel(one.execution_id)
    again = engine.retry_from_checkpoint(one.execution_id)
    driver.settle()
    for _ in range(2):
        assert engine.status(again.execution_id).state == "pending"
        again = later(driver, again)
    assert again.output_data == {"seat": 7}


def test_a_failed_once_step_runs_again_only_if_that_is_allowed(started, driver, engine):
    stage.troubles[:] = [ValueError("declined"), PermanentFailure("between"), None, None]
    one = started(CATCHING, {"then": "atomic", "once": True})
    with pytest.raises(WorkflowInvalidStateError, match="repeat_once"):
        engine.retry_from_checkpoint(one.execution_id, before="fragile")
    again = engine.retry_from_checkpoint(one.execution_id, before="fragile", repeat_once=True)
    driver.settle()
    assert engine.status(again.execution_id).output_data == {"caught": ""}


# Arguments


def test_wrong_options_are_refused_with_the_way_to_pass_them_to_the_function(engine):
    given: list[dict[str, Any]] = [{"retry": 3}, {"timeout": 3}]
    for options in given:
        with pytest.raises(TypeError, match="partial"):
            step("name", partial(print), **options)
    with pytest.raises(ValueError, match="longer than 0"):
        step("name", print, timeout=timedelta(0))
    given = [{"retry": Retry()}, {"timeout": HOUR}]
    for options in given:
        with pytest.raises(StepUsageError, match="once=True"):
            step("name", print, once=True, **options)


def test_outside_an_execution_a_step_with_a_budget_is_a_plain_call():
    with pytest.raises(ZeroDivisionError):
        step("name", lambda: 1 / 0, retry=Retry(), timeout=HOUR)
    assert step("name", lambda: 1, retry=Retry(), timeout=HOUR) == 1
