"""Queues: an event goes from one to the next; an execution stays in its own."""

from datetime import timedelta

import pytest
from django.db.models import F

from general_manager.workflow import Retry, WorkflowDefinition, WorkflowEvent
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
)
from general_manager.workflow.models.queue import (
    queues_of_entries,
    queues_with_work,
)
from general_manager.workflow.operations.trace import find_trace
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.transport import broker, nudges
from general_manager.workflow.transport.throttle import Throttle
from general_manager.workflow.workers.tick import sweep
from general_manager.workflow.workers.work import empty
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture(autouse=True)
def sent(monkeypatch):
    """The queues that workers were told of."""
    said: list[str] = []
    monkeypatch.setattr(broker, "has_app", lambda *_: True)
    monkeypatch.setattr(broker, "_publish", lambda app, task, arguments, queue: said.append(queue))
    monkeypatch.setattr(nudges, "nudge_throttle", Throttle(0))
    flows.calls.clear()
    flows.troubles.clear()
    return said


def register(outbox, name, queue="", **options):
    def handle(event):
        flows.note(name)
        if options.pop("fails", False):
            raise ValueError(name)

    when = options.pop("when", None)
    outbox.register("x", handler=handle, queue=queue, registration_id=name, when=when)


def publish(outbox, event_id="1"):
    outbox.publish(WorkflowEvent(event_id, "a.b", {}, event_name="x"))


def entry():
    return WorkflowOutbox.objects.get()


def test_an_event_goes_to_the_queue_of_its_first_registration_and_then_to_the_next(outbox, sent):
    register(outbox, "first", "mail")
    register(outbox, "second")
    register(outbox, "third", "mail")
    publish(outbox)
    assert sent == ["mail"]
    empty("default")
    assert flows.calls == []
    empty("default", "mail")
    assert flows.calls == ["first", "third"]
    assert (entry().status, entry().queue) == ("pending", "")
    assert sent == ["mail", ""]
    empty("default")
    assert flows.calls == ["first", "third", "second"]
    assert entry().status == "processed"


def test_a_worker_calls_only_the_handlers_of_its_queue(outbox):
    register(outbox, "one", "a")
    register(outbox, "other", "b")
    publish(outbox)
    empty("default", "b")
    assert flows.calls == []
    empty("default", "a")
    assert flows.calls == ["one"]


def test_an_event_that_nobody_wants_does_not_go_round_for_ever(outbox):
    register(outbox, "one", "a", when=lambda event: False)
    register(outbox, "other", "b", when=lambda event: False)
    publish(outbox)
    for queue in "abab":
        empty("default", queue)
    assert entry().status == "processed"
    assert flows.calls == []


def test_e7_a_failure_is_retried_in_its_own_queue_and_holds_up_no_other(outbox):
    register(outbox, "bad", "a", fails=True)
    register(outbox, "good", "b")
    publish(outbox)
    empty("default", "a")
    assert entry().queue == "b", "which is due now"
    empty("default", "b")
    assert (entry().queue, entry().status) == ("a", "failed")
    assert entry().available_at > entry().undelivered_since + timedelta(seconds=1), "its delay"
    for table in (WorkflowOutbox, WorkflowDeliveryAttempt):
        table._default_manager.update(available_at=F("available_at") - timedelta(hours=1))
    empty("default", "b")
    empty("default", "a")
    assert flows.calls == ["bad", "good", "bad"]
    assert entry().status == "processed"


def test_a_process_without_workers_delivers_to_every_queue(outbox):
    register(outbox, "one", "a")
    register(outbox, "other")
    publish(outbox)
    assert drain("default") == 1
    assert flows.calls == ["one", "other"]
    assert entry().status == "processed"


def test_everything_about_an_execution_is_sent_to_its_queue(celery_engine, sent):
    def start(handler, **options):
        return celery_engine.start(WorkflowDefinition("w", handler=handler, queue="gpu", **options))

    asked = start(flows.ask)
    empty("default", "gpu")
    assert celery_engine.status(asked.execution_id).state == "waiting"
    celery_engine.resume(asked.execution_id, 1)
    assert sent == ["gpu", "gpu"]
    empty("default", "gpu")
    assert celery_engine.status(asked.execution_id).state == "completed"
    flows.troubles.append(ValueError("once"))
    failed = start(flows.two_steps, retry=Retry(max_attempts=2, base=60))
    empty("default", "gpu")
    sent.clear()
    celery_engine.wake(failed.execution_id)
    assert sent == ["gpu"]
    WorkflowExecutionRecord.objects.update(wake_at=F("wake_at") - timedelta(hours=1))
    sent.clear()
    sweep()
    assert sent == ["gpu"]
    empty("default")
    assert celery_engine.status(failed.execution_id).state == "pending"
    flows.troubles.append(ValueError("again"))
    empty("default", "gpu")
    fresh = celery_engine.retry_from_checkpoint(failed.execution_id)
    assert sent == ["gpu", "gpu"]
    row = WorkflowExecutionRecord.objects.get(execution_id=fresh.execution_id)
    assert row.queue == "gpu"


def test_the_queues_with_work_are_named_and_no_others(outbox, celery_engine):
    register(outbox, "one", "mail")
    publish(outbox)
    for queue in ("", "gpu", "later"):
        celery_engine.start(WorkflowDefinition("w", handler=flows.echo, queue=queue))
    WorkflowExecutionRecord.objects.filter(queue="later").update(
        wake_at=F("wake_at") + timedelta(hours=1)
    )
    assert queues_with_work("default") == ["", "gpu", "mail"]
    assert queues_of_entries("default") == ["mail"]
    WorkflowOutbox.objects.update(available_at=F("available_at") + timedelta(hours=1))
    assert queues_of_entries("default") == []
    assert queues_of_entries("default", only_due=False) == ["mail"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"queue": 5}, TypeError, "queue must be text"),
        ({"queue": "x" * 101}, ValueError, "at most 100"),
        ({"queue": "a\nb"}, ValueError, "control character"),
        ({"priority": True}, TypeError, "whole number"),
        ({"priority": "high"}, TypeError, "whole number"),
        ({"priority": -1}, ValueError, "from 0 to 100"),
        ({"priority": 101}, ValueError, "from 0 to 100"),
    ],
)
def test_a_wrong_queue_or_priority_is_named(options, error, said):
    with pytest.raises(error, match=said):
        WorkflowDefinition("w", **options)


def test_a_wrong_queue_of_a_registration_is_named_and_nothing_is_registered(outbox):
    with pytest.raises(TypeError, match="queue must be text"):
        outbox.register("x", handler=flows.note, queue=None)
    assert not outbox.registrations()


def test_o1_pages_and_the_trace_name_the_queue(outbox, celery_engine, admin_client):
    register(outbox, "one", "mail")
    publish(outbox)
    started = celery_engine.start(
        WorkflowDefinition("w", handler=flows.echo, queue="gpu", priority=3)
    )
    row = WorkflowExecutionRecord.objects.get()
    page = admin_client.get(f"/admin/general_manager/workflowexecutionrecord/{row.pk}/change/")
    assert "gpu, priority 3" in page.content.decode()
    page = admin_client.get(f"/admin/general_manager/workflowoutbox/{entry().pk}/change/")
    assert "mail" in page.content.decode()
    found = find_trace(started.execution_id)
    assert found is not None
    facts = found.facts
    assert (facts["queue"], facts["priority"]) == ("gpu", "3")
