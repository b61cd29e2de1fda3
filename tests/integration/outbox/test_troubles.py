"""What went wrong once in production mode: databases that stumble, messages that come twice."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.test import override_settings

from general_manager.workflow import (
    Retry,
    RetryAfter,
    WorkflowDefinition,
    WorkflowEvent,
    publish_sync,
)
from general_manager.workflow.executions.runner import run
from general_manager.workflow.executions.store import DatabaseRunStore
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.models.executions import verbs
from general_manager.workflow.models.executions.verbs import ExecutionQuerySet
from general_manager.workflow.models.outbox import OutboxQuerySet
from general_manager.workflow.models.sql.compiled import CompiledUpdate
from general_manager.workflow.outbox.drain import deliver
from general_manager.workflow.tasks import work
from general_manager.workflow.workers.tick import run_inline, tick
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()


@pytest.fixture
def engine(celery_engine):
    return celery_engine


class LostConnection(Exception):
    """As PostgreSQL's drivers raise it: there is no code from a server."""

    sqlstate = None


def define(handler=None, **arguments):
    return WorkflowDefinition("w", handler=handler, **arguments)


def make_event(event_id="1"):
    return WorkflowEvent(event_id, "a.b", {}, event_name="x")


def failing_once(real):
    """*real*, with a database that is away the first time."""
    calls = []

    def stumbling(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise OperationalError("deadlock detected")
        return real(*arguments, **options)

    return stumbling


@pytest.mark.parametrize(
    ("owner", "name"), [(DatabaseRunStore, "load"), (ExecutionQuerySet, "complete")]
)
def test_x1_a_database_that_stumbles_is_no_failure_of_the_workflow(
    engine, workers, monkeypatch, owner, name
):
    execution = engine.start(define(flows.echo))
    monkeypatch.setattr(owner, name, failing_once(getattr(owner, name)))
    assert run(execution.execution_id, "default")
    assert engine.status(execution.execution_id).state == "pending"
    workers.let_rest_pass()
    workers.run()
    assert engine.status(execution.execution_id).state == "completed"
    row = WorkflowExecutionRecord.objects.get()
    assert (row.crashes, row.attempts, row.interruptions) == (0, 0, 1)


def test_x1_a_worker_that_is_asked_to_end_leaves_its_execution_to_another(engine, workers):
    flows.troubles.append(SystemExit(0))
    execution = engine.start(define(flows.two_steps))
    with pytest.raises(SystemExit):
        run(execution.execution_id, "default")
    workers.let_rest_pass()
    workers.run()
    assert engine.status(execution.execution_id).state == "completed"


def test_one_database_that_is_away_stops_neither_the_others_nor_the_sweep(
    outbox, engine, workers, monkeypatch
):
    engine.start(define(flows.echo))
    outbox.publish(make_event("there"), using="archive")
    workers.let_rest_pass()
    claim = OutboxQuerySet.claim

    def claim_where_one_can(self, *arguments, **options):
        if self.db == "archive":
            raise OperationalError("archive is away")
        return claim(self, *arguments, **options)

    monkeypatch.setattr(OutboxQuerySet, "claim", claim_where_one_can)
    assert tick()
    assert flows.calls == ["echo"]
    engine.start(define(flows.echo))
    with pytest.raises(OperationalError, match="archive is away"):  # when the others are done
        list(run_inline())
    assert flows.calls == ["echo", "echo"]


def test_a_database_without_our_tables_or_that_mirrors_another_holds_no_outbox(monkeypatch):
    assert outboxes() == ["default", "archive"]
    monkeypatch.setattr("general_manager.workflow.models.databases._found", set())
    names = type(connections["archive"].introspection).table_names

    def without_ours(self, cursor=None, **options):
        found = names(self, cursor, **options)
        return [] if self.connection.alias == "archive" else found

    monkeypatch.setattr(type(connections["archive"].introspection), "table_names", without_ours)
    assert outboxes() == ["default"]
    monkeypatch.setitem(connections.settings["default"]["TEST"], "MIRROR", "archive")
    assert outboxes() == []


def test_x5_a_step_that_ran_once_did_so_though_the_callers_savepoint_was_undone(engine, workers):
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    flows.troubles.append(ValueError("after the charge"))
    with override_settings(GENERAL_MANAGER=settings), transaction.atomic():
        engine.start(define(flows.charge_and_stumble, retry=Retry(base=0)))
    workers.let_rest_pass()
    workers.run()
    assert flows.calls == ["charge"]
    assert WorkflowExecutionRecord.objects.get().state == "completed"


def test_t1_a_question_that_could_not_be_sent_is_not_sent_by_a_later_run(engine, workers):
    """The handler has taken the branch for that, and takes it again."""
    flows.troubles.append(ValueError("the mail server is away"))
    execution = engine.start(define(flows.ask_a_then_b))
    workers.run()
    assert engine.status(execution.execution_id).waiting_for == "b"
    engine.resume(execution.execution_id, "B", wait="b")
    workers.run()
    assert engine.status(execution.execution_id).output_data == {"a": "not asked", "b": "B"}


def test_publish_sync_delivers_here_and_leaves_failures_undelivered(outbox, workers):
    outbox.register("x", handler=lambda event: flows.note(event.event_id))
    assert publish_sync(make_event("1"))
    assert flows.calls == ["1"]
    assert not publish_sync(make_event("1"))
    flows.troubles.append(ValueError("boom"))
    outbox.register("y", handler=lambda event: flows.stumble())
    assert not publish_sync(WorkflowEvent("2", "a.b", {}, event_name="y"))
    workers.let_rest_pass()
    workers.deliver()
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}


