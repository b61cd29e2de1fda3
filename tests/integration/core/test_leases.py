"""Several workers at once: who has what, for how long, and what a late one may still do."""

from datetime import timedelta
from threading import Barrier, Event, Thread, current_thread

import pytest
from django.db import DatabaseError, connection, connections
from django.test import override_settings
from django.utils import timezone

from general_manager.workflow import (
    RetryAfter,
    WorkflowDefinition,
    WorkflowEvent,
    step,
)
from general_manager.workflow.core import leases
from general_manager.workflow.core.leases import _Keeper
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowHeartbeat,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now
from general_manager.workflow.outbox.drain import deliver, drain
from tests.servers import wait_until
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
        drain("default")

    with override_settings(GENERAL_MANAGER={**SHORT, "WORKFLOW_OUTBOX_CLAIM_TTL_SECONDS": 60}):
        for thread in [in_thread(work) for _ in range(8)]:
            thread.join(PATIENCE)
    drain("default")
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
        assert drain("default") == 0  # another worker finds nothing to take

    # Not atomic, so that the renewals of another connection can be seen from here.
    outbox.register("x", handler=slow, atomic=False)
    publish(outbox, 1)
    with override_settings(GENERAL_MANAGER=SHORT):
        drain("default")
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
    late = in_thread(lambda: drain("default"))
    assert frozen.wait(PATIENCE)
    # Its process stands still, so nothing renews its lease: move the time instead of waiting.
    past = WorkflowOutbox.objects.get().claimed_at
    WorkflowOutbox.objects.update(available_at=past)
    drain("default")
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
    assert executions.wake_due(10).died == [execution.execution_id]
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


# The thread that renews


def test_a_thread_that_could_not_be_started_is_started_later(monkeypatch, caplog):
    real, refused, renewed = Thread.start, [], Event()

    def refuse_once(self):
        if self.name.startswith("general_manager") and len(refused) < 1:
            refused.append(self.name)
            raise RuntimeError("can't start new thread")
        return real(self)

    monkeypatch.setattr(Thread, "start", refuse_once)
    keeper = _Keeper()
    first = keeper.add(lambda: None, 0.01)
    assert "could not be started" in caplog.text
    second = keeper.add(renewed.set, 0.01)
    assert renewed.wait(PATIENCE)
    assert keeper.can_renew()
    keeper.remove(first)
    keeper.remove(second)


def test_a_renewal_that_hangs_holds_up_no_other(caplog):
    """On a table that a migration has locked, or a network that answers nothing."""
    hangs, go_on, renewed = Event(), Event(), []
    two = Event()

    def hang_once():
        if not hangs.is_set():
            hangs.set()
            assert go_on.wait(PATIENCE)
        else:
            two.set()

    keeper = _Keeper()
    stuck = keeper.add(hang_once, 0.01)
    assert hangs.wait(PATIENCE)
    other = keeper.add(lambda: renewed.append(1), 0.01)
    wait_until(lambda: len(renewed) > 3, "the other lease's renewals")
    assert two.wait(PATIENCE)  # and the one that hung is tried again
    assert "has taken over" in caplog.text
    go_on.set()
    keeper.remove(stuck)
    keeper.remove(other)


def test_hanging_renewals_do_not_pile_up_threads(monkeypatch):
    monkeypatch.setattr(leases, "MOST_HANGING", 2)
    go_on, calls = Event(), []

    def hang():
        calls.append(1)
        assert go_on.wait(PATIENCE)

    keeper = _Keeper()
    turns = [keeper.add(hang, 0.01) for _ in range(6)]
    wait_until(lambda: not keeper.can_renew(), "the process to notice")
    assert len(calls) <= 2
    go_on.set()
    wait_until(keeper.can_renew, "the process to recover")
    for turn in turns:
        keeper.remove(turn)


def test_a_connection_that_cannot_be_closed_ends_no_thread(monkeypatch):
    closed, renewed = [], []
    real = type(connections["default"]).close

    def refuse(self):
        if current_thread().name.startswith("general_manager"):
            closed.append(1)
            if self.connection is not None:
                self.connection.close()  # else the driver warns of what is left to it
            raise DatabaseError("cannot be closed")
        real(self)

    monkeypatch.setattr(type(connections["default"]), "close", refuse)
    keeper = _Keeper()

    def renew():
        connections["default"].ensure_connection()
        renewed.append(1)

    number = keeper.add(renew, 0.01)
    wait_until(lambda: len(renewed) > 2, "renewals")
    assert closed
    keeper.remove(number)
    monkeypatch.undo()


def test_a_renewal_that_raises_anything_ends_no_thread():
    renewed = []

    def end():
        renewed.append(1)
        raise SystemExit

    keeper = _Keeper()
    number = keeper.add(end, 0.01)
    wait_until(lambda: len(renewed) > 2, "renewals")
    keeper.remove(number)


