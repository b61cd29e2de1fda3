"""What retention lets go, what it never touches, and that it is in nobody's way."""

from datetime import timedelta
from threading import Event, Thread

import pytest
from django.db import connection, connections, transaction
from django.db.models.signals import pre_delete
from django.test import override_settings
from django.utils import timezone

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHeartbeat,
    WorkflowHistory,
    WorkflowOutbox,
    WorkflowSignal,
    WorkflowStep,
)
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.workers.pruning import Pruned, count_prunable, prune, prune_once
from general_manager.workflow.workers.tick import tick
from tests.integration.conftest import data_statements
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

DAY = timedelta(days=1)
MONTH = timedelta(days=30)
TABLES = (
    WorkflowEventRecord, WorkflowOutbox, WorkflowDeliveryAttempt, WorkflowExecutionRecord,
    WorkflowStep, WorkflowHistory,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()


def publish(registry, *ids, name="x"):
    registry.publish_many(WorkflowEvent(one, "a.b", {}, event_name=name) for one in ids)


def let_pass(duration):
    """Everything that happened so far happened that much earlier."""
    then = timezone.now() - duration
    WorkflowOutbox.objects.filter(settled_at__isnull=False).update(settled_at=then)
    WorkflowExecutionRecord.objects.filter(ended_at__isnull=False).update(ended_at=then)
    WorkflowEventRecord.objects.update(published_at=then)
    WorkflowExecutionRecord.objects.update(created_at=then)


def rows():
    return [table.objects.count() for table in TABLES]


def event_ids():
    return sorted(WorkflowEventRecord.objects.values_list("event_id", flat=True))


def states():
    return sorted(WorkflowExecutionRecord.objects.values_list("state", flat=True))


def fail_always(event):
    raise ValueError("no")


def test_o3_what_is_over_goes_with_all_that_hangs_on_it(outbox, celery_engine, workers):
    outbox.register("x", handler=flows.start_from_event)
    flows.troubles.append(ValueError("once"))
    outbox.register("y", handler=lambda event: flows.stumble())
    publish(outbox, "1", "2")
    publish(outbox, "3", name="y")
    celery_engine.start(WorkflowDefinition("two", handler=flows.two_steps))
    waiting = celery_engine.start(WorkflowDefinition("ask", handler=flows.ask))
    for _ in range(2):
        workers.deliver()
        workers.run()
        WorkflowOutbox.objects.update(available_at=None)
        WorkflowOutbox.objects.exclude(status="processed").update(available_at=timezone.now() - DAY)
        WorkflowDeliveryAttempt.objects.update(available_at=None)
    celery_engine.cancel(waiting.execution_id)
    assert WorkflowHistory.objects.count() == 2
    assert min(rows()) > 0
    let_pass(2 * MONTH)
    assert count_prunable(MONTH) == sum(prune(MONTH), Pruned()) == Pruned(3, 4)
    assert rows() == [0, 0, 0, 0, 0, 0]


def test_o3_undelivered_active_dead_failed_or_young_rows_stay(outbox, celery_engine, workers):
    outbox.register("dead", handler=fail_always)
    outbox.register("resting", handler=fail_always)
    outbox.register("x", handler=lambda event: None)
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}
    ):
        publish(outbox, "dead", name="dead")
        workers.deliver()
    publish(outbox, "resting", name="resting")
    publish(outbox, "old")
    workers.deliver()
    publish(outbox, "claimed")
    assert WorkflowOutbox.objects.claim(1, lease=DAY).size == 1
    publish(outbox, "pending")
    for handler in (flows.fail, flows.ask, flows.echo):
        celery_engine.start(WorkflowDefinition("w", handler=handler))
    workers.run()
    celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    let_pass(2 * MONTH)
    publish(outbox, "young")
    drain()
    WorkflowExecutionRecord.objects.create(
        execution_id="young", workflow_id="w", state="completed", ended_at=timezone.now()
    )
    assert sum(prune(MONTH), Pruned()) == Pruned(events=1, executions=1)
    assert event_ids() == ["claimed", "dead", "pending", "resting", "young"]
    assert states() == ["completed", "failed", "pending", "waiting"]
    assert sum(prune(MONTH, include_failed=True), Pruned()) == Pruned(events=1, executions=1)
    assert event_ids() == ["claimed", "pending", "resting", "young"]
    assert states() == ["completed", "pending", "waiting"]


def test_o3_each_batch_is_a_few_statements_whoever_listens_to_deletions(outbox, workers):
    outbox.register("x", handler=lambda event: None)
    publish(outbox, *map(str, range(25)))
    workers.deliver()
    let_pass(2 * MONTH)
    seen = []

    def listen(sender, **_):
        seen.append(sender)

    pre_delete.connect(listen)
    try:
        batches = prune(MONTH, batch_size=10)
        with data_statements() as statements:
            first = next(batches)
        assert first == Pruned(events=10)
        assert len(statements) <= 8
        assert list(batches) == [Pruned(events=10), Pruned(events=5)]
    finally:
        pre_delete.disconnect(listen)
    assert seen == []