def test_x7_crashes_are_forgiven_when_a_sleep_is_over(engine, workers):
    execution = engine.start(define(flows.nap))
    workers.run()
    WorkflowExecutionRecord.objects.update(crashes=2)
    WorkflowStep.objects.update(until="2020-01-01T00:00:00Z")
    workers.let_rest_pass()
    workers.run()
    assert engine.status(execution.execution_id).state == "completed"
    assert WorkflowExecutionRecord.objects.get().crashes == 0


def test_an_old_execution_may_meet_a_process_without_its_handler_too(engine, workers):
    execution = engine.start(define(flows.echo))
    WorkflowExecutionRecord.objects.update(runs=50, handler_path="tests.of.a.newer.release")
    workers.run()
    assert engine.status(execution.execution_id).state == "pending"


def test_a_module_that_is_half_deployed_stops_nobody(engine, tmp_path, monkeypatch):
    (tmp_path / "half_deployed_module.py").write_text("nothing_like_this\n")
    monkeypatch.syspath_prepend(tmp_path)
    broken, fine = (engine.start(define(flows.echo), {"n": n}) for n in range(2))
    WorkflowExecutionRecord.objects.filter(execution_id=broken.execution_id).update(
        handler_path="half_deployed_module.handler"
    )
    work("default")
    assert engine.status(broken.execution_id).state == "pending"
    assert engine.status(fine.execution_id).state == "completed"


def test_a_cancellation_in_the_middle_of_a_claim_harms_nobody(engine, monkeypatch):
    """Where UPDATE cannot return its row, a claim is two statements."""
    execution = engine.start(define(flows.echo))
    real = CompiledUpdate.run

    def claim_and_cancel(self, *arguments, **slots):
        count = real(self, *arguments, **slots)
        engine.cancel(execution.execution_id)
        return count

    monkeypatch.setattr(verbs, "can_fetch", lambda using: False)
    monkeypatch.setattr(CompiledUpdate, "run", claim_and_cancel)
    assert not run(execution.execution_id, "default")
    assert engine.status(execution.execution_id).state == "cancelled"


@pytest.mark.parametrize("seconds", [1e9, 1e12, 1e15])
def test_x9_no_rest_leaves_the_calendar(engine, outbox, workers, seconds):
    flows.troubles += [RetryAfter(seconds), RetryAfter(seconds)]
    execution = engine.start(define(flows.two_steps, retry=Retry()))
    workers.run()
    assert engine.status(execution.execution_id).state == "pending"
    outbox.register("x", handler=lambda event: flows.stumble())
    outbox.publish(make_event())
    workers.deliver()
    assert WorkflowOutbox.objects.get().status == "failed"


def test_the_death_of_a_worker_is_no_failed_pass(outbox, workers):
    outbox.register("x", handler=lambda event: flows.stumble(), atomic=False)
    outbox.publish(make_event())
    flows.troubles += [SystemExit(1), SystemExit(1), ValueError("the first real failure")]
    for _ in range(2):
        with pytest.raises(SystemExit):
            workers.deliver()
        workers.let_rest_pass()
    workers.deliver()
    row = WorkflowDeliveryAttempt.objects.get()
    assert (row.status, row.attempts, row.crashes) == ("failed", 1, 2)


def test_an_old_loss_of_the_connection_does_not_explain_a_handlers_own_rollback(outbox, workers):
    """Django names the last error of any transaction as the cause of what breaks this one."""
    calls = []

    def give_up(event):
        calls.append(1)
        connection.set_rollback(True)

    outbox.register("x", handler=give_up)
    outbox.publish(make_event())
    lost = OperationalError("server closed the connection unexpectedly")
    lost.__cause__ = LostConnection()
    wrapper: Any = connection
    wrapper.rollback_exc = lost
    workers.deliver()
    row = WorkflowDeliveryAttempt.objects.get()
    assert (row.status, row.attempts, len(calls)) == ("failed", 1, 1)


@pytest.mark.parametrize("atomic", [True, False])
def test_e13_a_message_that_comes_twice_starts_a_chunk_once(outbox, atomic):
    calls = []

    def deliver_again(event):
        calls.append(1)
        if len(calls) == 1:
            deliver("default", held.token, held.together)

    outbox.register("x", handler=deliver_again, atomic=atomic)
    outbox.publish(make_event())
    held = WorkflowOutbox.objects.claim(10, lease=HOUR)
    deliver("default", held.token, held.together)
    assert calls == [1]


def test_an_execution_without_a_handler_is_kept_as_it_was_returned(engine):
    started = engine.start(define(), correlation_id="key")
    kept = engine.status(started.execution_id)
    assert kept.output_data == started.output_data == {}
    assert kept.started_at is not None
    assert engine.start(define(), correlation_id="key").output_data == {}


def test_what_was_rolled_back_is_not_asked_for_later(engine):
    for _ in range(3):
        with pytest.raises(RuntimeError), transaction.atomic():
            engine.start(define(flows.echo))
            raise RuntimeError
    with transaction.atomic():
        engine.start(define(flows.echo, queue="gpu"))
        assert connection._general_manager_nudge.queues == {"gpu"}  # type: ignore[attr-defined]