def test_a_renewal_that_fails_when_its_lease_is_over_is_no_trouble(caplog):
    began, may_fail = Event(), Event()

    def fail_late():
        began.set()
        may_fail.wait(60)
        raise DatabaseError("too late")

    keeper = _Keeper()
    number = keeper.add(fail_late, 0.01)
    assert began.wait(60)
    keeper.remove(number)
    may_fail.set()
    wait_until(lambda: not keeper._calls, "the renewal to end")
    assert caplog.records == []


def test_a_process_that_cannot_renew_takes_no_work_says_so_and_recovers(
    outbox, celery_engine, monkeypatch, caplog
):
    keeper = _Keeper()
    monkeypatch.setattr(leases, "_keeper", keeper)
    outbox.register("x", handler=lambda event: flows.note("delivered"))
    flows.calls.clear()
    publish(outbox, 2)
    claim = WorkflowOutbox.objects.claim(1, lease=timedelta(minutes=5))
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    is_back = Event()

    def renew():
        if not is_back.is_set():
            raise DatabaseError("too many connections")

    with leases.renewing(renew, timedelta(seconds=0.3)):
        wait_until(lambda: not keeper.can_renew(), "the lease to be over")
    assert drain("default") == 0
    assert deliver("default", claim.token, claim.together) == 0
    assert not run(execution.execution_id, "default")
    assert flows.calls == []
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"pending"}
    assert "cannot renew its leases and takes no new work" in caplog.text
    is_back.set()
    wait_until(keeper.can_renew, "the process to recover")
    assert drain("default") == 2
    assert run(execution.execution_id, "default")
    assert flows.calls == ["delivered", "delivered", "echo"]
    assert "Leases can be renewed again" in caplog.text


# Clocks


def test_a_worker_whose_clock_is_hours_off_writes_the_right_next_attempt(outbox, monkeypatch):
    calls = []

    def fail(event):
        calls.append(1)
        raise RetryAfter(600) if len(calls) == 1 else ValueError("no")

    outbox.register("x", handler=fail, registration_id="fails")
    outbox.register("x", handler=lambda event: None, registration_id="well")
    publish(outbox, 1)
    drain("default")
    before = WorkflowOutbox.objects.get().available_at
    # As when another part of the entry comes due before that handler's next attempt.
    WorkflowOutbox.objects.update(available_at=DatabaseNow())
    off = timezone.now() + timedelta(hours=5)
    monkeypatch.setattr("django.utils.timezone.now", lambda: off)
    drain("default")
    assert calls == [1]
    after = WorkflowOutbox.objects.get().available_at
    assert before is not None
    assert after is not None
    assert abs(after - before) < timedelta(seconds=30)


def test_all_times_of_a_delivery_and_a_step_are_the_databases(outbox, celery_engine, monkeypatch):
    off = timezone.now() + timedelta(hours=5)
    monkeypatch.setattr("django.utils.timezone.now", lambda: off)
    outbox.register("x", handler=lambda event: None)
    publish(outbox, 1)
    drain("default")
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.two_steps))
    over = celery_engine.start(WorkflowDefinition("nothing to do"))
    run(execution.execution_id, "default")
    times = [
        *WorkflowDeliveryAttempt.objects.values_list("started_at", "finished_at").get(),
        *WorkflowOutbox.objects.values_list("claimed_at", "settled_at").get(),
        *WorkflowExecutionRecord.objects.filter(execution_id=over.execution_id)
        .values_list("started_at", "ended_at")
        .get(),
    ]
    for row in WorkflowStep.objects.all():
        assert row.finished_at is not None
        assert row.started_at <= row.finished_at
        times += [row.started_at, row.finished_at]
    assert [one for one in times if one is None or one > off - timedelta(hours=4)] == []


def test_a_steps_time_is_how_long_it_took(celery_engine, monkeypatch):
    execution = celery_engine.start(WorkflowDefinition("w", handler=take_a_moment))
    run(execution.execution_id, "default")
    for row in WorkflowStep.objects.all():
        assert row.finished_at is not None
        assert timedelta(seconds=0.1) < row.finished_at - row.started_at < timedelta(seconds=30)


def take_a_moment(input_data):
    step("in a transaction", Event().wait, 0.15)
    step("outside", Event().wait, 0.15, atomic=False)


def test_a_heartbeat_from_the_future_does_not_stop_the_ticks():
    beats = WorkflowHeartbeat.objects
    assert beats.beat("tick", "here", unless_within=timedelta(seconds=5))
    assert not beats.beat("tick", "here", unless_within=timedelta(seconds=5))
    beats.update(at=from_now(timedelta(hours=5)))  # before the clock was set back
    assert beats.beat("tick", "here", unless_within=timedelta(seconds=5))
    assert not beats.filter(at__gt=from_now(timedelta(seconds=1))).exists()
