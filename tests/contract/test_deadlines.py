"""`deadline=`: the whole life of an execution, on every engine."""

from datetime import UTC, datetime, timedelta

import pytest

from general_manager.workflow import Retry, WorkflowDefinition
from general_manager.workflow.signals import execution_changed
from tests.testapp import plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def define(handler, **options):
    return WorkflowDefinition("w", handler=handler, deadline=HOUR, **options)


def why(engine, key):
    execution = engine.status(key)
    return execution.state, execution.error


@pytest.fixture
def is_late(engine):
    def check(key):
        text = f"Workflow execution {key} did not end within its deadline of 1 h. "
        assert why(engine, key) == ("failed", text + "Later writes were discarded.")
        [entry] = [one for one in engine.history(key) if one.kind == "deadline_passed"]
        assert engine.status(key).deadline is None
        return entry

    return check


@pytest.mark.parametrize(
    ("handler", "input_data"),
    [(plays.ask_for_one, {}), (plays.ask_for_one, {"timeout": 7200}), (plays.sleep_for_long, {})],
    ids=["a wait without a timeout", "a longer wait", "a sleep"],
)
def test_what_is_suspended_fails_when_its_deadline_has_passed(
    engine, driver, started, is_late, handler, input_data
):
    key = started(define(handler), input_data).execution_id
    driver.pass_time(HOUR - MINUTE)
    driver.settle()
    assert engine.status(key).state == "waiting"
    driver.pass_time(MINUTE)
    driver.settle()
    is_late(key)


def test_delays_between_attempts_count(engine, driver, started, is_late):
    retry = Retry(max_attempts=10, base=1500, factor=1, jitter=0)
    plays.stage.troubles[:] = [ValueError("one"), ValueError("two"), ValueError("three")]
    key = started(define(plays.fail_as_told, retry=retry)).execution_id
    for _ in range(3):
        driver.pass_time(timedelta(seconds=1500))
        driver.settle()
    is_late(key)
    assert plays.stage.calls == ["attempt", "attempt", "attempt"]


def test_a_run_in_progress_is_fenced_and_its_handler_cannot_catch_it(
    engine, driver, started, is_late
):
    key = started(define(plays.outlive_the_deadline)).execution_id
    driver.settle()
    is_late(key)
    assert "caught" not in plays.stage.calls
    assert engine.executions()[0].output_data is None


def test_it_counts_from_the_time_of_a_later_start(engine, driver, is_late):
    at = driver.now() + 3 * HOUR
    key = engine.start(define(plays.ask_for_one), {}, at=at).execution_id
    assert abs(engine.status(key).deadline - (at + HOUR)) < MINUTE
    driver.pass_time(3 * HOUR)
    driver.settle()
    assert engine.status(key).state == "waiting"
    driver.pass_time(HOUR)
    driver.settle()
    is_late(key)


def test_a_snapshot_says_until_when_and_one_that_has_ended_has_no_deadline(engine, driver, started):
    execution = engine.start(define(plays.ask_for_one), {})
    for found in (execution, engine.status(execution.execution_id)):
        assert abs(found.deadline - (driver.now() + HOUR)) < MINUTE
    driver.settle()
    engine.signal(execution.execution_id, "paid", 1)
    driver.settle()
    done = engine.status(execution.execution_id)
    assert (done.state, done.deadline) == ("completed", None)
    driver.pass_time(2 * HOUR)
    driver.settle()
    assert engine.status(execution.execution_id) == done
    without = started(WorkflowDefinition("w", handler=plays.ask_for_one)).execution_id
    assert engine.status(without).deadline is None


def test_a_retry_from_checkpoint_gets_a_deadline_of_its_own(engine, driver, started, is_late):
    key = started(define(plays.ask_for_one)).execution_id
    driver.pass_time(HOUR)
    driver.settle()
    is_late(key)
    fresh = engine.retry_from_checkpoint(key).execution_id
    driver.settle()
    assert abs(engine.status(fresh).deadline - (driver.now() + HOUR)) < MINUTE
    driver.pass_time(HOUR)
    driver.settle()
    is_late(fresh)


def test_an_answer_after_the_deadline_does_not_save_it(engine, driver, started, is_late):
    key = started(define(plays.ask_for_one)).execution_id
    driver.pass_time(HOUR)
    engine.signal(key, "paid", 1)
    driver.settle()
    is_late(key)


def test_observers_hear_of_the_failure_once(engine, driver, started):
    heard = []

    def hear(execution, **_):
        heard.append(str(execution.state))

    key = started(define(plays.ask_for_one)).execution_id
    execution_changed.connect(hear)
    try:
        driver.pass_time(HOUR)
        driver.settle()
        driver.settle()
        engine.status(key)
    finally:
        execution_changed.disconnect(hear)
    assert heard == ["failed"]


@pytest.mark.parametrize("deadline", [3600, "an hour", datetime.now(UTC)])
def test_a_deadline_is_a_duration(deadline):
    with pytest.raises(TypeError, match="deadline must be a timedelta or None"):
        WorkflowDefinition("w", deadline=deadline)


@pytest.mark.parametrize("deadline", [timedelta(0), -HOUR, timedelta(days=36_501)])
def test_a_deadline_that_cannot_be_meant_is_refused(deadline):
    with pytest.raises(ValueError, match="deadline must be longer than 0"):
        WorkflowDefinition("w", deadline=deadline)
