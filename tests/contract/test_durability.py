"""Steps, waits, sleeps, attempts, time limits and repairs, on every engine."""

from datetime import timedelta

import pytest

from general_manager.workflow import (
    Retry,
    WorkflowCancelledError,
    WorkflowDefinition,
    WorkflowInvalidStateError,
)
from tests.testapp import plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HOUR = timedelta(hours=1)
STEADY = Retry(max_attempts=3, base=3600, factor=2, maximum=10**6, jitter=0)


def define(handler=None, **options):
    return WorkflowDefinition("w", handler=handler, **options)


def kinds(engine, execution):
    return [entry.kind for entry in engine.history(execution.execution_id)]


def test_a_finished_step_is_not_run_again(engine, driver, started):
    plays.stage.troubles[:] = [ValueError("once")]
    execution = started(define(plays.two_steps, retry=STEADY))
    assert (execution.state, execution.error) == ("pending", None)
    driver.pass_time(HOUR)
    driver.settle()
    execution = engine.status(execution.execution_id)
    assert execution.output_data == {"steps": ["first", "second"]}
    assert plays.stage.calls == ["first", "second"]
    [entry] = engine.history(execution.execution_id)
    assert (entry.kind, entry.detail) == ("attempt_failed", "once")


def test_a_step_returns_what_json_gives_back_the_first_time_too(started):
    assert started(define(plays.steps_as_json)).output_data == {"types": ["list"]}


def test_an_attempt_follows_when_its_rest_is_over_and_not_before(engine, driver, started):
    plays.stage.troubles[:] = [ValueError("one"), ValueError("two"), ValueError("three")]
    key = started(define(plays.fail_as_told, retry=STEADY)).execution_id
    seen = []
    for wait in (HOUR / 2, HOUR / 2, HOUR, HOUR):
        driver.pass_time(wait)
        driver.settle()
        seen.append((len(plays.stage.calls), str(engine.status(key).state)))
    assert seen == [(1, "pending"), (2, "pending"), (2, "pending"), (3, "failed")]
    assert engine.status(key).error == "three"
    assert [entry.detail for entry in engine.history(key)] == ["one", "two"]


def test_a_step_that_completes_gives_the_attempts_anew(engine, driver, started):
    plays.stage.troubles[:] = [ValueError("before the second"), None, ValueError("behind it")]
    key = started(define(plays.two_steps, retry=Retry(max_attempts=2, base=1, jitter=0)))
    for _ in range(2):
        driver.pass_time(HOUR)
        driver.settle()
    assert engine.status(key.execution_id).state == "completed"
    assert kinds(engine, key) == ["attempt_failed", "attempt_failed"]


@pytest.mark.parametrize(
    ("handler", "retry", "calls"),
    [
        (plays.give_up, STEADY, 1),
        (plays.fail_as_told, Retry(max_attempts=9, stop_on=(LookupError,)), 1),
        (plays.fail_as_told, None, 1),
        (plays.fail_as_told, Retry(max_attempts=1), 1),
    ],
)
def test_a_failure_that_ends_the_attempts_is_the_end(
    engine, driver, started, handler, retry, calls
):
    plays.stage.troubles[:] = [KeyError("a kind of LookupError")] * 9
    execution = started(define(handler, retry=retry))
    driver.pass_time(timedelta(days=1))
    driver.settle()
    assert execution.state == "failed"
    assert engine.status(execution.execution_id) == execution
    assert len(plays.stage.calls) == calls
    assert kinds(engine, execution) == []


def test_a_handler_may_say_when_it_is_to_be_tried_again(engine, driver, started):
    key = started(define(plays.come_again, retry=Retry(base=1, jitter=0))).execution_id
    driver.pass_time(HOUR / 2)
    driver.settle()
    assert engine.status(key).state == "pending"
    driver.pass_time(HOUR / 2)
    driver.settle()
    assert engine.status(key).state == "completed"


def test_a_wait_that_nobody_answers_times_out_once_and_for_all(engine, driver, started):
    execution = started(define(plays.ask))
    driver.pass_time(24 * HOUR)
    driver.settle()
    assert engine.status(execution.execution_id).output_data == {"late": "approval"}
    [entry] = engine.history(execution.execution_id)
    assert (entry.kind, entry.detail) == ("wait_timed_out", "approval")
    with pytest.raises(WorkflowInvalidStateError):
        engine.resume(execution.execution_id, "too late")


