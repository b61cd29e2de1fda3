"""What operators do to executions, on both engines; and what the history tells of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone

from general_manager.workflow import (
    EncodingError,
    LocalWorkflowEngine,
    PermanentFailure,
    Retry,
    WorkflowDefinition,
    WorkflowEvent,
    WorkflowInvalidStateError,
    acting_as,
)
from general_manager.workflow.core.actors import caused_by
from general_manager.workflow.core.encoding import MAX_DEPTH
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.workers.tick import sweep
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

PATIENT = Retry(max_attempts=3, base=3600, jitter=0)


class Stored:
    """The Celery engine, with workers that work when the test says so."""

    def __init__(self, engine, workers):
        self.engine = engine
        self.go_on = workers.run

    def let_time_pass(self):
        past = timezone.now() - timedelta(seconds=1)
        WorkflowStep.objects.filter(until__isnull=False).update(until=past)
        WorkflowExecutionRecord.objects.filter(wake_at__isnull=False).update(wake_at=past)
        sweep(hand_on=False)


class InMemory:
    def __init__(self):
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.engine = LocalWorkflowEngine(clock=lambda: self.now)

    def go_on(self):
        self.engine.run_due()

    def let_time_pass(self):
        self.now += timedelta(days=30)
        self.engine.run_due()


@pytest.fixture(params=["local", "celery"])
def world(request):
    flows.calls.clear()
    flows.troubles.clear()
    if request.param == "local":
        return InMemory()
    return Stored(request.getfixturevalue("celery_engine"), request.getfixturevalue("workers"))


def define(handler, **arguments):
    return WorkflowDefinition("w", handler=handler, **arguments)


def start(world, handler, *troubles, correlation_id=None, **arguments):
    flows.troubles += troubles
    execution = world.engine.start(define(handler, **arguments), correlation_id=correlation_id)
    world.go_on()
    return world.engine.status(execution.execution_id)


def kinds(world, execution):
    return [entry.kind for entry in world.engine.history(execution.execution_id)]


def test_x2_a_failed_execution_is_continued_by_a_fresh_one_with_its_steps(world):
    failed = start(world, flows.two_steps, ValueError("boom"), correlation_id="key")
    assert failed.state == "failed"
    fresh = world.engine.retry_from_checkpoint(failed.execution_id)
    world.go_on()
    fresh = world.engine.status(fresh.execution_id)
    assert (fresh.state, fresh.output_data) == ("completed", {"steps": ["first", "second"]})
    assert flows.calls == ["first", "second"]
    assert fresh.execution_id != failed.execution_id
    assert fresh.correlation_id == "key"
    assert fresh.metadata["continues"] == failed.execution_id
    assert world.engine.status(failed.execution_id) == failed
    assert kinds(world, failed) == ["continued"]
    assert kinds(world, fresh) == ["continues"]


def test_a_failed_execution_is_continued_once(world):
    failed = start(world, flows.two_steps, ValueError("boom"), ValueError("again"))
    fresh = world.engine.retry_from_checkpoint(failed.execution_id)
    with pytest.raises(WorkflowInvalidStateError, match=fresh.execution_id):
        world.engine.retry_from_checkpoint(failed.execution_id)


def test_only_failed_executions_are_continued(world):
    done = start(world, flows.echo)
    with pytest.raises(WorkflowInvalidStateError, match="completed"):
        world.engine.retry_from_checkpoint(done.execution_id)


def test_x3_no_execution_is_continued_while_another_has_its_correlation_id(world):
    failed = start(world, flows.two_steps, ValueError("boom"), correlation_id="key")
    other = start(world, flows.two_steps, correlation_id="key")
    with pytest.raises(WorkflowInvalidStateError, match=other.execution_id):
        world.engine.retry_from_checkpoint(failed.execution_id)
    assert kinds(world, failed) == []


def test_what_was_asked_and_not_answered_is_asked_again_with_the_fresh_id(world):
    flows.troubles.append(ValueError("no mail server"))
    failed = start(world, flows.fail_after_asking)
    world.engine.resume(failed.execution_id, "yes")
    world.go_on()
    assert world.engine.status(failed.execution_id).state == "failed"
    fresh = world.engine.retry_from_checkpoint(failed.execution_id)
    world.go_on()
    assert world.engine.status(fresh.execution_id).output_data == {"answer": "yes"}
    assert flows.calls == ["mail"]


@pytest.mark.parametrize(
    ("happened", "calls"), [(True, ["charge", "paid"]), (False, ["charge", "charge", "paid"])]
)
def test_x5_an_operator_says_what_became_of_a_step_in_doubt(world, happened, calls):
    doubtful = start(world, flows.charge_then_note, ValueError("line lost"), retry=PATIENT)
    world.let_time_pass()
    doubtful = world.engine.status(doubtful.execution_id)
    assert doubtful.state == "failed"
    assert "may have happened" in doubtful.error
    with pytest.raises(WorkflowInvalidStateError, match="resolve_step"):
        world.engine.retry_from_checkpoint(doubtful.execution_id)
    with pytest.raises(WorkflowInvalidStateError, match="'other' is not in doubt"):
        world.engine.resolve_step(doubtful.execution_id, "other", happened=True)
    with acting_as("ada"):
        fresh = world.engine.resolve_step(
            doubtful.execution_id, "charge", happened=happened, result="receipt"
        )
    world.go_on()
    fresh = world.engine.status(fresh.execution_id)
    assert fresh.state == "completed"
    assert fresh.output_data == {"charged": "receipt" if happened else "charge"}
    assert flows.calls == calls
    resolved = world.engine.history(fresh.execution_id)[-1]
    assert (resolved.kind, resolved.by) == ("resolved", "ada")
    assert resolved.detail.startswith("charge: it ")


def test_a_rest_between_attempts_is_ended_by_hand(world):
    resting = start(world, flows.two_steps, ValueError("boom"), retry=PATIENT)
    assert resting.state == "pending"
    world.engine.wake(resting.execution_id)
    world.go_on()
    assert world.engine.status(resting.execution_id).state == "completed"
    assert kinds(world, resting) == ["attempt_failed", "woken"]


def test_a_sleep_is_ended_by_hand(world):
    asleep = start(world, flows.nap)
    world.engine.wake(asleep.execution_id)
    world.go_on()
    assert world.engine.status(asleep.execution_id).output_data == {"woke": True}


@pytest.mark.parametrize(
    ("handler", "reason"), [(flows.ask, "waiting for 'approval'"), (flows.echo, "not sleeping")]
)
def test_what_neither_waits_for_a_retry_nor_sleeps_is_not_woken(world, handler, reason):
    execution = start(world, handler)
    with pytest.raises(WorkflowInvalidStateError, match=reason):
        world.engine.wake(execution.execution_id)


def test_o1_the_history_tells_who_did_what_and_why(world):
    asked = start(world, flows.ask_twice)
    with acting_as("ada"):
        world.engine.resume(asked.execution_id, "yes")
    world.go_on()
    with acting_as("grace"):
        world.engine.cancel(asked.execution_id, reason="too dear")
    told = [(one.kind, one.by, one.detail) for one in world.engine.history(asked.execution_id)]
    assert told == [("resumed", "ada", "first"), ("cancelled", "grace", "too dear")]


def test_the_history_tells_that_nobody_answered(world):
    asked = start(world, flows.ask)
    world.let_time_pass()
    assert world.engine.status(asked.execution_id).output_data == {"answer": "nobody"}
    assert kinds(world, asked) == ["wait_timed_out"]


def test_the_history_tells_of_each_failed_attempt(world):
    execution = start(world, flows.two_steps, ValueError("boom"), retry=PATIENT)
    [entry] = world.engine.history(execution.execution_id)
    assert (entry.kind, entry.detail) == ("attempt_failed", "boom")


def test_a_run_longer_than_the_workflows_timeout_is_a_failed_attempt(celery_engine):
    execution = celery_engine.start(define(flows.echo, timeout=timedelta(minutes=5)))
    executions = WorkflowExecutionRecord.objects
    hung: Any = executions.claim(execution.execution_id, lease=timedelta(seconds=60))
    assert hung.run_until > timezone.now() + timedelta(minutes=4)
    past = timezone.now() - timedelta(seconds=1)
    executions.update(run_until=past, wake_at=timezone.now() + timedelta(hours=1))
    assert executions.renew(hung, lease=timedelta(seconds=60)) == 0
    executions.update(wake_at=past)
    sweep(hand_on=False)
    failed = celery_engine.status(execution.execution_id)
    assert failed.state == "failed"
    assert "longer than its timeout of 300 s" in failed.error
    assert not executions.complete(hung, {})
    history = celery_engine.history(execution.execution_id)
    assert [one.kind for one in history] == ["overdue"]


def test_an_overdue_run_is_tried_again_if_the_workflow_says_so(celery_engine, workers):
    definition = define(flows.echo, timeout=timedelta(seconds=5), retry=PATIENT)
    execution = celery_engine.start(definition)
    WorkflowExecutionRecord.objects.claim(execution.execution_id, lease=timedelta(seconds=60))
    past = timezone.now() - timedelta(seconds=1)
    WorkflowExecutionRecord.objects.update(run_until=past, wake_at=past)
    sweep(hand_on=False)
    assert celery_engine.status(execution.execution_id).state == "pending"
    workers.let_rest_pass()
    workers.run()
    assert celery_engine.status(execution.execution_id).state == "completed"


def test_a_lease_ends_with_the_timeout_of_the_workflow(celery_engine):
    execution = celery_engine.start(define(flows.echo, timeout=timedelta(seconds=5)))
    executions = WorkflowExecutionRecord.objects
    held: Any = executions.claim(execution.execution_id, lease=timedelta(hours=1))
    assert held.wake_at == held.run_until
    assert executions.renew(held, lease=timedelta(hours=1)) == 1
    assert executions.get().wake_at == held.run_until


def test_the_local_engine_notices_a_late_run_when_it_ends():
    moments = iter(range(10_000))
    clock = lambda: datetime(2030, 1, 1, tzinfo=UTC) + timedelta(hours=next(moments))  # noqa: E731
    engine = LocalWorkflowEngine(clock=clock)
    late = engine.start(define(flows.echo, timeout=timedelta(seconds=5)))
    assert late.state == "failed"
    assert late.error is not None
    assert "longer than its timeout of 5 s" in late.error


def test_the_history_tells_that_a_worker_died(celery_engine, workers):
    execution = celery_engine.start(define(flows.echo))
    WorkflowExecutionRecord.objects.claim(execution.execution_id, lease=timedelta(seconds=-1))
    sweep(hand_on=False)
    assert celery_engine.status(execution.execution_id).state == "completed"
    assert [one.kind for one in celery_engine.history(execution.execution_id)] == ["recovered"]


def test_what_goes_well_leaves_no_history(world):
    execution = start(world, flows.two_steps)
    assert kinds(world, execution) == []


def test_an_execution_knows_the_event_that_started_it(celery_engine, outbox, workers):
    event = WorkflowEvent("e1", "a.b", {}, event_name="x")

    outbox.register("x", handler=flows.start_from_event)
    outbox.publish(event)
    workers.deliver()
    assert WorkflowExecutionRecord.objects.get().caused_by == "e1"


def test_an_execution_that_no_event_started_has_no_cause(celery_engine):
    celery_engine.start(define(flows.echo))
    assert WorkflowExecutionRecord.objects.get().caused_by is None
    with caused_by("e1"):
        celery_engine.start(define(flows.echo))
    assert WorkflowExecutionRecord.objects.filter(caused_by="e1").count() == 1


def test_a_permanent_failure_is_no_failed_attempt_in_the_history(world):
    failed = start(world, flows.two_steps, PermanentFailure("no"), retry=PATIENT)
    assert failed.state == "failed"
    assert kinds(world, failed) == []


def test_an_execution_whose_handler_cannot_be_imported_is_not_continued(celery_engine):
    failed = celery_engine.start(define(lambda data: None))
    with pytest.raises(WorkflowInvalidStateError, match="cannot be imported"):
        celery_engine.retry_from_checkpoint(failed.execution_id)


def test_a_continued_execution_runs_at_once_without_workers():
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    ):
        from general_manager.workflow.backends.celery import CeleryWorkflowEngine

        flows.troubles[:] = [ValueError("boom")]
        engine = CeleryWorkflowEngine()
        failed = engine.start(define(flows.two_steps))
        assert engine.retry_from_checkpoint(failed.execution_id).state == "completed"
    assert Tag.objects.count() == 2


def test_a_claim_says_where_it_is_held(celery_engine):
    execution = celery_engine.start(define(flows.echo))
    assert run(execution.execution_id, "default")
    assert ":" in WorkflowExecutionRecord.objects.get().claimed_by


@override_settings(GENERAL_MANAGER={"WORKFLOW_STEP_RESULT_MAX_BYTES": 50})
def test_e14_a_step_result_that_is_too_large_is_refused_and_undone(world):
    failed = start(world, flows.return_much)
    assert failed.state == "failed"
    assert "the result of step 'much': it is 102 bytes" in failed.error
    assert "WORKFLOW_STEP_RESULT_MAX_BYTES" in failed.error
    assert not Tag.objects.exists()


def test_e14_what_is_nested_as_deeply_as_is_allowed_is_stored_on_every_database(world):
    value: Any = "bottom"
    for _ in range(MAX_DEPTH - 1):
        value = {"d": value}
    asked = start(world, flows.ask)
    world.engine.resume(asked.execution_id, value)
    world.go_on()
    assert world.engine.status(asked.execution_id).metadata["resume_signal"] == value
    with pytest.raises(EncodingError, match="nested"):
        world.engine.resume(asked.execution_id, {"d": {"d": value}})
