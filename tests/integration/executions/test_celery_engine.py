"""Executions as rows: started, run, resumed, cancelled, retried, recovered."""

import sys
from datetime import timedelta
from difflib import get_close_matches
from threading import Thread

import pytest
from django.db import connection, transaction
from django.test import override_settings

from general_manager.workflow import (
    PermanentFailure,
    Retry,
    RetryAfter,
    WorkflowCancelledError,
    WorkflowDefinition,
    WorkflowEvent,
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
    WorkflowState,
    WorkflowWaitMismatchError,
)
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.executions.runner import MISSING_HANDLER_RUNS, run
from general_manager.workflow.executions.store import DatabaseRunStore
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.models.sql.compiled import can_fetch
from tests.integration.conftest import data_statements
from tests.outside import OUTSIDE
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


HOUR = timedelta(hours=1)


class Died(SystemExit):
    """Ends the worker as `os._exit` would: see `run_and_die`."""


def run_and_die(execution):
    run(execution.execution_id, "default")


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()


@pytest.fixture
def engine(celery_engine):
    return celery_engine


def define(handler=None, **arguments):
    return WorkflowDefinition("w", handler=handler, **arguments)


def names():
    return sorted(Tag.objects.values_list("name", flat=True))


def test_an_execution_is_started_now_and_run_by_a_worker(engine, workers):
    started = engine.start(define(flows.echo), {"n": 1}, metadata={"by": "me"})
    assert (started.state, flows.calls) == ("pending", [])
    assert workers.run() == 1
    execution = engine.status(started.execution_id)
    assert execution.state == "completed"
    assert execution.output_data == {"echo": {"n": 1}}
    assert execution.metadata == {"by": "me"}
    assert execution.started_at is not None
    assert execution.ended_at is not None


def test_x1_a_started_execution_is_part_of_the_callers_transaction(engine, workers):
    with pytest.raises(RuntimeError), transaction.atomic():
        engine.start(define(flows.echo))
        raise RuntimeError
    assert not WorkflowExecutionRecord.objects.exists()
    assert workers.run() == 0


def test_a_new_execution_is_one_statement_and_a_run_two(engine, django_assert_num_queries):
    with transaction.atomic(), django_assert_num_queries(1):
        execution = engine.start(define(flows.echo), correlation_id="key")
    with data_statements() as statements:
        assert run(execution.execution_id, "default")
    # Elsewhere the claim is read, and whether somebody waits for it.
    assert len(statements) == (2 if can_fetch("default") else 4)
    assert engine.status(execution.execution_id).state == "completed"


def test_without_a_handler_an_execution_completes_at_once(engine):
    execution = engine.start(define())
    assert (execution.state, execution.output_data) == ("completed", {})
    assert engine.status(execution.execution_id).state == "completed"


def nested():
    def handler(input_data):
        flows.note("ran inline")

    return handler


@pytest.mark.parametrize("handler", [lambda data: flows.note("ran inline"), nested()])
def test_a_handler_that_no_worker_can_import_is_marked_failed_and_not_run(
    engine, workers, handler, caplog
):
    execution = engine.start(define(handler), correlation_id="key")
    assert execution.execution_id in caplog.text
    assert execution.state == "failed"
    assert "cannot be imported by a worker" in execution.error
    workers.run()
    assert flows.calls == []
    assert engine.start(define(flows.echo), correlation_id="key").state == "pending"


@override_settings(
    GENERAL_MANAGER={
        "WORKFLOW_MODE": "production",
        "WORKFLOW_ASYNC": False,
        "WORKFLOW_HANDLER_MODULES": ["somewhere.else"],
    }
)
def test_in_this_process_too_a_handler_elsewhere_is_told_which_setting_names_its_package():
    """It runs here, but a wait would need another run to find it."""
    engine = CeleryWorkflowEngine()
    execution = engine.start(define(flows.wait_once))
    ended = engine.status(execution.execution_id)
    assert ended.state == "failed"
    assert "add its package to WORKFLOW_HANDLER_MODULES" in str(ended.error)


