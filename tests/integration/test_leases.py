"""Several workers at once: who has what, for how long, and what a late one may still do."""

from datetime import timedelta
from threading import Barrier, Event, Thread

import pytest
from django.db import connection, connections
from django.test import override_settings

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.executor import run
from general_manager.workflow.leases import _Keeper
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
)
from general_manager.workflow.outbox import deliver, drain
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

SHORT = {
    "WORKFLOW_MODE": "production",
    # Short enough to see renewals, long enough for a machine that is busy with other things.
    "WORKFLOW_OUTBOX_CLAIM_TTL_SECONDS": 3,
    "WORKFLOW_EXECUTION_LEASE_SECONDS": 3,
    "WORKFLOW_OUTBOX_BATCH_SIZE": 7,
    "WORKFLOW_OUTBOX_PROCESS_CHUNK_SIZE": 3,
}
PATIENCE = 60


def in_thread(function, *arguments):
    def call():
        try:
            function(*arguments)
        finally:
            connection.close()

    thread = Thread(target=call)
    thread.start()
    return thread


def publish(registry, count):
    registry.publish_many(
        WorkflowEvent(str(number), "a.b", {}, event_name="x") for number in range(count)
    )


def test_e13_eight_drains_over_one_backlog_deliver_each_event_once(outbox):
    outbox.register("x", handler=lambda event: Tag.objects.create(name=event.event_id))
    publish(outbox, 120)
    together = Barrier(8)

    def work():
        together.wait(PATIENCE)
        drain("default", hand_on=False)

    with override_settings(GENERAL_MANAGER={**SHORT, "WORKFLOW_OUTBOX_CLAIM_TTL_SECONDS": 60}):
        for thread in [in_thread(work) for _ in range(8)]:
            thread.join(PATIENCE)
    drain("default", hand_on=False)
    names = sorted(Tag.objects.values_list("name", flat=True), key=int)
    assert names == [str(number) for number in range(120)]
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}


def wait_for_a_renewal(ask):
    """Until the lease was pushed on: at least one has passed that was not its first."""
    first, pause = ask(), Event()
    for _ in range(PATIENCE * 20):
        if ask() > first:
            return
        pause.wait(0.05)
    raise AssertionError("the lease was not renewed")


def test_e6_a_slow_handler_keeps_its_lease_and_runs_once(outbox):
    calls = []

    def slow(event):
        calls.append(event.event_id)
        wait_for_a_renewal(lambda: WorkflowOutbox.objects.get().available_at)
        wait_for_a_renewal(lambda: WorkflowOutbox.objects.get().available_at)
        assert drain("default", hand_on=False) == 0  # another worker finds nothing to take

    # Not atomic, so that the renewals of another connection can be seen from here.
    outbox.register("x", handler=slow, atomic=False)
    publish(outbox, 1)
    with override_settings(GENERAL_MANAGER=SHORT):
        drain("default", hand_on=False)
    assert calls == ["0"]
    assert WorkflowDeliveryAttempt.objects.get().status == "completed"


def test_e5_a_frozen_worker_that_thaws_writes_nothing(outbox):
    frozen, thaw, calls = Event(), Event(), []

    def freeze_the_first_time(event):
        calls.append(1)
        if len(calls) == 1:
            frozen.set()
            assert thaw.wait(PATIENCE)
        Tag.objects.create(name=f"call {len(calls)}")

    outbox.register("x", handler=freeze_the_first_time, atomic=False)
    publish(outbox, 1)
    late = in_thread(lambda: drain("default", hand_on=False))
    assert frozen.wait(PATIENCE)
    # Its process stands still, so nothing renews its lease: move the time instead of waiting.
    past = WorkflowOutbox.objects.get().claimed_at
    WorkflowOutbox.objects.update(available_at=past)
    drain("default", hand_on=False)
    thaw.set()
    late.join(PATIENCE)
    delivery = WorkflowDeliveryAttempt.objects.get()
    assert (delivery.status, delivery.crashes) == ("completed", 1)
    assert WorkflowOutbox.objects.get().status == "processed"


def test_e6_leases_are_renewed_beside_the_pool_that_work_may_exhaust(monkeypatch):
    options = connection.settings_dict["OPTIONS"]
    with_pool = {**options, "pool": True}
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", with_pool)
    seen, asked = [], Event()

    def look():
        seen.append(connections["default"].settings_dict["OPTIONS"])
        asked.set()

    keeper = _Keeper()
    number = keeper.add(look, 0.01)
    assert asked.wait(PATIENCE)
    keeper.remove(number)
    assert seen[0] == options


def test_a_lease_is_renewed_again_after_a_renewal_that_failed(caplog):
    calls, twice = [], Event()

    def fail_once():
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("gone")
        twice.set()

    keeper = _Keeper()
    number = keeper.add(fail_once, 0.01)
    assert twice.wait(PATIENCE)
    keeper.remove(number)
    assert "could not be renewed" in caplog.text


def test_a_long_execution_keeps_its_lease_and_runs_once(celery_engine, monkeypatch):
    calls = []

    def slow(input_data):
        calls.append(1)
        wait_for_a_renewal(lambda: WorkflowExecutionRecord.objects.get().wake_at)
        wait_for_a_renewal(lambda: WorkflowExecutionRecord.objects.get().wake_at)
        assert not run(execution.execution_id, "default")
        return {"calls": len(calls)}

    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    monkeypatch.setattr(flows, "echo", slow)
    with override_settings(GENERAL_MANAGER=SHORT):
        assert run(execution.execution_id, "default")
    assert celery_engine.status(execution.execution_id).output_data == {"calls": 1}


def test_a_run_that_lost_its_lease_to_another_writes_nothing(celery_engine):
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    executions = WorkflowExecutionRecord.objects
    first = executions.claim(execution.execution_id, lease=timedelta(seconds=-1))
    assert executions.wake_due(10).suspect == [execution.execution_id]
    second = executions.claim(execution.execution_id, lease=timedelta(hours=1))
    assert first is not None
    assert second is not None
    assert second.crashes == 1
    late = executions.held(first)
    assert not late.end("completed", output_data={"by": "the late one"})  # type: ignore[arg-type]
    assert executions.held(second).exists()


def test_e2_what_a_chunk_could_not_start_in_time_is_given_back(outbox):
    entries = WorkflowOutbox.objects
    publish(outbox, 3)
    seen = []

    def slow(event):
        seen.append(event.event_id)
        if len(seen) == 1:
            for _ in range(2):
                wait_for_a_renewal(lambda: entries.get(event__event_id="0").available_at)

    outbox.register("x", handler=slow, atomic=False)
    with override_settings(GENERAL_MANAGER=SHORT):
        claim = entries.claim(3, lease=timedelta(seconds=3))
        deliver("default", claim.token, claim.together)
        assert seen == ["0"]
        assert sorted(entries.values_list("status", flat=True)) == [
            "pending",
            "pending",
            "processed",
        ]
        assert entries.claim(3, lease=timedelta(seconds=3)).size == 2
