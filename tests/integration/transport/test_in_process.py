"""Production with `WORKFLOW_ASYNC` off: stored as ever, and done in this process."""

from datetime import timedelta
from io import StringIO
from threading import Thread

import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.test import TestCase, override_settings
from django.utils import timezone

from general_manager.workflow import (
    Retry,
    WorkflowDefinition,
    WorkflowEvent,
    configure_event_registry,
    configure_workflow_engine,
    get_workflow_engine,
    publish_sync,
    sleep,
    step,
    wait_for,
)
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.core.local_handlers import forget_handler, keep_handler
from general_manager.workflow.executions.runner import MISSING_HANDLER_RUNS
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.models.sql.addresses import Addressed
from general_manager.workflow.outbox.registry import DatabaseEventRegistry
from general_manager.workflow.transport import broker
from general_manager.workflow.workers.tick import tick
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

IN_PROCESS = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch):
    """No broker may even be asked."""

    def ask(*arguments):
        raise AssertionError(f"a broker was asked for {arguments}")

    monkeypatch.setattr(broker, "send", ask)


@pytest.fixture
def registry():
    registry = DatabaseEventRegistry()
    configure_event_registry(registry)
    configure_workflow_engine(CeleryWorkflowEngine())
    with override_settings(GENERAL_MANAGER=IN_PROCESS):
        yield registry
    configure_event_registry(None)
    configure_workflow_engine(None)


@pytest.fixture
def engine(registry):
    return get_workflow_engine()


def make_event(event_id="1", **payload):
    return WorkflowEvent(event_id, "a.b", payload, event_name="x")


def define(handler, **options):
    return WorkflowDefinition("w", handler=handler, **options)


def write(event):
    Tag.objects.create(name=event.event_id)


def tags():
    return sorted(Tag.objects.values_list("name", flat=True))


def test_a1_publish_says_that_a_handler_completed_and_everything_is_stored(registry):
    registry.register("x", handler=write)
    assert registry.publish(make_event()) is True
    assert tags() == ["1"]
    assert WorkflowOutbox.objects.get().status == "processed"
    assert WorkflowDeliveryAttempt.objects.get().status == "completed"


def test_a1_publish_is_false_where_nothing_matched_or_the_id_is_known(registry):
    registry.register("x", handler=write)
    assert registry.publish(WorkflowEvent("other", "a.c", {})) is False
    registry.publish(make_event())
    assert registry.publish(make_event()) is False
    assert tags() == ["1"]


def test_a1_inside_a_transaction_the_event_is_delivered_after_the_commit(registry):
    registry.register("x", handler=write)
    with transaction.atomic():
        assert registry.publish(make_event()) is False
        assert tags() == []
    assert tags() == ["1"]


def test_a1_a_rollback_takes_the_event_along(registry):
    registry.register("x", handler=write)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        registry.publish(make_event())
        raise ZeroDivisionError
    assert tags() == []
    assert registry.publish(make_event()) is True


def test_a1_a_failing_handler_is_kept_for_another_pass(registry):
    def fail(event):
        Tag.objects.create(name="undone")
        raise ValueError("not now")

    registry.register("x", handler=fail)
    registry.register("x", handler=write)
    assert registry.publish(make_event()) is True
    assert tags() == ["1"]
    assert WorkflowOutbox.objects.get().status == "failed"
    assert set(WorkflowDeliveryAttempt.objects.values_list("status", flat=True)) == {
        "completed",
        "failed",
    }


def test_a1_many_events_are_counted_as_they_are_handled(registry):
    registry.register("x", handler=write, when=lambda event: event.event_id != "3")
    assert registry.publish_many(make_event(str(number)) for number in range(120)) == 119
    assert len(tags()) == 119
    with transaction.atomic():
        assert registry.publish_many([make_event("a"), make_event("b")]) == 0
    assert {"a", "b"} <= set(tags())


def test_a1_an_execution_started_by_a_handler_runs_when_the_delivery_is_committed(registry):
    states = []

    def start(event):
        execution = get_workflow_engine().start(define(flows.two_steps))
        states.append(execution.state)

    registry.register("x", handler=start)
    assert registry.publish(make_event()) is True
    assert states == ["pending"]
    assert WorkflowExecutionRecord.objects.get().state == "completed"


