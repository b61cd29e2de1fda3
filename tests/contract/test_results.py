"""Reading an execution back: its result, and what it reports on the way, on every engine."""

import threading
from datetime import timedelta
from time import monotonic

import pytest
from django.db import connection, transaction

from general_manager.workflow import (
    CannotWaitError,
    LocalWorkflowEngine,
    ResultTimeout,
    WorkflowCancelledError,
    WorkflowDefinition,
    WorkflowExecutionNotFoundError,
    WorkflowFailedError,
    current_execution_id,
    report,
    step,
    wait_for,
)
from general_manager.workflow.executions import results
from tests.testapp import plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def define(handler=None, workflow_id="w", **options):
    return WorkflowDefinition(workflow_id, handler=handler, **options)


# The result


@pytest.mark.parametrize("timeout", [None, 0, 0.5, timedelta(0), timedelta(seconds=5)])
def test_the_result_of_a_completed_execution_is_its_output(engine, started, timeout):
    execution = started(define(plays.echo), {"n": 1})
    assert engine.result(execution.execution_id, timeout=timeout) == {"echo": {"n": 1}}
    assert engine.result(started(define()).execution_id) == {}


def test_a_failure_is_raised_with_its_text(engine, started):
    execution = started(define(plays.fail))
    with pytest.raises(WorkflowFailedError, match="boom") as caught:
        engine.result(execution.execution_id)
    assert caught.value.execution_id == execution.execution_id
    assert (caught.value.workflow_id, caught.value.error) == ("w", execution.error)


def test_a_cancellation_is_raised_with_its_reason(engine, started):
    execution = started(define(plays.ask))
    engine.cancel(execution.execution_id, reason="not needed")
    with pytest.raises(WorkflowCancelledError, match="Its reason: not needed"):
        engine.result(execution.execution_id)


def test_an_id_of_nothing_has_no_result(engine):
    for wrong in ("no id", None, 5):
        with pytest.raises(WorkflowExecutionNotFoundError):
            engine.result(wrong)


@pytest.mark.parametrize("timeout", [0, 0.2, timedelta(milliseconds=200)])
def test_what_is_not_over_in_time_is_a_timeout(engine, started, timeout):
    execution = started(define(plays.ask))
    began = monotonic()
    with pytest.raises(ResultTimeout, match="it is waiting") as caught:
        engine.result(execution.execution_id, timeout=timeout)
    assert isinstance(caught.value, TimeoutError)
    assert monotonic() - began < 5
    assert (caught.value.state, caught.value.timeout) == ("waiting", 0.2 if timeout else 0)


def test_it_asks_again_after_growing_pauses(engine, started, monkeypatch):
    pauses = []
    execution = started(define(plays.ask))

    def end_it_then(pause):
        pauses.append(pause)
        if len(pauses) == 20:
            engine.cancel(execution.execution_id)

    monkeypatch.setattr(results, "sleep", end_it_then)
    with pytest.raises(WorkflowCancelledError):
        engine.result(execution.execution_id)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.01, 1)


def test_it_waits_for_what_another_thread_does(engine, started):
    execution = started(define(plays.ask))

    def end_it():
        try:
            engine.cancel(execution.execution_id, reason="by a thread")
        finally:
            connection.close()

    timer = threading.Timer(0.1, end_it)
    timer.start()
    try:
        with pytest.raises(WorkflowCancelledError, match="by a thread"):
            engine.result(execution.execution_id, timeout=20)
    finally:
        timer.join()


@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError),
                           (True, TypeError), (timedelta(-1), ValueError)],
)  # fmt: skip
def test_a_wrong_timeout_is_named(engine, started, timeout, error):
    with pytest.raises(error, match="timeout must be"):
        engine.result(started(define()).execution_id, timeout=timeout)


def test_inside_a_transaction_only_what_is_over_has_a_result(engine, started):
    done, waiting = started(define(plays.echo)), started(define(plays.ask))
    with transaction.atomic():
        assert engine.result(done.execution_id) == {"echo": {}}
        if isinstance(engine, LocalWorkflowEngine):
            return  # runs inside the transaction too, and another thread may answer
        for timeout in (None, 5):
            with pytest.raises(CannotWaitError, match="a transaction is open here"):
                engine.result(waiting.execution_id, timeout=timeout)
        with pytest.raises(ResultTimeout):
            engine.result(waiting.execution_id, timeout=0)


def wait_for_another(data):
    plays.stage.driver.engine.result(data["other"], timeout=data["timeout"])


def test_a_handler_may_read_a_result_and_not_wait_for_it(engine, started):
    done, waiting = started(define(plays.echo)), started(define(plays.ask))
    for other, timeout, words in (
        (done, None, None), (waiting, None, "would hold its worker"), (waiting, 0, "after 0 s"),
    ):  # fmt: skip
        given = {"other": other.execution_id, "timeout": timeout}
        execution = started(define(wait_for_another), given)
        if words is None:
            assert execution.state == "completed"
        else:
            assert words in execution.error


