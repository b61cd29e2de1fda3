"""The engine that needs nothing: states, correlation, isolation, memory."""

import sys
import threading
from datetime import timedelta

import pytest

from general_manager.workflow.backends.local import LocalWorkflowEngine
from general_manager.workflow.durable import current_execution_id, sleep, step, wait_for
from general_manager.workflow.engine import (
    Retry,
    WorkflowCancelledError,
    WorkflowDefinition,
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
    WorkflowWaitMismatchError,
)
from general_manager.workflow.exceptions import (
    EncodingError,
    PermanentFailure,
    RetryAfter,
    WaitTimeout,
)
from general_manager.workflow.signals import execution_changed
from tests.outside import OUTSIDE


def define(handler=None, **arguments):
    return WorkflowDefinition("w", handler=handler, **arguments)


def wait(input_data):
    return {"answer": wait_for("approval", timeout=timedelta(days=1))}


def fail(input_data):
    raise ValueError("boom")


def test_a_handler_gets_the_input_and_its_output_is_kept(engine):
    execution = engine.start(
        define(lambda data: {"doubled": data["n"] * 2}), {"n": 3}, metadata={"by": "me"}
    )
    assert execution.state == "completed"
    assert execution.workflow_id == "w"
    assert execution.input_data == {"n": 3}
    assert execution.output_data == {"doubled": 6}
    assert execution.metadata == {"by": "me"}
    assert execution.error is None
    assert execution.started_at == execution.ended_at is not None
    assert engine.status(execution.execution_id) == execution


def test_without_a_handler_an_execution_completes_at_once(engine):
    execution = engine.start(define())
    assert (execution.state, execution.input_data, execution.output_data) == ("completed", {}, {})


def test_a_handler_may_return_nothing(engine):
    assert engine.start(define(lambda data: None)).output_data == {}


def test_an_exception_is_a_failure_with_its_text_and_traceback(engine):
    execution = engine.start(define(fail))
    assert (execution.state, execution.error) == ("failed", "boom")
    assert execution.output_data is None
    assert "ValueError: boom" in execution.traceback
    assert execution.ended_at is not None


@pytest.mark.parametrize(
    ("output", "error"),
    [([1], "must return a mapping or None"), ({"x": b""}, "output.x"), ({"x": "\x00"}, "output.x")],
)
def test_an_output_that_cannot_be_kept_is_a_failure_that_says_so(engine, output, error):
    execution = engine.start(define(lambda data: output))
    assert execution.state == "failed"
    assert error in execution.error


def test_a_dotted_path_names_a_handler_too(engine):
    path = {"handler_path": "tests.testapp.workflows.double"}
    assert engine.start(define(metadata=path), {"number": 4}).output_data == {"doubled": 8}


def test_i8_a_path_in_what_start_is_given_names_no_handler(engine):
    path = {"handler_path": "tests.testapp.workflows.double"}
    assert engine.start(define(), {"number": 5}, metadata=path).output_data == {}


@pytest.mark.parametrize("path", OUTSIDE)
def test_i8_a_path_out_of_the_project_is_refused_before_anything_is_imported(engine, path):
    sys.modules.pop("this", None)
    execution = engine.start(define(metadata={"handler_path": path}), {"n": 1})
    assert execution.state == "failed"
    assert "WORKFLOW_HANDLER_MODULES" in execution.error
    assert "this" not in sys.modules


@pytest.mark.parametrize("path", ["tests.testapp.workflows.triple", "tests.no.where"])
def test_a_path_that_leads_nowhere_is_a_failure_that_names_it(engine, path):
    execution = engine.start(define(metadata={"handler_path": path}))
    assert execution.state == "failed"
    assert repr(path) in execution.error


