"""Starting an execution, and how it ends, on every engine."""

import pickle
from datetime import date, datetime, timedelta
from decimal import Decimal

import pytest

from general_manager.workflow import (
    EncodingError,
    Retry,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowState,
)
from tests.testapp import plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HANDLERS = "tests.testapp.plays"


def define(handler=None, workflow_id="w", **options):
    return WorkflowDefinition(workflow_id, handler=handler, **options)


def test_a_started_execution_runs_and_completes(engine, started):
    first = engine.start(define(plays.echo), {"n": 1}, metadata={"by": "me"})
    assert isinstance(first, WorkflowExecution)
    execution = started(define(plays.echo), {"n": 1}, metadata={"by": "me"})
    assert isinstance(execution.state, WorkflowState)
    assert (execution.state, execution.output_data) == ("completed", {"echo": {"n": 1}})
    assert (execution.workflow_id, execution.input_data) == ("w", {"n": 1})
    assert (execution.error, execution.traceback) == (None, "")
    assert execution.metadata == {"by": "me"}
    assert execution.started_at <= execution.ended_at
    assert execution.started_at.tzinfo is not None


def test_an_execution_that_waits_has_started_and_has_not_ended(started):
    execution = started(define(plays.ask))
    assert execution.state == "waiting"
    assert execution.started_at is not None
    assert (execution.ended_at, execution.output_data, execution.error) == (None, None, None)


def test_without_a_handler_an_execution_completes_at_once(engine, driver):
    execution = engine.start(define(), {"n": 1}, correlation_id="key", metadata={"a": 1})
    assert (execution.state, execution.output_data) == ("completed", {})
    assert (execution.input_data, execution.metadata) == ({"n": 1}, {"a": 1})
    assert execution.correlation_id == "key"
    assert execution.started_at == execution.ended_at
    assert execution.started_at is not None
    driver.settle()
    assert engine.status(execution.execution_id) == execution
    assert engine.history(execution.execution_id) == []


def test_a_handler_that_returns_nothing_has_an_empty_output(started):
    assert started(define(plays.nothing)).output_data == {}


def test_input_metadata_and_output_pass_through_json(started):
    given = {"price": Decimal("2.50"), "on": date(2026, 1, 2), "pair": (1, 2), 3: {"b", "a"}}
    as_json = {"price": "2.50", "on": "2026-01-02", "pair": [1, 2], "3": ["a", "b"]}
    execution = started(define(plays.echo), given, metadata=given)
    assert execution.input_data == execution.metadata == as_json
    assert execution.output_data == {"echo": as_json}


def test_what_callers_and_handlers_change_later_changes_no_execution(engine, started):
    given = {"seen": {"x": 1}}
    execution = started(define(plays.spoil_the_input), given)
    given["seen"]["x"] = 2
    execution.input_data["seen"]["x"] = 3
    assert engine.status(execution.execution_id).input_data == {"seen": {"x": 1}}


@pytest.mark.parametrize(
    ("handler", "facts"),
    [
        (plays.fail, ("boom",)),
        (plays.a_list, ("a_list", "must return a mapping or None", "[1]")),
        (plays.some_bytes, ("output.x.y", "bytes")),
        (plays.fail_unspeakably, ("UnspeakableError",)),
        (plays.one_name_twice, ("'same'", "used twice")),
        (plays.step_in_a_step, ("'inner'", "inside step 'outer'")),
        (plays.a_step_of_bytes, ("step 'bad'", "bytes")),
    ],
)
def test_a_failure_is_kept_with_its_text_and_its_traceback(started, handler, facts):
    execution = started(define(handler), metadata={"by": "me"})
    assert (execution.state, execution.output_data) == ("failed", None)
    for fact in facts:
        assert fact in execution.error
    assert "Traceback (most recent call last)" in execution.traceback or "Unspeak" in str(facts)
    assert execution.metadata == {"by": "me"}, "metadata is the caller's"
    assert execution.ended_at is not None


@pytest.mark.parametrize("text", ["\x00 \ud800 \U0001f600", "x" * 1_000_000])
def test_no_text_of_an_error_keeps_an_execution_from_failing(started, text):
    plays.stage.troubles.append(ValueError(text))
    execution = started(define(plays.fail_as_told))
    assert execution.state == "failed"
    assert execution.error.startswith(text[0].replace("\x00", "\\x00"))
    assert len(execution.error) <= 10_000
    assert "\U0001f600" not in text or "\U0001f600" in execution.error