def test_without_workers_the_caller_runs_what_it_waits_for(engine, driver):
    """A process that died has left it: nobody else would run it."""
    if getattr(driver, "run_async", True):
        return
    with transaction.atomic():
        execution = engine.start(define(plays.echo))
        connection.run_on_commit.clear()
    assert engine.status(execution.execution_id).state == "pending"
    assert engine.result(execution.execution_id, timeout=20) == {"echo": {}}


# Reports


def report_thrice(data):
    for done in (1, 2, 3):
        report("progress", {"done": done, "of": 3})
    report("phase", "sending")
    plays.stage.seen.append(plays.stage.driver.engine.progress(current_execution_id()))
    return {}


def test_the_last_report_of_each_name_is_kept_after_the_end(engine, started):
    execution = started(define(report_thrice))
    assert execution.state == "completed"
    assert engine.progress(execution.execution_id) == {"done": 3, "of": 3}
    assert engine.progress(execution.execution_id, name="phase") == "sending"
    assert engine.progress(execution.execution_id, name="other") is None
    assert plays.stage.seen[0]["done"] in (1, 3), "the first is seen at once, others in a second"


def report_and_fail(data):
    report("progress", 0.5)
    raise ValueError("boom")


def report_and_ask(data):
    report("progress", {"done": 1, "of": 2})
    wait_for("approval")
    report("last", True)


def test_a_failure_and_a_wait_keep_what_was_reported(engine, started, driver):
    assert engine.progress(started(define(report_and_fail)).execution_id) == 0.5
    waiting = started(define(report_and_ask)).execution_id
    assert engine.progress(waiting) == {"done": 1, "of": 2}
    engine.resume(waiting, "yes")
    driver.settle()
    assert engine.status(waiting).state == "completed"
    assert engine.progress(waiting) == {"done": 1, "of": 2}
    assert engine.progress(waiting, name="last") is True


def report_in_a_step(data):
    def progress():
        return plays.stage.driver.engine.progress(current_execution_id())

    def work():
        report("progress", 1)
        plays.stage.seen.append(progress())
        return connection.in_atomic_block

    assert step("work", work)
    plays.stage.seen.append(progress())


def test_a_report_inside_an_atomic_step_is_written_when_it_has_committed(engine, started):
    """Before, it would lock the execution's row for the rest of the step."""
    execution = started(define(report_in_a_step))
    assert execution.state == "completed", execution.error
    is_local = isinstance(engine, LocalWorkflowEngine)
    assert plays.stage.seen == [1 if is_local else None, 1]


def report_then_wait(data):
    """The second run reports 1 again, before it comes to 3."""
    engine, key = plays.stage.driver.engine, current_execution_id()
    report("progress", 1)
    plays.stage.seen.append(engine.progress(key))
    report("progress", 2)
    wait_for("approval")
    report("progress", 3)


def test_a_run_that_repeats_an_earlier_one_does_not_take_the_progress_back(engine, driver, started):
    execution = started(define(report_then_wait))
    engine.resume(execution.execution_id, "yes")
    driver.settle()
    assert engine.status(execution.execution_id).state == "completed"
    assert plays.stage.seen == [1, 2], "not 1 again"
    assert engine.progress(execution.execution_id) == 3


def report_and_leave_a_transaction_open(data):
    report("progress", 1)
    report("progress", 2)
    connection.set_autocommit(False)


def test_a_transaction_that_the_handler_left_open_does_not_take_its_report_back(engine, started):
    execution = started(define(report_and_leave_a_transaction_open))
    assert engine.progress(execution.execution_id) == 2


def cancel_and_report(data):
    engine = plays.stage.driver.engine
    report("progress", 1)
    engine.cancel(current_execution_id())
    report("late", 2)


def test_a_run_that_lost_its_execution_reports_nothing_more(engine, started):
    execution = started(define(cancel_and_report))
    assert execution.state == "cancelled"
    assert engine.progress(execution.execution_id) == 1
    assert engine.progress(execution.execution_id, name="late") is None


def report_as_told(data):
    name, value = plays.stage.seen.pop()
    report(name, value)


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        (("progress", b"x"), "the report 'progress'"), (("progress", "x" * 4_000), "4,002 bytes"),
        (("", 1), "must not be empty"), ((3, 1), "must be text"),
    ],
)  # fmt: skip
def test_a_report_that_cannot_be_kept_is_the_handlers_failure(started, given, facts):
    plays.stage.seen.append(given)
    execution = started(define(report_as_told))
    assert execution.state == "failed"
    assert facts in execution.error


def report_many(data):
    for number in range(21):
        report(f"name {number}", number)


def test_a_run_reports_under_few_names(started):
    assert "more than 20 names" in started(define(report_many)).error


def test_outside_an_execution_a_report_does_nothing():
    report("progress", b"not even encoded")


def test_the_progress_of_nothing_is_an_error(engine):
    with pytest.raises(WorkflowExecutionNotFoundError):
        engine.progress("no id")
