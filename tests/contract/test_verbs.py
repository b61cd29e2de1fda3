"""What may be done to an execution from outside, and what is refused, on every engine."""

import pickle
from datetime import timedelta
from uuid import UUID

import pytest

from general_manager.workflow import (
    EncodingError,
    Retry,
    WorkflowCancelledError,
    WorkflowDefinition,
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
    WorkflowWaitMismatchError,
)
from general_manager.workflow.core.ids import new_id
from tests.testapp import plays
from tests.testapp.models import Tag

HOUR = timedelta(hours=1)

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

VERBS = {
    "status": lambda engine, key: engine.status(key),
    "resume": lambda engine, key: engine.resume(key, "yes"),
    "cancel": lambda engine, key: engine.cancel(key, reason="no"),
    "wake": lambda engine, key: engine.wake(key),
    "history": lambda engine, key: engine.history(key),
    "retry_from_checkpoint": lambda engine, key: engine.retry_from_checkpoint(key),
    "resolve_step": lambda engine, key: engine.resolve_step(key, "charge", happened=True),
}
NO_IDS = {
    "an id of nothing": new_id(), "empty": "", "blank": " ", "NUL": "\x00", "NUL inside": "a\x00b",
    "too long": "x" * 10_000, "a surrogate": "\ud800", "an emoji": "\U0001f600", "a newline": "\n",
    "nothing": None, "a number": 5, "a float": 0.5, "true": True, "bytes": b"x", "a list": [],
    "a dict": {}, "a UUID": UUID(int=7), "a type": str, "a percent sign": "%", "a quote": "'",
}  # fmt: skip


def define(handler=None, **options):
    return WorkflowDefinition("w", handler=handler, **options)


@pytest.fixture
def cases(engine, started):
    """An execution in each state that lasts."""
    plays.stage.troubles.append(ValueError("once"))
    cases = {"pending": started(define(plays.fail_as_told, retry=Retry(base=100)))}
    cases["waiting"] = started(define(plays.ask))
    cases["sleeping"] = started(define(plays.nap))
    cases["completed"] = started(define(plays.echo))
    cases["failed"] = started(define(plays.fail))
    cases["cancelled"] = engine.cancel(started(define(plays.ask)).execution_id, reason="why")
    return cases


@pytest.mark.parametrize("verb", VERBS)
def test_an_id_that_no_execution_has_or_could_have_is_not_found(engine, verb):
    for what, execution_id in NO_IDS.items():
        with pytest.raises(WorkflowExecutionNotFoundError) as caught:
            VERBS[verb](engine, execution_id)
        assert caught.value.execution_id == execution_id, what
        assert "There is no workflow execution" in str(caught.value)
        assert len(str(caught.value)) < 200
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_id_is_compared_exactly(engine, started):
    key = started(define(plays.echo)).execution_id
    for other in (key.upper(), f"{key} ", UUID(key)):
        with pytest.raises(WorkflowExecutionNotFoundError):
            engine.status(other)


def test_an_answer_is_returned_by_the_wait_and_kept(engine, driver, started):
    execution = started(define(plays.ask), metadata={"by": "me"})
    engine.resume(execution.execution_id, {"ok": (1, 2)})
    driver.settle()
    execution = engine.status(execution.execution_id)
    assert execution.output_data == {"answer": {"ok": [1, 2]}}
    assert execution.metadata == {"by": "me", "resume_signal": {"ok": [1, 2]}}
    assert plays.stage.calls == ["mail"], "the question is asked once"


def test_an_answer_may_be_nothing(engine, driver, started):
    execution = started(define(plays.ask))
    engine.resume(execution.execution_id)
    driver.settle()
    assert engine.status(execution.execution_id).output_data == {"answer": None}


def test_an_answer_that_comes_while_the_question_is_sent_is_kept(started):
    assert started(define(plays.answer_at_once)).output_data == {"answer": "at once"}


@pytest.mark.parametrize("wait", [None, "approval"])
def test_an_answer_after_the_deadline_stands_until_the_timeout_is_written(
    engine, driver, started, wait
):
    key = started(define(plays.ask)).execution_id
    driver.pass_time(48 * HOUR)
    assert engine.find_wait(key, "approval").outcome == "open"
    engine.resume(key, "late, and in time", wait=wait)
    driver.settle()
    assert engine.status(key).output_data == {"answer": "late, and in time"}
    assert [entry.kind for entry in engine.history(key)] == ["resumed"]


def test_no_answer_is_taken_once_the_timeout_is_written(engine, driver, started):
    key = started(define(plays.ask)).execution_id
    driver.pass_time(48 * HOUR)
    driver.settle()
    with pytest.raises(WorkflowInvalidStateError):
        engine.resume(key, "too late", wait="approval")
    assert engine.find_wait(key, "approval").outcome == "timed_out"
    assert engine.status(key).output_data == {"late": "approval"}


def test_a_sleep_that_nobody_has_ended_yet_takes_no_answer(engine, driver, started):
    key = started(define(plays.nap)).execution_id
    driver.pass_time(48 * HOUR)
    with pytest.raises(WorkflowInvalidStateError, match="It is sleeping; no wait is open"):
        engine.resume(key, "yes")
    driver.settle()
    assert engine.status(key).state == "completed"


def test_each_question_has_its_own_answer(engine, driver, started):
    key = started(define(plays.ask_twice)).execution_id
    for wait in ("first", "second"):
        engine.resume(key, f"to {wait}", wait=wait)
        driver.settle()
    execution = engine.status(key)
    assert execution.output_data == {"first": "to first", "second": "to second"}
    assert execution.metadata == {"resume_signal": "to second"}


