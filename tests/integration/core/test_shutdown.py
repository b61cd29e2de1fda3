"""A worker that is asked to end: what it has begun it finishes, the rest is released at once."""

import os
from datetime import timedelta

import pytest
from celery.signals import worker_init, worker_shutting_down
from django.test import override_settings

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowEvent,
)
from general_manager.workflow.core import shutdown
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from general_manager.workflow.outbox.drain import deliver, drain
from general_manager.workflow.transport import broker
from general_manager.workflow.transport.base import WORK
from general_manager.workflow.workers import beat
from tests.integration.core.test_lost_connections import as_a_worker
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture(autouse=True)
def _nobody_ends():
    flows.calls.clear()
    yield
    shutdown.retract()


@pytest.fixture
def sent(monkeypatch):
    messages = []

    def send(task, arguments, app=None, *, queue=""):
        messages.append((task, arguments))
        return True

    monkeypatch.setattr("general_manager.workflow.transport.broker.send", send)
    return messages


def publish(outbox, count):
    outbox.publish_many(
        WorkflowEvent(str(number), "a.b", {}, event_name="x") for number in range(count)
    )


def note_and_be_asked_to_end(event):
    flows.note(event.event_id)
    shutdown.announce()


def test_the_handler_under_way_finishes_and_the_rest_of_its_chunk_is_released(outbox, drains):
    outbox.register("x", handler=note_and_be_asked_to_end)
    publish(outbox, 4)
    claim = WorkflowOutbox.objects.claim(9, lease=timedelta(minutes=5), begin=9)
    deliver("default", claim.token, claim.together, is_started=True)
    assert flows.calls == ["0"]
    states = sorted(WorkflowOutbox.objects.values_list("status", flat=True))
    assert states == ["pending"] * 3 + ["processed"]
    assert drain("default") == 0
    shutdown.retract()
    assert drain("default") == 3


def test_the_other_chunks_of_a_claim_are_released_too(outbox):
    outbox.register("x", handler=note_and_be_asked_to_end)
    publish(outbox, 6)
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_OUTBOX_PROCESS_CHUNK_SIZE": 2}
    with override_settings(GENERAL_MANAGER=settings):
        as_a_worker(WORK, "default")
    states = sorted(WorkflowOutbox.objects.values_list("status", flat=True))
    assert states == ["pending"] * 5 + ["processed"]


def test_the_other_executions_that_a_worker_took_are_given_back_and_announced(
    celery_engine, sent, monkeypatch
):
    ids = [
        celery_engine.start(WorkflowDefinition("w", handler=flows.echo)).execution_id
        for _ in range(3)
    ]
    sent.clear()
    real = flows.echo

    def echo_and_be_asked_to_end(input_data):
        shutdown.announce()
        return real(input_data)

    monkeypatch.setattr(flows, "echo", echo_and_be_asked_to_end)
    as_a_worker(WORK, "default")
    states = [celery_engine.status(one).state for one in ids]
    assert states == ["completed", "pending", "pending"]
    assert sent == [(WORK, ["default", ""])]
    assert WorkflowExecutionRecord.objects.runnable().filter(claim_token=None).count() == 2


def test_celery_tells_the_workers_process_and_those_that_it_forked(monkeypatch):
    class Sender:
        app = broker.this_app()
        hostname = "here"

    monkeypatch.setattr(broker, "_served", None)
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}):
        beat.install()
    worker_init.send(Sender())
    assert not shutdown.is_announced()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(int(shutdown.is_announced()))
    worker_shutting_down.send("here", sig="TERM", how="Warm", exitcode=0)
    os.write(writer, b"x")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert shutdown.is_announced()