def test_a1_an_execution_of_a_handler_that_fails_afterwards_never_was(registry):
    def start_and_fail(event):
        get_workflow_engine().start(define(flows.two_steps))
        raise ValueError("after the start")

    registry.register("x", handler=start_and_fail)
    registry.publish(make_event())
    assert not WorkflowExecutionRecord.objects.exists()
    assert tags() == []


def test_a1_start_runs_at_once_outside_of_a_transaction_and_after_the_commit_inside(engine):
    assert engine.start(define(flows.two_steps)).state == "completed"
    with transaction.atomic():
        execution = engine.start(define(flows.echo))
        assert engine.status(execution.execution_id).state == "pending"
    assert engine.status(execution.execution_id).state == "completed"


def test_a1_an_answer_inside_a_transaction_is_continued_after_the_commit(engine):
    waiting = engine.start(define(flows.ask))
    with transaction.atomic():
        assert engine.resume(waiting.execution_id, 1).state == "pending"
    assert engine.status(waiting.execution_id).output_data == {"answer": 1}


def test_a1_a_long_chain_of_events_needs_no_deeper_stack(registry):
    def follow(event):
        left = event.payload["left"]
        if left:
            registry.publish(make_event(f"follow {left}", left=left - 1))

    registry.register("x", handler=follow)
    registry.publish(make_event(left=300))
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}
    assert WorkflowOutbox.objects.count() == 301


def test_a1_what_comes_due_later_is_done_by_a_tick_or_by_the_command(registry, engine, workers):
    flows.troubles.append(ValueError("not now"))
    attempts = []

    def fail_once(event):
        attempts.append(event.event_id)
        if len(attempts) == 1:
            raise ValueError("not now")

    registry.register("x", handler=fail_once)
    registry.publish(make_event())
    execution = engine.start(define(flows.two_steps, retry=Retry(base=1)))
    assert (execution.state, attempts) == ("pending", ["1"])
    workers.let_rest_pass()
    assert tick()
    assert attempts == ["1", "1"]
    assert engine.status(execution.execution_id).state == "completed"
    slept = engine.start(define(flows.nap))
    assert slept.state == "waiting"
    workers.let_rest_pass()
    WorkflowStep.objects.update(until=timezone.now() - timedelta(seconds=1))
    call_command("workflow_drain_outbox", stdout=StringIO())
    assert engine.status(slept.execution_id).state == "completed"


def test_a1_the_work_of_a_killed_process_is_done_by_another(registry, engine, workers):
    registry.register("x", handler=write)
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}):
        WorkflowOutbox.objects.enqueue_many([Addressed(make_event(), [])])
        WorkflowOutbox.objects.claim(1, lease=timedelta(seconds=60), begin=1)
    execution = engine.start(define(flows.ask))
    WorkflowExecutionRecord.objects.update(state="running", claim_token="dead", waiting_for=None)
    workers.let_rest_pass()
    tick()
    assert tags() == ["1"]
    assert engine.status(execution.execution_id).state == "waiting"


def test_a1_dead_letters_that_are_requeued_are_delivered_here(registry):
    reasons = [ValueError("once")]

    def fail_once(event):
        if reasons:
            raise reasons.pop()
        write(event)

    registry.register("x", handler=fail_once, retry_on=lambda error: False)
    registry.publish(make_event())
    assert WorkflowDeliveryAttempt.objects.get().status == "dead_letter"
    call_command("workflow_requeue_dead_letters", stdout=StringIO())
    assert tags() == ["1"]


def test_a1_the_status_speaks_of_no_worker_and_no_beat(registry):
    said = StringIO()
    call_command("workflow_status", stdout=said)
    assert "last tick" in said.getvalue()
    for absent in ("Beat", "worker"):
        assert absent not in said.getvalue()


# A2: any callable may be a handler


def test_a2_nested_functions_and_lambdas_run(engine):
    def nested(data):
        return {"n": step("one", lambda: data["n"] + 1)}

    assert engine.start(define(nested), {"n": 1}).output_data == {"n": 2}
    assert engine.start(define(lambda data: {"l": 1})).output_data == {"l": 1}


def test_a2_a_nested_function_that_is_started_in_a_transaction_runs_after_it(engine):
    with transaction.atomic():
        execution = engine.start(define(lambda data: {"l": 1}))
    assert engine.status(execution.execution_id).output_data == {"l": 1}