@pytest.mark.parametrize(
    "path", ["tests.no.where", "tests.testapp.flows.nothing", "tests.testapp.calls"]
)
def test_a_path_that_leads_nowhere_is_marked_failed(engine, path):
    execution = engine.start(define(metadata={"handler_path": path}))
    assert execution.state == "failed"
    assert path in execution.error


def test_a_dotted_path_names_a_handler_too(engine, workers):
    path = {"handler_path": "tests.testapp.flows.echo"}
    execution = engine.start(define(metadata=path), {"n": 1})
    workers.run()
    assert engine.status(execution.execution_id).output_data == {"echo": {"n": 1}}


def test_i8_a_path_in_what_start_is_given_names_no_handler(engine, workers):
    outside = {"handler_path": "subprocess.check_call"}
    execution = engine.start(define(), {"args": ["true"]}, metadata=outside)
    assert (execution.state, execution.output_data) == ("completed", {})


@pytest.mark.parametrize("path", OUTSIDE)
def test_i8_a_path_out_of_the_project_is_refused_before_anything_is_imported(engine, path):
    sys.modules.pop("this", None)
    execution = engine.start(define(metadata={"handler_path": path}))
    assert execution.state == "failed"
    assert "WORKFLOW_HANDLER_MODULES" in execution.error
    assert "this" not in sys.modules


def test_i8_a_function_out_of_the_project_is_refused_when_it_is_started(engine):
    execution = engine.start(define(get_close_matches))
    assert execution.state == "failed"
    assert "'difflib.get_close_matches'" in execution.error
    assert "WORKFLOW_HANDLER_MODULES" in execution.error


def test_i8_a_worker_runs_no_path_that_leads_out_of_the_project(engine, workers):
    execution = engine.start(define(flows.echo))
    stored = WorkflowExecutionRecord.objects
    stored.update(handler_path="subprocess.check_call", missing_handler_runs=MISSING_HANDLER_RUNS)
    workers.run()
    failed = engine.status(execution.execution_id)
    assert failed.state == "failed"
    assert "WORKFLOW_HANDLER_MODULES" in failed.error


def test_i8_the_setting_replaces_what_is_allowed_by_default(engine):
    modules = {"WORKFLOW_MODE": "production", "WORKFLOW_HANDLER_MODULES": ["tests.elsewhere"]}
    with override_settings(GENERAL_MANAGER=modules):
        refused = engine.start(define(flows.echo))
    assert "WORKFLOW_HANDLER_MODULES" in refused.error
    modules["WORKFLOW_HANDLER_MODULES"] = ["tests.testapp.flows"]
    with override_settings(GENERAL_MANAGER=modules):
        assert engine.start(define(flows.echo)).state == "pending"


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (flows.fail, "boom"),
        (flows.return_a_list, "must return a mapping or None"),
        (flows.return_bytes, "output.x"),
    ],
)
def test_a_failure_is_kept_with_its_text_and_traceback(engine, workers, handler, error):
    execution = engine.start(define(handler))
    workers.run()
    execution = engine.status(execution.execution_id)
    assert execution.state == "failed"
    assert error in execution.error
    assert "Traceback" in WorkflowExecutionRecord.objects.get().traceback


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (ValueError("boom\x00"), "boom\\x00"),
        (ValueError("\ud800 alone"), "\\ud800 alone"),
        (ValueError("much " * 2_000_000), "much much"),
        (Unspeakable(), "Unspeakable"),
    ],
)
def test_x9_no_error_text_keeps_a_row_from_its_end(engine, workers, trouble, error):
    flows.troubles.append(trouble)
    execution = engine.start(define(flows.two_steps))
    workers.run()
    failed = engine.status(execution.execution_id)
    assert failed.state == "failed"
    assert failed.error.startswith(error)
    row = WorkflowExecutionRecord.objects.get()
    assert len(row.error or "") + len(row.traceback) < 1_000_000


# Correlation


def test_x3_the_same_correlation_id_gives_the_active_or_completed_execution(engine, workers):
    first = engine.start(define(flows.echo), {"n": 1}, correlation_id="key")
    assert engine.start(define(flows.echo), correlation_id="key") == first
    workers.run()
    again = engine.start(define(flows.echo), correlation_id="key")
    assert (again.execution_id, again.state) == (first.execution_id, "completed")
    assert flows.calls == ["echo"]