def test_an_answer_stands_though_the_attempt_behind_it_fails(engine, driver, started):
    key = started(define(plays.ask, retry=STEADY)).execution_id
    plays.stage.troubles[:] = [ValueError("once")]
    engine.resume(key, "yes")
    driver.settle()
    driver.pass_time(48 * HOUR)
    driver.settle()
    assert engine.status(key).output_data == {"answer": "yes"}
    assert [(entry.kind, entry.detail) for entry in engine.history(key)] == [
        ("resumed", "approval"), ("attempt_failed", "once"),
    ]  # fmt: skip


def test_a_sleep_ends_by_itself(engine, driver, started):
    execution = started(define(plays.nap))
    driver.pass_time(HOUR / 2)
    driver.settle()
    assert engine.status(execution.execution_id).state == "waiting"
    driver.pass_time(HOUR / 2)
    driver.settle()
    assert engine.status(execution.execution_id).output_data == {"slept": True}


def test_a_sleep_and_a_rest_can_be_ended_early(engine, driver, started):
    plays.stage.troubles[:] = [ValueError("once")]
    resting = started(define(plays.fail_as_told, retry=STEADY))
    sleeping = started(define(plays.nap))
    for execution in (resting, sleeping):
        engine.wake(execution.execution_id)
        driver.settle()
        assert engine.status(execution.execution_id).state == "completed"
        assert "woken" in kinds(engine, execution)


@pytest.mark.parametrize(
    ("handler", "state"),
    [(plays.ask, "waiting"), (plays.echo, "completed"), (plays.fail, "failed")],
)
def test_what_neither_retries_nor_sleeps_cannot_be_woken(engine, driver, started, handler, state):
    execution = started(define(handler))
    with pytest.raises(WorkflowInvalidStateError) as caught:
        engine.wake(execution.execution_id)
    error = caught.value
    assert (error.verb, error.state, error.allowed) == ("wake", state, ("pending", "waiting"))
    assert state != "waiting" or "It is waiting for 'approval'" in str(error)
    driver.settle()
    assert engine.status(execution.execution_id) == execution


def test_a_run_that_takes_longer_than_its_limit_is_a_failed_attempt(engine, driver, started):
    definition = define(plays.take_an_hour, timeout=HOUR / 2, retry=STEADY)
    key = started(definition).execution_id
    assert engine.status(key).state == "pending"
    for _ in range(5):
        driver.pass_time(3 * HOUR)
        driver.settle()
    execution = engine.status(key)
    assert (execution.state, execution.output_data) == ("failed", None)
    assert "ran longer than its timeout of 1800 s" in execution.error
    assert plays.stage.calls == ["before"], "what it finished in time stands"
    assert kinds(engine, execution) == [
        "overdue", "attempt_failed", "overdue", "attempt_failed", "overdue",
    ]  # fmt: skip


def test_a_run_that_asks_too_late_is_a_failed_attempt(engine, started):
    execution = started(define(plays.take_an_hour_and_ask, timeout=HOUR / 2))
    assert execution.state == "failed"
    assert "ran longer than its timeout" in execution.error


def test_a_step_that_may_run_once_is_in_doubt_after_a_failure(engine, driver, started):
    plays.stage.troubles[:] = [ValueError("no answer")]
    execution = started(define(plays.charge_once, retry=STEADY))
    driver.pass_time(HOUR)
    driver.settle()
    execution = engine.status(execution.execution_id)
    assert execution.state == "failed"
    assert "Step 'charge'" in execution.error
    assert plays.stage.calls == ["charge"]
    with pytest.raises(WorkflowInvalidStateError, match="find out, and call"):
        engine.retry_from_checkpoint(execution.execution_id)


@pytest.mark.parametrize("happened", [True, False])
def test_a_step_in_doubt_is_decided_by_a_person(engine, driver, started, happened):
    plays.stage.troubles[:] = [ValueError("no answer")]
    failed = started(define(plays.charge_once), {"n": 1}, correlation_id="key", metadata={"a": 1})
    fresh = engine.resolve_step(
        failed.execution_id, "charge", happened=happened, result="on paper" if happened else None
    )
    driver.settle()
    fresh = engine.status(fresh.execution_id)
    assert fresh.state == "completed"
    assert fresh.output_data == {"charged": "on paper" if happened else "receipt"}
    assert plays.stage.calls.count("charge") == (1 if happened else 2)
    assert fresh.metadata == {"a": 1, "continues": failed.execution_id}
    assert (fresh.input_data, fresh.correlation_id) == ({"n": 1}, "key")
    assert engine.status(failed.execution_id) == failed
    word = "it happened" if happened else "it did not happen"
    assert [(one.kind, one.detail) for one in engine.history(fresh.execution_id)] == [
        ("continues", failed.execution_id), ("resolved", f"charge: {word}"),
    ]  # fmt: skip