@pytest.mark.parametrize(
    "stop",
    [
        lambda asked: wait_for("answer", ask=lambda: asked.append(1)),
        lambda asked: sleep("nap", timedelta(days=1)),
    ],
)
def test_a2_one_that_must_continue_later_fails_with_the_reason_before_it_asks(engine, stop):
    asked = []
    execution = engine.start(define(lambda data: stop(asked)))
    assert execution.state == "failed"
    assert "Use a function at the top level of a module" in execution.error
    assert asked == []


def test_a2_one_that_would_be_tried_again_fails_with_the_reason_and_its_own_error(engine):
    execution = engine.start(define(lambda data: 1 / 0, retry=Retry()))
    assert execution.state == "failed"
    assert "Use a function at the top level of a module" in execution.error
    assert "ZeroDivisionError" in WorkflowExecutionRecord.objects.get().traceback


def test_a2_another_process_leaves_a_fresh_one_to_the_process_that_has_it(engine, workers):
    def mine(data):
        return {"mine": True}

    with transaction.atomic():
        execution = engine.start(define(mine))
        forget_handler(execution.execution_id)  # as another process sees what is committed
    assert engine.status(execution.execution_id).state == "pending"
    keep_handler(execution.execution_id, mine)
    workers.let_rest_pass()
    tick()
    assert engine.status(execution.execution_id).output_data == {"mine": True}


def test_a2_when_the_process_that_had_the_function_is_gone_the_reason_is_given(engine, workers):
    with transaction.atomic():
        execution = engine.start(define(lambda data: {"mine": True}))
        forget_handler(execution.execution_id)
    WorkflowExecutionRecord.objects.update(missing_handler_runs=MISSING_HANDLER_RUNS)
    workers.let_rest_pass()
    tick()
    failed = engine.status(execution.execution_id)
    assert failed.state == "failed"
    assert "Use a function at the top level of a module" in failed.error


def test_a_function_that_no_later_process_can_import_is_not_started_for_later(engine):
    later = timezone.now() + timedelta(hours=1)
    failed = engine.start(define(lambda data: {"mine": True}), at=later)
    assert failed.state == "failed"
    assert "Use a function at the top level of a module" in failed.error
    assert engine.start(define(flows.echo), at=later).state == "pending"


# A3: a registry delivers to its own registrations


def test_a3_publish_sync_calls_the_handlers_of_its_own_registry(registry):
    by_hand, called = DatabaseEventRegistry(), []
    registry.register("x", handler=lambda event: called.append("the one in force"))
    by_hand.register("x", handler=lambda event: called.append("by hand"))
    assert by_hand.publish_sync(make_event()) is True
    assert called == ["by hand"]
    assert by_hand.publish(make_event("2")) is True
    assert called == ["by hand", "by hand"]
    assert publish_sync(make_event("3")) is True
    assert called[2:] == ["the one in force"]


def test_a1_publish_sync_inside_a_transaction_delivers_at_once_and_is_undone_with_it(registry):
    registry.register("x", handler=write)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        assert registry.publish_sync(make_event()) is True
        assert tags() == ["1"]
        raise ZeroDivisionError
    assert tags() == []
    assert not WorkflowEventRecord.objects.exists()


def test_a1_requests_in_several_threads_do_their_own_work(registry):
    registry.register("x", handler=write)

    def request(number):
        registry.publish(make_event(str(number)))
        connections.close_all()

    threads = [Thread(target=request, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tags() == ["0", "1", "2", "3"]


@override_settings(GENERAL_MANAGER=IN_PROCESS)
class TestInATestCase(TestCase):
    databases = "__all__"

    def setUp(self):
        self.registry = DatabaseEventRegistry()
        configure_event_registry(self.registry)
        configure_workflow_engine(CeleryWorkflowEngine())
        self.addCleanup(configure_event_registry, None)
        self.addCleanup(configure_workflow_engine, None)

    def test_a1_the_test_cases_own_transaction_does_not_count(self):
        def start(event):
            get_workflow_engine().start(define(flows.two_steps))

        self.registry.register("x", handler=start)
        assert self.registry.publish(make_event()) is True
        assert WorkflowExecutionRecord.objects.get().state == "completed"

    def test_a1_one_inside_it_does(self):
        self.registry.register("x", handler=write)
        with self.captureOnCommitCallbacks(execute=True):
            with transaction.atomic():
                assert self.registry.publish(make_event()) is False
            assert tags() == []
        assert tags() == ["1"]