@pytest.mark.parametrize(
    "path", ["no.where", f"{HANDLERS}.gone", f"{HANDLERS}.HOUR", "x", "", ".", "tests..x"]
)
def test_a_handler_path_that_leads_nowhere_fails_at_once_whatever_the_retries(engine, driver, path):
    definition = define(metadata={"handler_path": path}, retry=Retry(max_attempts=3))
    execution = engine.start(definition, correlation_id="key")
    assert (execution.state, execution.output_data) == ("failed", None)
    assert path in execution.error
    assert execution.started_at == execution.ended_at
    assert execution.started_at is not None
    driver.settle()
    assert engine.status(execution.execution_id) == execution
    assert engine.history(execution.execution_id) == []
    assert engine.start(define(plays.echo), correlation_id="key").state != "failed"


def test_a_handler_path_of_the_definition_names_the_handler(started):
    execution = started(define(metadata={"handler_path": f"{HANDLERS}.echo"}), {"n": 1})
    assert execution.output_data == {"echo": {"n": 1}}


@pytest.mark.parametrize("handler", [plays.ask, plays.echo, plays.nap, None])
def test_an_active_or_completed_execution_with_the_correlation_id_is_returned(
    engine, started, handler
):
    first = started(define(handler), {"n": 1}, correlation_id="key")
    again = started(define(plays.fail), {"n": 2}, correlation_id="key")
    assert again.execution_id == first.execution_id
    assert engine.status(first.execution_id) == first


def test_an_active_execution_is_returned_though_the_new_handler_cannot_be_found(started):
    first = started(define(plays.ask), correlation_id="key")
    broken = define(metadata={"handler_path": "no.where"})
    assert started(broken, correlation_id="key").execution_id == first.execution_id


def test_an_execution_that_waits_between_attempts_keeps_its_correlation_id(started):
    plays.stage.troubles.append(ValueError("once"))
    definition = define(plays.fail_as_told, retry=Retry())
    first = started(definition, correlation_id="key")
    assert first.state == "pending"
    assert started(definition, correlation_id="key").execution_id == first.execution_id


def test_after_a_failure_or_a_cancellation_the_correlation_id_is_free(engine, started):
    failed = started(define(plays.fail), correlation_id="key")
    cancelled = started(define(plays.ask), correlation_id="key")
    engine.cancel(cancelled.execution_id)
    fresh = started(define(plays.echo), correlation_id="key")
    assert len({failed.execution_id, cancelled.execution_id, fresh.execution_id}) == 3
    assert fresh.state == "completed"


@pytest.mark.parametrize("correlation_id", [None, ""])
def test_without_a_correlation_id_nothing_is_the_same(started, correlation_id):
    first = started(define(plays.ask), correlation_id=correlation_id)
    second = started(define(plays.ask), correlation_id=correlation_id)
    assert first.execution_id != second.execution_id
    assert first.correlation_id is second.correlation_id is None


def test_correlation_ids_belong_to_a_workflow_and_are_compared_exactly(started):
    ids = {
        started(define(plays.ask, workflow_id), correlation_id=key).execution_id
        for workflow_id, key in [("a", "k"), ("b", "k"), ("a", "K"), ("a", "k "), ("A", "k")]
    }
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("arguments", "options", "error", "facts"),
    [
        ((None,), {}, TypeError, ("WorkflowDefinition",)),
        (("w",), {}, TypeError, ("WorkflowDefinition", "'w'")),
        ((define(plays.echo), 5), {}, TypeError, ("input_data", "5")),
        ((define(plays.echo), [1]), {}, TypeError, ("input_data",)),
        ((define(plays.echo), {"a": {"b": b""}}), {}, EncodingError, ("input_data.a.b",)),
        ((define(plays.echo), {"a": float("nan")}), {}, EncodingError, ("input_data.a",)),
        ((define(plays.echo), {"a": "\x00"}), {}, EncodingError, ("input_data.a",)),
        ((define(plays.echo),), {"metadata": 5}, TypeError, ("metadata",)),
        ((define(plays.echo),), {"metadata": {"a": "\ud800"}}, EncodingError, ("metadata.a",)),
        ((define(plays.echo),), {"correlation_id": 5}, TypeError, ("correlation_id", "5")),
        ((define(plays.echo),), {"correlation_id": b"x"}, TypeError, ("correlation_id",)),
        ((define(plays.echo),), {"correlation_id": "  "}, ValueError, ("correlation_id",)),
        ((define(plays.echo),), {"correlation_id": "x" * 256}, ValueError, ("correlation_id",)),
        ((define(plays.echo),), {"correlation_id": "\x00"}, ValueError, ("correlation_id",)),
        ((define(plays.echo),), {"correlation_id": "\ud800"}, ValueError, ("correlation_id",)),
    ],
)
def test_a_wrong_argument_of_start_is_named_and_nothing_is_started(
    engine, driver, arguments, options, error, facts
):
    with pytest.raises(error) as caught:
        engine.start(*arguments, **options)
    for fact in facts:
        assert fact in str(caught.value)
    assert driver.count() == 0
    assert plays.stage.calls == []