def test_x3_another_workflow_or_another_case_is_another_key(engine):
    def start(workflow, key):
        definition = WorkflowDefinition(workflow, handler=flows.echo)
        return engine.start(definition, correlation_id=key).execution_id

    assert len({start("w", "key"), start("v", "key"), start("w", "KEY"), start("w", "key")}) == 3


def test_x3_no_two_workflows_share_a_key_whatever_their_ids_are_made_of(engine):
    first = engine.start(WorkflowDefinition("w"), correlation_id=r"\0x")
    second = engine.start(WorkflowDefinition(r"w\0"), correlation_id="x")
    assert (first.workflow_id, second.workflow_id) == ("w", r"w\0")


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_correlation_id_never_matches(engine, empty):
    first = engine.start(define(flows.echo), correlation_id=empty).execution_id
    assert engine.start(define(flows.echo), correlation_id=empty).execution_id != first


def test_after_a_failure_or_a_cancellation_the_same_correlation_id_starts_afresh(engine, workers):
    failed = engine.start(define(flows.fail), correlation_id="key")
    workers.run()
    cancelled = engine.start(define(flows.echo), correlation_id="key")
    assert cancelled.execution_id != failed.execution_id
    engine.cancel(cancelled.execution_id)
    fresh = engine.start(define(flows.echo), correlation_id="key")
    assert fresh.execution_id != cancelled.execution_id


@pytest.mark.skipif(
    connection.vendor != "mysql", reason="Elsewhere a conflict with what is not seen is an error"
)
def test_x3_a_transaction_that_cannot_see_the_other_start_finds_it_all_the_same(engine):
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    other: list[str] = []

    def start():
        try:
            other.append(engine.start(define(flows.echo), correlation_id="key").execution_id)
        finally:
            connection.close()

    try:
        with transaction.atomic():
            assert not WorkflowExecutionRecord.objects.exists()  # from here on, time stands still
            thread = Thread(target=start)
            thread.start()
            thread.join()
            mine = engine.start(define(flows.echo), correlation_id="key").execution_id
        assert [mine] == other
    finally:
        connection.close()


# Waits


def test_a_wait_costs_a_row_and_its_answer_goes_on(engine, workers):
    execution = engine.start(define(flows.ask))
    workers.run()
    waiting = engine.status(execution.execution_id)
    assert waiting.state == "waiting"
    assert WorkflowExecutionRecord.objects.get().claim_token is None
    assert engine.resume(execution.execution_id, {"approved": True}).state == "pending"
    workers.run()
    done = engine.status(execution.execution_id)
    assert done.output_data == {"answer": {"approved": True}}
    assert done.metadata["resume_signal"] == {"approved": True}
    assert flows.calls == ["asked before", "mail", "asked before"]


def test_nobody_answering_in_time_is_reported_to_the_handler(engine, workers):
    execution = engine.start(define(flows.ask))
    workers.run()
    assert workers.run() == 0
    WorkflowStep.objects.update(until="2020-01-01T00:00:00Z")
    workers.let_rest_pass()
    workers.run()
    assert engine.status(execution.execution_id).output_data == {"answer": "nobody"}


def test_a_sleep_ends_by_time_alone(engine, workers):
    execution = engine.start(define(flows.nap))
    workers.run()
    with pytest.raises(WorkflowInvalidStateError, match="It is sleeping; no wait is open"):
        engine.resume(execution.execution_id)
    WorkflowStep.objects.update(until="2020-01-01T00:00:00Z")
    workers.let_rest_pass()
    workers.run()
    assert engine.status(execution.execution_id).output_data == {"woke": True}


def test_an_answer_that_comes_while_the_question_is_sent_is_kept(engine, workers):
    execution = engine.start(define(flows.answer_at_once))
    workers.run()
    assert engine.status(execution.execution_id).output_data == {"answer": "at once"}


def test_an_answer_to_another_question_is_refused(engine, workers):
    execution = engine.start(define(flows.ask_twice))
    workers.run()
    with pytest.raises(WorkflowWaitMismatchError, match="waiting for 'first'"):
        engine.resume(execution.execution_id, 1, wait="second")
    engine.resume(execution.execution_id, 1, wait="first")
    workers.run()
    engine.resume(execution.execution_id, 2, wait="second")
    workers.run()
    assert engine.status(execution.execution_id).output_data == {"first": 1, "second": 2}


