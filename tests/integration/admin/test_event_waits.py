"""Waits for events on the operator's pages: what they wait for, and what answered, both ways."""

import pytest
from django.core.management import call_command

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.models import (
    WorkflowEventRecord,
    WorkflowEventWait,
    WorkflowExecutionRecord,
)
from general_manager.workflow.operations.trace import find_trace
from tests.integration.admin.test_operating import act, boss, detail, text_of
from tests.testapp import answering, plays

__all__ = ["boss"]

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

ONE = WorkflowDefinition("one", handler=answering.wait_once)
TWO = WorkflowDefinition("two", handler=answering.wait_twice)


@pytest.fixture
def waiting(outbox, celery_engine, workers):
    plays.reset()

    def start(definition=ONE, **data):
        key = celery_engine.start(definition, data).execution_id
        workers.run()
        return WorkflowExecutionRecord.objects.get(execution_id=key)

    return start


def publish(outbox, **payload):
    outbox.publish(WorkflowEvent("the payment", "shop.p", payload, event_name=answering.PAID))
    return WorkflowEventRecord.objects.get(event_id="the payment")


def test_o1_the_page_shows_what_is_waited_for_without_secrets(boss, waiting):
    record = waiting(match={"order_id": 7, "card_token": "4711"})
    text = text_of(boss.get(detail(record)))
    assert "payment_received" in text
    assert "order_id" in text
    assert "4711" not in text.partition("Signals and events")[2].partition("Data")[0]
    trace = find_trace(record.execution_id)
    assert trace is not None
    assert "payment_received" in trace.facts["answered_by"]


def test_o1_an_execution_and_the_event_that_answered_it_link_to_each_other(
    boss, outbox, workers, waiting
):
    record = waiting()
    event = publish(outbox, amount=30)
    workers.deliver()
    page = text_of(boss.get(detail(record)))
    assert f"/event/by-id/{event.event_id.replace(' ', '%20')}" in page or "the payment" in page
    assert "Answered by an event:" in page
    there = text_of(boss.get(f"/admin/general_manager/workfloweventrecord/{event.pk}/change/"))
    assert str(record) in there
    trace = find_trace(record.execution_id)
    assert trace is not None
    [answer] = [one for one in trace.moments if one.what == "answered_by_event"]
    assert answer.event_id == "the payment"


def test_o1_a_withdrawn_event_is_shown_as_such(boss, celery_engine, outbox, workers, waiting):
    record = waiting(TWO)
    publish(outbox, amount=30)
    workers.deliver()
    celery_engine.cancel(record.execution_id)
    page = text_of(boss.get(act(record, "retry", "?before=payment 1")))
    assert "the event <bdi>payment_received</bdi>" in page
    fresh = celery_engine.retry_from_checkpoint(record.execution_id, before="payment 1")
    new = WorkflowExecutionRecord.objects.get(execution_id=fresh.execution_id)
    assert "Event withdrawn:" in text_of(boss.get(detail(new)))


def test_the_status_counts_waits_that_look_back_too_far(waiting, capsys):
    waiting()
    WorkflowEventWait.objects.update(is_cut=True)
    with pytest.raises(SystemExit):
        call_command("workflow_status")
    assert "1 look back further than events are kept" in capsys.readouterr().out