def test_an_answer_to_another_question_is_refused(engine, driver, started):
    execution = started(define(plays.ask_twice))
    with pytest.raises(WorkflowWaitMismatchError) as caught:
        engine.resume(execution.execution_id, "yes", wait="second")
    error = caught.value
    assert (error.execution_id, error.verb) == (execution.execution_id, "resume")
    assert (error.state, error.allowed) == ("waiting", ("waiting",))
    assert str(error) == (
        f"Cannot resume workflow execution {execution.execution_id} now. "
        "It is waiting for 'first', not for 'second'."
    )
    driver.settle()
    assert engine.status(execution.execution_id) == execution


@pytest.mark.parametrize("case", ["pending", "sleeping", "completed", "failed", "cancelled"])
def test_only_a_waiting_execution_takes_an_answer(engine, driver, cases, case):
    execution = cases[case]
    with pytest.raises(WorkflowInvalidStateError) as caught:
        engine.resume(execution.execution_id, "yes")
    error = caught.value
    assert isinstance(error, WorkflowCancelledError) == (case == "cancelled")
    assert (error.execution_id, error.verb, error.state, error.allowed) == (
        execution.execution_id, "resume", execution.state, ("waiting",),
    )  # fmt: skip
    if case == "sleeping":
        assert "It is sleeping; no wait is open." in str(error)
    else:
        assert "Only waiting executions can be resumed." in str(error)
    driver.settle()
    assert engine.status(execution.execution_id) == execution


@pytest.mark.parametrize("case", ["pending", "waiting", "sleeping"])
@pytest.mark.parametrize("reason", [None, "changed my mind"])
def test_what_is_active_can_be_cancelled_with_a_reason(engine, driver, cases, case, reason):
    key = cases[case].execution_id
    before = [entry.kind for entry in engine.history(key)]
    cancelled = engine.cancel(key, reason=reason)
    assert (cancelled.state, cancelled.error) == ("cancelled", reason)
    assert cancelled.metadata == ({} if reason is None else {"cancel_reason": reason})
    assert (cancelled.output_data, cancelled.traceback) == (None, "")
    assert cancelled.ended_at is not None
    driver.pass_time(timedelta(days=400))
    driver.settle()
    assert engine.status(key) == cancelled
    entries = engine.history(key)
    assert [entry.kind for entry in entries] == [*before, "cancelled"]
    assert entries[-1].detail == (reason or "")


@pytest.mark.parametrize("case", ["completed", "failed", "cancelled"])
def test_what_is_over_cannot_be_cancelled(engine, cases, case):
    execution = cases[case]
    with pytest.raises(WorkflowInvalidStateError) as caught:
        engine.cancel(execution.execution_id, reason="too late")
    error = caught.value
    assert isinstance(error, WorkflowCancelledError) == (case == "cancelled")
    assert (error.verb, error.state) == ("cancel", case)
    assert error.allowed == ("pending", "running", "waiting")
    assert f"it is {case}. Only pending, running or waiting executions" in str(error)
    assert engine.status(execution.execution_id) == execution


def test_a_handler_that_is_cancelled_ends_at_its_next_step_which_leaves_nothing(engine, started):
    execution = started(define(plays.cancel_itself))
    assert (execution.state, execution.error) == ("cancelled", "enough")
    assert execution.output_data is None
    assert plays.stage.calls == ["before"]
    assert not Tag.objects.exists()


@pytest.mark.parametrize("case", ["completed", "failed", "cancelled"])
def test_terminal_is_final_whatever_is_asked(engine, driver, cases, case):
    execution = cases[case]
    for verb in ("resume", "cancel", "wake", "resolve_step"):
        with pytest.raises(WorkflowInvalidStateError):
            VERBS[verb](engine, execution.execution_id)
    driver.pass_time(timedelta(days=400))
    driver.settle()
    assert engine.status(execution.execution_id) == execution


@pytest.mark.parametrize(
    ("call", "error", "facts"),
    [
        (lambda engine, key: engine.resume(key, b""), EncodingError, ("signal", "bytes")),
        (lambda engine, key: engine.resume(key, {"a": "\x00"}), EncodingError, ("signal.a",)),
        (lambda engine, key: engine.resume(key, "yes", wait=5), TypeError, ("wait", "5")),
        (lambda engine, key: engine.resume(key, "yes", wait=b"approval"), TypeError, ("wait",)),
        (lambda engine, key: engine.cancel(key, reason=5), TypeError, ("reason", "5")),
        (lambda engine, key: engine.cancel(key, reason=["x"]), TypeError, ("reason",)),
        (lambda engine, key: engine.cancel(key, reason="\x00"), EncodingError, ("reason",)),
        (lambda engine, key: engine.cancel(key, reason="\ud800"), EncodingError, ("reason",)),
        (
            lambda engine, key: engine.resolve_step(key, 5, happened=True),
            TypeError, ("step", "5"),
        ),
        (
            lambda engine, key: engine.resolve_step(key, "charge", happened="no"),
            TypeError, ("happened", "'no'"),
        ),
        (
            lambda engine, key: engine.resolve_step(key, "charge", happened=True, result=b""),
            EncodingError, ("result", "bytes"),
        ),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named_and_nothing_changes(engine, driver, started, call, error, facts):
    execution = started(define(plays.ask))
    with pytest.raises(error) as caught:
        call(engine, execution.execution_id)
    for fact in facts:
        assert fact in str(caught.value)
    driver.settle()
    assert engine.status(execution.execution_id) == execution


def test_a_mismatch_names_the_state_that_the_execution_is_in(engine, started):
    execution = started(define(plays.ask))
    for wait in ("other", "", "\x00"):
        with pytest.raises(WorkflowWaitMismatchError) as caught:
            engine.resume(execution.execution_id, "yes", wait=wait)
        assert caught.value.allowed == (execution.state,)
