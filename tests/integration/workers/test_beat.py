"""Our entry in Beat's schedule, and what a tick does."""

from datetime import timedelta

import pytest
from celery import Celery, current_app
from celery.signals import beat_embedded_init, beat_init, worker_ready, worker_shutdown
from django.test import override_settings
from django.utils import timezone

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowEvent,
)
from general_manager.workflow.core.actors import whereabouts
from general_manager.workflow.models import WorkflowHeartbeat
from general_manager.workflow.operations.health import check_health
from general_manager.workflow.operations.overview import read_overview
from general_manager.workflow.workers import beat
from general_manager.workflow.workers.tick import tick
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
ON = {"WORKFLOW_MODE": "production", "WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS": 7}


@pytest.fixture
def app():
    app = Celery("tests", broker="memory://", set_as_current=False)
    before = current_app._get_current_object()  # type: ignore[attr-defined]
    app.set_current()
    yield app
    before.set_current()


@pytest.mark.parametrize("finalize_first", [True, False])
def test_the_entry_is_in_the_schedule_whenever_the_app_was_ready(app, finalize_first):
    with override_settings(GENERAL_MANAGER=ON):
        if finalize_first:
            app.finalize()
        beat.install()
        app.finalize()
    entry = app.conf.beat_schedule[beat.ENTRY]
    assert entry["task"] == "general_manager.workflow.tasks.beat_tick"
    assert entry["schedule"] == 7
    assert entry["options"] == {"expires": 3600, "expire_seconds": 3600}


def test_an_entry_of_the_projects_own_is_left_alone(app):
    app.conf.beat_schedule = {beat.ENTRY: {"task": "mine"}}
    app.finalize()
    with override_settings(GENERAL_MANAGER=ON):
        beat.install()
    assert app.conf.beat_schedule[beat.ENTRY] == {"task": "mine"}


def test_without_beat_there_is_no_entry(app):
    app.finalize()
    with override_settings(GENERAL_MANAGER={**ON, "WORKFLOW_BEAT_ENABLED": False}):
        beat.install()
    assert beat.ENTRY not in app.conf.beat_schedule


def test_a_tick_drains_sweeps_and_is_remembered(outbox, celery_engine):
    outbox.register("x", handler=lambda event: flows.note("delivered"))
    flows.calls.clear()
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    celery_engine._executions.update(wake_at="2020-01-01T00:00:00Z")
    assert tick()
    assert flows.calls == ["delivered", "echo"]
    assert celery_engine.status(execution.execution_id).state == "completed"
    assert WorkflowHeartbeat.objects.get().duty == "tick"


def test_of_two_beats_that_tick_at_once_one_does_the_work(outbox):
    assert tick()
    assert not tick()
    heartbeat = WorkflowHeartbeat.objects.get()
    WorkflowHeartbeat.objects.update(at=heartbeat.at - timedelta(seconds=6))
    assert tick()


def test_without_jitter_a_tick_may_still_be_a_little_early(outbox, settings):
    settings.GENERAL_MANAGER = {
        "WORKFLOW_MODE": "production",
        "WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS": 100,
        "WORKFLOW_BEAT_MAX_JITTER_SECONDS": 0,
    }
    assert tick()
    for ago, counts in ((95, True), (85, False)):
        heartbeat = WorkflowHeartbeat.objects.get()
        WorkflowHeartbeat.objects.update(at=timezone.now() - timedelta(seconds=ago))
        assert tick() is counts
        assert (WorkflowHeartbeat.objects.get().at > heartbeat.at) is counts


@pytest.mark.parametrize("signal", [beat_init, beat_embedded_init])
def test_b10_beat_says_that_it_is_there_and_takes_it_back_when_it_ends(signal):
    with override_settings(GENERAL_MANAGER=ON):
        beat.install()
        signal.send(sender=None)
        try:
            assert read_overview().beats == [whereabouts()]
            assert read_overview().workers == []
        finally:
            beat._say_gone()
    assert read_overview().beats == []


def test_b10_a_beat_without_our_entry_says_nothing():
    with override_settings(GENERAL_MANAGER={**ON, "WORKFLOW_BEAT_ENABLED": False}):
        beat.install()
        beat_init.send(sender=None)
    assert read_overview().beats == []


def test_a_worker_says_that_it_is_there_and_takes_it_back_when_it_ends():
    class Worker:
        hostname = "one@host"

    worker = Worker()
    WorkflowHeartbeat.objects.bulk_create([WorkflowHeartbeat(duty="worker:killed@host", by="x")])
    long_ago = timezone.now() - timedelta(days=3)
    WorkflowHeartbeat.objects.filter(duty="worker:killed@host").update(at=long_ago)
    worker_ready.send(sender=worker)
    try:
        assert read_overview().workers == ["one@host"]
        assert not WorkflowHeartbeat.objects.filter(duty="worker:killed@host").exists()
    finally:
        worker_shutdown.send(sender=worker)
    assert read_overview().workers == []


def test_a_worker_says_from_which_queues_it_takes_messages_and_health_names_one_without(
    celery_engine,
):
    """`gpu` has work; nobody takes it until a worker of that queue is there."""

    def worker(name, queues):
        app = Celery("w", broker="memory://", set_as_current=False)
        app.amqp.queues.select(queues)
        return type("Worker", (), {"hostname": name, "app": app})()

    def troubles():
        return [one.message for one in check_health().troubles if one.code == "unserved-queue"]

    celery_engine.start(WorkflowDefinition("w", handler=flows.echo, queue="gpu"))
    celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    assert troubles() == [], "without any worker another trouble says so"
    plain, gpu = worker("plain@host", ["celery"]), worker("gpu@host", ["gpu", "celery"])
    worker_ready.send(sender=plain)
    try:
        assert read_overview().served == ["celery"]
        [said] = troubles()
        assert "'gpu'" in said
        worker_ready.send(sender=gpu)
        assert read_overview().served == ["celery", "gpu"]
        assert troubles() == []
    finally:
        worker_shutdown.send(sender=plain)


def test_a_worker_that_does_not_say_its_queues_makes_nobody_unserved(celery_engine):
    celery_engine.start(WorkflowDefinition("w", handler=flows.echo, queue="gpu"))
    WorkflowHeartbeat.objects.create(duty="worker:old@host", by="x")
    assert read_overview().served is None
    assert "unserved-queue" not in [one.code for one in check_health().troubles]