def test_a_second_answer_is_refused(engine, workers):
    execution = engine.start(define(flows.ask))
    workers.run()
    engine.resume(execution.execution_id, 1)
    with pytest.raises(WorkflowInvalidStateError):
        engine.resume(execution.execution_id, 2)
    workers.run()
    assert engine.status(execution.execution_id).output_data == {"answer": 1}


def test_an_execution_that_waits_for_nothing_is_completed_by_resume(engine):
    execution = engine.start(define(flows.echo))
    WorkflowExecutionRecord.objects.update(state="waiting", wake_at=None)
    done = engine.resume(execution.execution_id, {"ok": 1})
    assert done.state == "completed"
    assert done.metadata["resume_signal"] == {"ok": 1}


# Final is final


@pytest.mark.parametrize("verb", ["resume", "cancel"])
@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_x2_what_has_ended_is_not_overwritten(engine, workers, state, verb):
    handler = {"completed": flows.echo, "failed": flows.fail, "cancelled": flows.ask}[state]
    execution = engine.start(define(handler))
    workers.run()
    if state == "cancelled":
        engine.cancel(execution.execution_id)
    before = engine.status(execution.execution_id)
    expected = WorkflowCancelledError if state == "cancelled" else WorkflowInvalidStateError
    with pytest.raises(expected, match=f"it is {state}"):
        getattr(engine, verb)(execution.execution_id)
    assert engine.status(execution.execution_id) == before
    assert not run(execution.execution_id, "default")


def test_x2_a_late_worker_changes_nothing(engine, workers):
    execution = engine.start(define(flows.echo))
    record = WorkflowExecutionRecord.objects.claim(execution.execution_id, lease=HOUR)
    assert record is not None
    engine.cancel(execution.execution_id, reason="changed our mind")
    held = WorkflowExecutionRecord.objects.held(record)
    assert not held.end(WorkflowState.COMPLETED, output_data={})
    cancelled = engine.status(execution.execution_id)
    assert cancelled.state == "cancelled"
    assert cancelled.metadata["cancel_reason"] == "changed our mind"


def test_x8_cancelling_in_the_middle_of_an_atomic_step_rolls_that_step_back(engine, workers):
    execution = engine.start(define(flows.two_steps))
    record = WorkflowExecutionRecord.objects.claim(execution.execution_id, lease=HOUR)
    assert record is not None
    engine.cancel(execution.execution_id)
    with pytest.raises(BaseException, match="no longer holds"), transaction.atomic():
        Tag.objects.create(name="undone")
        DatabaseRunStore(record, "default").finish("step", 1)
    assert names() == []


# Retries, crashes


def test_steps_that_are_done_are_not_repeated_by_a_retry(engine, workers):
    flows.troubles.append(ValueError("once"))
    execution = engine.start(define(flows.two_steps, retry=Retry(base=60)), correlation_id="key")
    workers.run()
    resting = engine.status(execution.execution_id)
    assert (resting.state, names()) == ("pending", ["first"])
    assert (
        engine.start(define(flows.echo), correlation_id="key").execution_id == resting.execution_id
    )
    assert not run(execution.execution_id, "default")  # a stray message does not cut the rest short
    workers.let_rest_pass()
    workers.run()
    assert engine.status(execution.execution_id).output_data == {"steps": ["first", "second"]}
    assert names() == ["first", "second"]


@pytest.mark.parametrize("error", [PermanentFailure("x"), KeyError("x")])
def test_some_failures_are_final_at_once(engine, workers, error):
    flows.troubles.append(error)
    execution = engine.start(define(flows.two_steps, retry=Retry(stop_on=(LookupError,))))
    workers.run()
    assert engine.status(execution.execution_id).state == "failed"


def test_the_policy_of_the_start_decides_and_the_last_attempt_too(engine, workers):
    flows.troubles += [RetryAfter(5), ValueError("1"), ValueError("2")]
    execution = engine.start(define(flows.two_steps, retry=Retry(max_attempts=2, base=1)))
    for _ in range(3):
        workers.run()
        workers.let_rest_pass()
    assert engine.status(execution.execution_id).state == "failed"