def test_a_failed_execution_goes_on_from_its_last_step(engine, driver, started):
    plays.stage.troubles[:] = [ValueError("once")]
    failed = started(define(plays.two_steps), metadata={"a": 1})
    fresh = engine.retry_from_checkpoint(failed.execution_id)
    driver.settle()
    fresh = engine.status(fresh.execution_id)
    assert fresh.output_data == {"steps": ["first", "second"]}
    assert plays.stage.calls == ["first", "second"]
    assert fresh.execution_id != failed.execution_id
    assert fresh.metadata == {"a": 1, "continues": failed.execution_id}
    assert (fresh.error, fresh.traceback) == (None, "")
    assert engine.status(failed.execution_id) == failed
    assert [(one.kind, one.detail) for one in engine.history(failed.execution_id)] == [
        ("continued", fresh.execution_id)
    ]
    with pytest.raises(WorkflowInvalidStateError, match=fresh.execution_id):
        engine.retry_from_checkpoint(failed.execution_id)


@pytest.mark.parametrize(
    ("handler", "state"),
    [(plays.ask, "waiting"), (plays.nap, "waiting"), (plays.echo, "completed")],
)
def test_what_is_active_or_completed_does_not_go_on_as_another(
    engine, driver, started, handler, state
):
    execution = started(define(handler))
    for call in (
        lambda: engine.retry_from_checkpoint(execution.execution_id),
        lambda: engine.resolve_step(execution.execution_id, "charge", happened=True),
    ):
        with pytest.raises(WorkflowInvalidStateError) as caught:
            call()
        assert (caught.value.state, caught.value.allowed) == (state, ("failed", "cancelled"))
    assert driver.count() == 1


def test_a_cancelled_execution_says_so_to_who_would_wake_it_and_can_go_on(engine, driver, started):
    key = started(define(plays.ask)).execution_id
    cancelled = engine.cancel(key, reason="a mistake")
    with pytest.raises(WorkflowCancelledError):
        engine.wake(key)
    fresh = engine.retry_from_checkpoint(key)
    driver.settle()
    fresh = engine.status(fresh.execution_id)
    assert (fresh.state, fresh.error) == ("waiting", None)
    assert fresh.metadata == {"continues": key}
    assert engine.status(key) == cancelled


def test_the_snapshot_says_what_is_waited_for_and_until_when(engine, driver, started):
    asking, sleeping = started(define(plays.ask)), started(define(plays.nap))
    assert (asking.waiting_for, sleeping.waiting_for) == ("approval", None)
    for execution, duration in ((asking, 24 * HOUR), (sleeping, HOUR)):
        took = execution.waiting_until - execution.waiting_since
        assert abs(took - duration) < timedelta(seconds=5)
    driver.pass_time(24 * HOUR)
    driver.settle()
    for execution in (asking, sleeping):
        over = engine.status(execution.execution_id)
        assert (over.waiting_for, over.waiting_since, over.waiting_until) == (None, None, None)


def test_an_open_wait_can_be_timed_out_now(engine, driver, started):
    key = started(define(plays.ask)).execution_id
    engine.time_out(key, wait="approval")
    driver.settle()
    assert engine.status(key).output_data == {"late": "approval"}


def test_a_step_that_is_not_in_doubt_cannot_be_decided(engine, started):
    failed = started(define(plays.fail))
    with pytest.raises(WorkflowInvalidStateError, match="'charge' is not in doubt"):
        engine.resolve_step(failed.execution_id, "charge", happened=True)


def test_a_failed_execution_cannot_go_on_while_another_has_its_correlation_id(engine, started):
    failed = started(define(plays.fail), correlation_id="key")
    other = started(define(plays.ask), correlation_id="key")
    with pytest.raises(WorkflowInvalidStateError) as caught:
        engine.retry_from_checkpoint(failed.execution_id)
    assert f"taken by execution {other.execution_id}, which is waiting" in str(caught.value)


def test_an_execution_whose_handler_was_never_found_cannot_go_on(engine, started):
    failed = started(define(metadata={"handler_path": "no.where"}))
    with pytest.raises(WorkflowInvalidStateError, match="never ran"):
        engine.retry_from_checkpoint(failed.execution_id)