def test_errors_survive_pickling_with_what_they_know(engine):
    with pytest.raises(EncodingError) as caught:
        engine.start(define(plays.echo), {"a": b""})
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, str(again)) == ("input_data.a", str(caught.value))


HOUR = timedelta(hours=1)


def test_an_execution_for_later_runs_when_its_time_has_come(engine, driver):
    at = driver.now() + HOUR
    execution = engine.start(define(plays.echo), {"n": 1}, at=at)
    assert (execution.state, execution.starts_at) == ("pending", at)
    driver.settle()
    now = engine.status(execution.execution_id)
    assert (now.state, now.started_at) == ("pending", None)
    assert abs(now.starts_at - at) < timedelta(seconds=1)
    driver.pass_time(HOUR)
    driver.settle()
    now = engine.status(execution.execution_id)
    assert (now.state, now.output_data, now.starts_at) == ("completed", {"echo": {"n": 1}}, None)


def test_a_time_that_is_past_is_now(engine, driver):
    execution = engine.start(define(plays.echo), {"n": 1}, at=driver.now() - HOUR)
    assert execution.starts_at is None
    driver.settle()
    assert engine.status(execution.execution_id).state == "completed"


def test_an_execution_for_later_holds_its_correlation_id(engine, driver):
    first = engine.start(define(plays.echo), correlation_id="a", at=driver.now() + HOUR)
    again = engine.start(define(plays.echo), correlation_id="a")
    driver.settle()
    assert again.execution_id == first.execution_id
    assert engine.status(first.execution_id).state == "pending"
    assert driver.count() == 1


def test_an_execution_for_later_can_be_cancelled_and_woken(engine, driver):
    at = driver.now() + HOUR
    ids = [engine.start(define(plays.echo), at=at).execution_id for _ in range(2)]
    assert engine.cancel(ids[0]).state == "cancelled"
    engine.wake(ids[1])
    driver.pass_time(HOUR)
    driver.settle()
    assert [engine.status(one).state for one in ids] == ["cancelled", "completed"]


def test_without_a_handler_an_execution_for_later_completes_then(engine, driver):
    execution = engine.start(define(), at=driver.now() + HOUR)
    assert execution.state == "pending"
    driver.pass_time(HOUR)
    driver.settle()
    assert engine.status(execution.execution_id).state == "completed"


def test_a_time_without_a_zone_and_what_is_no_time_are_refused(engine, driver):
    with pytest.raises(ValueError, match="at must have a time zone"):
        engine.start(define(plays.echo), at=datetime(2030, 1, 1))  # noqa: DTZ001 - that is what is refused
    with pytest.raises(TypeError, match="at must be a datetime or None, not '2030-01-01'"):
        engine.start(define(plays.echo), at="2030-01-01")
    assert driver.count() == 0


def test_what_cannot_run_fails_at_once_though_it_was_for_later(engine, driver):
    definition = define(metadata={"handler_path": "no.where"})
    failed = engine.start(definition, correlation_id="a", at=driver.now() + HOUR)
    assert (failed.state, failed.starts_at) == ("failed", None)
    driver.pass_time(HOUR)
    driver.settle()
    assert engine.status(failed.execution_id) == failed