def test_o3_an_event_that_is_being_requeued_is_skipped(outbox, workers):
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("this database locks no rows")
    outbox.register("x", handler=lambda event: None)
    publish(outbox, "1", "2")
    workers.deliver()
    let_pass(2 * MONTH)
    found = []

    def prune_beside():
        try:
            found.append(prune_once(MONTH))
        finally:
            connections.close_all()

    with transaction.atomic():
        entry = WorkflowOutbox.objects.select_for_update().get(event__event_id="1")
        thread = Thread(target=prune_beside)
        thread.start()
        thread.join(60)
        WorkflowOutbox.objects.filter(pk=entry.pk).requeue()
    assert found == [Pruned(events=1)]
    assert event_ids() == ["1"]
    assert prune_once(MONTH) == Pruned()


def test_o3_pruning_under_load_loses_no_undelivered_event(outbox, workers):
    """Another thread publishes and delivers meanwhile."""
    outbox.register("x", handler=lambda event: Tag.objects.create(name=event.event_id))
    publish(outbox, *(f"old {number}" for number in range(200)))
    workers.deliver()
    let_pass(2 * MONTH)
    is_pruned, trouble = Event(), []

    def work():
        number = 0
        try:
            while not is_pruned.is_set() or number < 30:
                publish(outbox, f"new {number}")
                number += 1
                drain("default")
        except Exception as error:
            trouble.append(error)
        finally:
            connections.close_all()

    thread = Thread(target=work)
    thread.start()
    try:
        pruned = sum(prune(MONTH, batch_size=7), Pruned())
    finally:
        is_pruned.set()
        thread.join(120)
    assert (trouble, pruned) == ([], Pruned(events=200))
    new = event_ids()
    assert len(new) >= 30
    assert all(one.startswith("new") for one in new)
    assert Tag.objects.filter(name__startswith="new").count() == len(new)
    assert WorkflowDeliveryAttempt.objects.filter(status="completed").count() == len(new)


def test_beats_tick_prunes_a_batch_if_retention_is_set(outbox, workers):
    outbox.register("x", handler=lambda event: None)
    publish(outbox, "1")
    workers.deliver()
    let_pass(2 * DAY)
    assert tick()
    assert event_ids() == ["1"]
    WorkflowHeartbeat.objects.all().delete()
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_RETENTION_DAYS": 1}
    ):
        assert tick()
    assert event_ids() == []


def test_workers_that_have_been_silent_for_as_long_are_forgotten():
    beats = WorkflowHeartbeat.objects
    for duty in ("worker:gone", "worker:here", "tick"):
        beats.beat(duty, "somebody")
    beats.exclude(duty="worker:here").update(at=timezone.now() - 2 * MONTH)
    prune_once(MONTH)
    assert sorted(beats.values_list("duty", flat=True)) == ["tick", "worker:here"]


def test_o3_signals_go_with_the_executions_of_their_chain(celery_engine, workers):
    definition = WorkflowDefinition("once", handler=flows.wait_once)
    old, other = (celery_engine.start(definition).execution_id for _ in range(2))
    for key in (old, other):
        celery_engine.signal(key, "unread", 1)
    celery_engine.signal(old, "approval", 2)
    workers.run()
    let_pass(MONTH)
    assert prune_once(DAY) == Pruned(executions=1)
    assert [one.chain for one in WorkflowSignal.objects.all()] == [other]


def test_o3_while_an_execution_of_its_chain_is_kept_a_signal_is_too(celery_engine, workers):
    """But for those that the deleted ones have taken."""
    definition = WorkflowDefinition("twice", handler=flows.ask_twice)
    first = celery_engine.start(definition).execution_id
    workers.run()
    for name in ("first", "later"):
        celery_engine.signal(first, name, 1)
    celery_engine.cancel(first)
    let_pass(MONTH)
    fresh = celery_engine.retry_from_checkpoint(first).execution_id
    workers.run()
    assert prune_once(DAY) == Pruned(executions=1)
    assert [one.name for one in WorkflowSignal.objects.all()] == ["later"]
    celery_engine.cancel(fresh)
    let_pass(MONTH)
    assert prune_once(DAY) == Pruned(executions=1)
    assert not WorkflowSignal.objects.exists()


def test_o3_pruning_asks_for_signals_once_a_batch_where_nobody_sends_any(celery_engine):
    for _ in range(20):
        celery_engine.start(WorkflowDefinition("none"))
    let_pass(MONTH)
    prune_once(DAY * 365)
    with data_statements() as statements:
        prune_once(DAY)
    about = [one for one in statements if "workflowsignal" in one]
    assert len(about) == 1