def test_a_path_to_what_cannot_be_called_is_a_failure(engine):
    path = {"handler_path": "tests.testapp.workflows.not_callable"}
    assert "not callable" in engine.start(define(metadata=path)).error


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"workflow": "w"}, TypeError),
        ({"input_data": [1]}, TypeError),
        ({"input_data": {"x": object()}}, EncodingError),
        ({"metadata": 5}, TypeError),
        ({"correlation_id": 5}, TypeError),
        ({"correlation_id": "x" * 256}, ValueError),
    ],
)
def test_a_wrong_start_is_refused_with_nothing_started(engine, arguments, error):
    arguments = {"workflow": define(lambda data: pytest.fail("started")), **arguments}
    with pytest.raises(error):
        engine.start(arguments.pop("workflow"), **arguments)
    assert list(engine.executions()) == []


@pytest.mark.parametrize(
    "options", [{"max_executions": 0}, {"max_executions": "9"}, {"max_executions": True}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises((TypeError, ValueError), match="max_executions"):
        LocalWorkflowEngine(**options)


# Correlation


def test_the_same_correlation_id_gives_the_completed_execution(engine):
    calls = []
    workflow = define(calls.append)
    first = engine.start(workflow, {"n": 1}, correlation_id="key")
    assert engine.start(workflow, {"n": 2}, correlation_id="key") == first
    assert calls == [{"n": 1}]


def test_the_same_correlation_id_gives_the_waiting_execution(engine):
    first = engine.start(define(wait), correlation_id="key")
    second = engine.start(define(wait), correlation_id="key")
    assert second.execution_id == first.execution_id
    assert second.state == "waiting"


def test_another_workflow_has_its_own_correlation_ids(engine):
    first = engine.start(define(), correlation_id="key")
    other = engine.start(WorkflowDefinition("other"), correlation_id="key")
    assert other.execution_id != first.execution_id


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_correlation_id_never_matches(engine, empty):
    first = engine.start(define(), correlation_id=empty)
    assert engine.start(define(), correlation_id=empty).execution_id != first.execution_id


def test_after_a_failure_the_same_correlation_id_starts_afresh(engine):
    failed = engine.start(define(fail), correlation_id="key")
    fresh = engine.start(define(), correlation_id="key")
    assert fresh.execution_id != failed.execution_id
    assert fresh.state == "completed"
    assert engine.status(failed.execution_id).state == "failed"


def test_after_a_cancellation_the_same_correlation_id_starts_afresh(engine):
    first = engine.start(define(wait), correlation_id="key")
    engine.cancel(first.execution_id)
    assert engine.start(define(wait), correlation_id="key").execution_id != first.execution_id


def test_of_two_threads_with_one_correlation_id_one_runs(engine):
    together, calls, started = threading.Barrier(8), [], []

    def handler(data):
        calls.append(threading.current_thread().name)

    def start():
        together.wait()
        started.append(engine.start(define(handler), correlation_id="key").execution_id)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(set(started)) == 1


def test_a_second_start_does_not_wait_for_the_first_to_end(engine):
    entered, release, results = threading.Event(), threading.Event(), []

    def slow(data):
        entered.set()
        assert release.wait(30)

    thread = threading.Thread(
        target=lambda: results.append(engine.start(define(slow), correlation_id="key"))
    )
    thread.start()
    assert entered.wait(30)
    assert engine.start(define(slow), correlation_id="key").state == "running"
    release.set()
    thread.join()
    assert results[0].state == "completed"


def test_a_handler_may_start_its_own_correlation_id_again(engine):
    states = []

    def again(data):
        states.append(engine.start(define(again), correlation_id="key").state)

    assert engine.start(define(again), correlation_id="key").state == "completed"
    assert states == ["running"]


def test_a_handler_may_start_another_workflow_in_a_step(engine):
    inner = WorkflowDefinition("inner", handler=lambda data: {"got": step("same name", dict, n=1)})

    def outer(data):
        return {"inner": step("same name", lambda: engine.start(inner).output_data)}

    assert engine.start(define(outer)).output_data == {"inner": {"got": {"n": 1}}}


@pytest.mark.parametrize("stop", [SystemExit, KeyboardInterrupt])
def test_a_handler_that_ends_the_process_fails_and_leaves_later_starts_alone(engine, stop):
    def leave(data):
        raise stop("bye")

    with pytest.raises(stop):
        engine.start(define(leave), correlation_id="key")
    (failed,) = engine.executions()
    assert (failed.state, failed.error) == ("failed", "bye")
    assert engine.start(define(), correlation_id="key").state == "completed"


# States


def test_resume_answers_a_wait(engine):
    execution = engine.start(define(wait))
    assert execution.state == "waiting"
    resumed = engine.resume(execution.execution_id, {"approved": True})
    assert resumed.state == "completed"
    assert resumed.output_data == {"answer": {"approved": True}}
    assert resumed.metadata["resume_signal"] == {"approved": True}


def test_an_answer_to_another_question_is_refused(engine):
    execution = engine.start(define(wait))
    with pytest.raises(WorkflowWaitMismatchError, match=r"waiting for 'approval'.*for 'payment'"):
        engine.resume(execution.execution_id, True, wait="payment")
    assert engine.resume(execution.execution_id, True, wait="approval").state == "completed"


def test_an_answer_that_is_not_json_is_refused_and_the_wait_stays_open(engine):
    execution = engine.start(define(wait))
    with pytest.raises(EncodingError, match=r"signal\.x"):
        engine.resume(execution.execution_id, {"x": b""})
    assert engine.status(execution.execution_id).state == "waiting"


def ended_in(engine, state):
    if state == "completed":
        return engine.start(define())
    if state == "failed":
        return engine.start(define(fail))
    return engine.cancel(engine.start(define(wait)).execution_id)


@pytest.mark.parametrize("verb", ["resume", "cancel"])
@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_what_has_ended_is_not_overwritten(engine, state, verb):
    execution = ended_in(engine, state)
    expected = WorkflowCancelledError if state == "cancelled" else WorkflowInvalidStateError
    with pytest.raises(expected, match=f"it is {state}"):
        getattr(engine, verb)(execution.execution_id)
    assert engine.status(execution.execution_id) == execution


def test_a_sleeping_execution_takes_no_answer_and_stays(engine, clock):
    execution = engine.start(define(lambda data: sleep("pause", timedelta(hours=1))))
    with pytest.raises(WorkflowInvalidStateError, match="It is sleeping; no wait is open"):
        engine.resume(execution.execution_id, "wake up")
    clock.advance(hours=2)
    assert engine.status(execution.execution_id).state == "completed"


def test_a_running_execution_that_asks_nothing_takes_no_answer(engine):
    errors = []

    def handler(data):
        with pytest.raises(WorkflowInvalidStateError) as caught:
            engine.resume(engine.executions()[0].execution_id, 1)
        errors.append(caught.value.state)

    assert engine.start(define(handler)).state == "completed"
    assert errors == ["running"]


def test_a_waiting_execution_can_be_cancelled_with_a_reason(engine):
    execution = engine.start(define(wait))
    cancelled = engine.cancel(execution.execution_id, reason="changed our mind")
    assert cancelled.state == "cancelled"
    assert cancelled.metadata["cancel_reason"] == "changed our mind"
    assert cancelled.ended_at is not None


def test_a_running_execution_that_is_cancelled_stops_at_its_next_step(engine):
    done: list[object] = []

    def handler(data):
        step("first", done.append, 1)
        engine.cancel(engine.executions()[0].execution_id)
        try:
            step("second", done.append, 2)
        except Exception:  # the signal passes this by
            done.append("swallowed")
        done.append("after")

    assert engine.start(define(handler)).state == "cancelled"
    assert done == [1]


def test_a_cancelled_execution_stays_cancelled_whatever_its_handler_returns(engine):
    def handler(data):
        engine.cancel(engine.executions()[0].execution_id)
        return {"too": "late"}

    execution = engine.start(define(handler))
    assert (execution.state, execution.output_data) == ("cancelled", None)


@pytest.mark.parametrize("verb", ["resume", "cancel", "status"])
@pytest.mark.parametrize("execution_id", ["nobody", None, 7])
def test_an_unknown_execution_is_not_found(engine, verb, execution_id):
    with pytest.raises(WorkflowExecutionNotFoundError, match=f"{execution_id!r}"):
        getattr(engine, verb)(execution_id)


# Retries


def test_a_failing_workflow_is_tried_again_when_its_rest_is_over(engine, clock):
    calls = []

    def flaky(data):
        calls.append(clock.now)
        if len(calls) < 3:
            raise ValueError("not yet")
        return {"calls": len(calls)}

    retry = Retry(max_attempts=3, base=10, factor=2, jitter=0)
    execution = engine.start(define(flaky, retry=retry), correlation_id="key")
    assert execution.state == "pending"
    assert engine.start(define(flaky), correlation_id="key").execution_id == execution.execution_id
    clock.advance(seconds=9)
    assert engine.status(execution.execution_id).state == "pending"
    clock.advance(seconds=1)
    assert engine.status(execution.execution_id).state == "pending"
    clock.advance(seconds=19)
    assert engine.run_due() == 0
    clock.advance(seconds=1)
    assert engine.run_due() == 1
    assert engine.status(execution.execution_id).output_data == {"calls": 3}
    assert [(later - calls[0]).total_seconds() for later in calls] == [0, 10, 30]


def test_the_last_attempt_decides(engine, clock):
    execution = engine.start(define(fail, retry=Retry(max_attempts=2, base=1, jitter=0)))
    clock.advance(seconds=1)
    assert engine.status(execution.execution_id).state == "failed"


@pytest.mark.parametrize("error", [PermanentFailure("never"), KeyError("stop")])
def test_some_failures_are_final_at_once(engine, error):
    def handler(data):
        raise error

    assert engine.start(define(handler, retry=Retry(stop_on=(KeyError,)))).state == "failed"


def test_a_handler_may_say_when_to_try_again(engine, clock):
    answers = [RetryAfter(5), None]

    def handler(data):
        if (error := answers.pop(0)) is not None:
            raise error

    execution = engine.start(define(handler, retry=Retry(base=1000)))
    clock.advance(seconds=5)
    assert engine.status(execution.execution_id).state == "completed"


def test_progress_gives_the_budget_back(engine, clock):
    failed = set()

    def handler(data):
        for number in range(3):
            step(f"step {number}", lambda: None)
            if number < 2 and number not in failed:
                failed.add(number)
                raise ValueError("again")

    execution = engine.start(define(handler, retry=Retry(max_attempts=2, base=1, jitter=0)))
    for _ in range(2):
        assert execution.state == "pending"
        clock.advance(seconds=1)
        execution = engine.status(execution.execution_id)
    assert execution.state == "completed"


# Isolation and memory


def test_nothing_is_shared_with_the_caller_or_between_snapshots(engine):
    input_data: dict[str, list[object]] = {"list": [1]}
    metadata: dict[str, list[object]] = {"m": [1]}
    output: dict[str, list[object]] = {"list": [1]}

    def handler(data):
        data["list"].append("by the handler")
        return output

    execution = engine.start(define(handler), input_data, metadata=metadata)
    for mine in (input_data["list"], metadata["m"], output["list"]):
        mine.append("by the caller")
    execution.input_data["list"].append("by the reader")
    execution.output_data["list"].append("by the reader")
    again = engine.status(execution.execution_id)
    assert again.input_data == {"list": [1]}
    assert again.output_data == {"list": [1]}
    assert again.metadata == {"m": [1]}


def test_only_the_latest_finished_executions_are_kept_and_every_active_one(clock):
    engine = LocalWorkflowEngine(max_executions=2, clock=clock)
    waiting = engine.start(define(wait))
    finished = [engine.start(define(), correlation_id=str(n)) for n in range(4)]
    kept = [one.execution_id for one in engine.executions()]
    assert kept == [finished[3].execution_id, finished[2].execution_id, waiting.execution_id]
    with pytest.raises(WorkflowExecutionNotFoundError):
        engine.status(finished[0].execution_id)
    assert engine.start(define(), correlation_id="3").execution_id == finished[3].execution_id
    assert engine.start(define(), correlation_id="0").execution_id != finished[0].execution_id


def test_observers_see_every_state_and_a_raising_one_harms_nothing(engine):
    seen = []

    def observe(execution, **_):
        seen.append(str(execution.state))
        raise RuntimeError("an observer's bug")

    execution_changed.connect(observe)
    try:
        engine.resume(engine.start(define(wait)).execution_id)
    finally:
        execution_changed.disconnect(observe)
    assert seen == ["pending", "running", "waiting", "running", "completed"]


# What went wrong once


def test_a_failing_question_keeps_the_answer_that_came_meanwhile(engine, clock):
    asked = []

    def ask():
        asked.append(1)
        if len(asked) == 1:
            engine.resume(current_execution_id(), "yes")
            raise OSError("the mail server hung up")

    execution = engine.start(
        define(lambda data: {"got": wait_for("q", ask=ask)}, retry=Retry(base=1, jitter=0))
    )
    assert execution.metadata["resume_signal"] == "yes"
    clock.advance(seconds=1)
    assert engine.status(execution.execution_id).output_data == {"got": "yes"}


@pytest.mark.parametrize(
    "retry", [Retry(base=1e300, maximum=1e300, jitter=0), Retry(base=1, jitter=0)]
)
def test_no_rest_is_too_long_for_the_calendar(engine, retry):
    def handler(data):
        if retry.base == 1:
            raise RetryAfter(1e15)
        raise ValueError

    assert engine.start(define(handler, retry=retry)).state == "pending"


def test_a_wait_without_end_is_no_error(engine):
    workflow = define(lambda data: wait_for("q", timeout=timedelta.max))
    assert engine.start(workflow).state == "waiting"
    assert engine.start(define(lambda data: sleep("s", timedelta.max))).state == "waiting"


def test_a_timer_that_two_see_fires_once(engine, clock):
    runs = []

    def handler(data):
        runs.append(1)
        raise ValueError

    execution = engine.start(define(handler, retry=Retry(base=3600, jitter=0)))
    clock.advance(hours=2)
    record = engine._memory.get(execution.execution_id)
    assert engine._memory.wake(record)
    assert not engine._memory.wake(record)
    engine._runs.run(record)
    engine._runs.run(record)
    assert len(runs) == 2


def test_an_answer_to_what_timed_out_is_not_taken_for_the_next_question(engine, clock):
    def handler(data):
        try:
            wait_for("first", timeout=timedelta(hours=1))
        except WaitTimeout:
            return {"second": wait_for("delete everything?")}

    late, later = engine.start(define(handler)), engine.start(define(handler))
    clock.advance(hours=2)
    engine.resume(late.execution_id, "yes")  # nobody has asked the next question yet
    assert engine.find_wait(late.execution_id, "first").outcome == "answered"
    engine.run_due()
    with pytest.raises(WorkflowWaitMismatchError, match="It is waiting for 'delete everything"):
        engine.resume(later.execution_id, "yes", wait="first")
    assert engine.status(later.execution_id).state == "waiting"


def test_an_observer_that_ends_the_process_leaves_no_execution_behind(engine):
    def observe(execution, **_):
        if execution.state == "running":
            raise KeyboardInterrupt

    execution_changed.connect(observe)
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.start(define(lambda data: None), correlation_id="key")
    finally:
        execution_changed.disconnect(observe)
    assert engine.executions()[0].state == "failed"
    assert engine.start(define(), correlation_id="key").state == "completed"


def test_executions_can_be_listed_while_others_start(engine):
    def start_many():
        for _ in range(500):
            engine.start(define())

    thread = threading.Thread(target=start_many)
    thread.start()
    lengths = []
    while thread.is_alive():
        lengths.append(len(list(engine.executions())))
    thread.join()
    assert lengths == sorted(lengths)
    assert len(list(engine.executions())) == 500


def test_a_name_that_is_too_long_for_its_question_is_refused_before_the_wait_opens(engine):
    execution = engine.start(define(lambda data: wait_for("x" * 252, ask=dict)))
    assert execution.state == "failed"
    assert "': ask' behind it has 257 characters" in execution.error