def test_x1_a_run_whose_worker_died_is_picked_up_again(engine, workers):
    execution = engine.start(define(flows.two_steps))
    flows.troubles.append(Died())
    with pytest.raises(Died):
        run_and_die(execution)
    assert engine.status(execution.execution_id).state == "running"
    assert workers.run() == 0  # its lease still holds
    workers.let_rest_pass()
    assert workers.run() == 1
    assert engine.status(execution.execution_id).state == "completed"
    assert names() == ["first", "second"]


def test_x7_what_kills_its_worker_again_and_again_fails_and_says_why(engine, workers):
    execution = engine.start(define(flows.two_steps))
    flows.troubles += [Died() for _ in range(9)]
    for _ in range(6):
        try:
            run_and_die(execution)
        except Died:
            workers.let_rest_pass()
            WorkflowExecutionRecord.objects.wake_due(10)
    failed = engine.status(execution.execution_id)
    assert failed.state == "failed"
    assert "3 times" in failed.error


def test_x5_a_step_that_must_run_once_does_not_run_again_and_says_so(engine, workers):
    flows.troubles.append(Died())
    execution = engine.start(define(flows.charge_once))
    with pytest.raises(Died):
        run_and_die(execution)
    workers.let_rest_pass()
    workers.run()
    failed = engine.status(execution.execution_id)
    assert failed.state == "failed"
    assert "may have happened" in failed.error
    assert flows.calls == ["charge"]


def test_a_handler_that_this_process_lacks_is_left_to_another(engine, workers):
    execution = engine.start(define(flows.echo))
    WorkflowExecutionRecord.objects.update(handler_path="tests.testapp.flows.of_a_newer_release")
    workers.run()
    assert engine.status(execution.execution_id).state == "pending"
    WorkflowExecutionRecord.objects.update(handler_path="tests.testapp.flows.echo")
    workers.let_rest_pass()
    workers.run()
    assert engine.status(execution.execution_id).state == "completed"


# In the caller's process


@pytest.fixture
def _in_this_process(celery_engine):
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    with override_settings(GENERAL_MANAGER=settings):
        yield


@pytest.mark.usefixtures("_in_this_process")
def test_with_async_off_an_execution_runs_at_once(engine):
    execution = engine.start(define(flows.two_steps))
    assert execution.output_data == {"steps": ["first", "second"]}
    waiting = engine.start(define(flows.ask))
    assert waiting.state == "waiting"
    assert engine.resume(waiting.execution_id, 1).output_data == {"answer": 1}


@pytest.mark.usefixtures("_in_this_process")
@pytest.mark.parametrize("handler", [flows.fail, flows.break_the_transaction])
def test_a_failing_handler_damages_neither_the_callers_transaction_nor_the_row(engine, handler):
    with transaction.atomic():
        Tag.objects.create(name="caller's")
        execution = engine.start(define(handler))
        Tag.objects.create(name="caller's too")
    assert execution.state == "pending"
    assert engine.status(execution.execution_id).state == "failed"
    # It ran after the caller's commit, in transactions of its own.
    assert set(names()) - {"before the failure"} == {"caller's", "caller's too"}


def test_an_unknown_execution_is_not_found(engine):
    for verb in (engine.status, engine.resume, engine.cancel):
        with pytest.raises(WorkflowExecutionNotFoundError):
            verb("nobody")


def test_an_event_starts_an_execution_in_six_statements(outbox, engine, workers):
    outbox.register("order_paid", handler=flows.start_from_event)
    outbox.publish_many(
        WorkflowEvent(str(number), "shop.order.paid", {}, event_name="order_paid")
        for number in range(50)
    )
    with data_statements() as statements:
        workers.deliver()
        for execution_id in WorkflowExecutionRecord.objects.values_list("execution_id", flat=True):
            run(execution_id, "default")
    states = set(WorkflowExecutionRecord.objects.values_list("state", flat=True))
    assert states == {"completed"}
    assert len(statements) - 1 <= (6 if can_fetch("default") else 7) * 50
