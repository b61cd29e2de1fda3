"""How many messages and statements a delivery costs: the hot paths, counted."""

from typing import Any

import pytest
from django.db import connection

from general_manager.workflow import WorkflowEvent, dispatch, messages
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from general_manager.workflow.outbox import drain
from tests.integration.conftest import data_statements
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture
def sent(monkeypatch):
    """Messages instead of a broker."""
    said: list[tuple[str, list[Any]]] = []
    monkeypatch.setattr(dispatch, "has_app", lambda *_: True)
    monkeypatch.setattr(dispatch, "_publish", lambda app, task, args: said.append((task, args)))
    dispatch.broker.answered()
    return said


def publish(outbox, count):
    outbox.publish_many(
        WorkflowEvent(f"{count}-{number}", "a.b", {}, event_name="x") for number in range(count)
    )


def test_executions_that_a_chunk_starts_share_messages(outbox, celery_engine, sent, monkeypatch):
    monkeypatch.setattr(messages, "PATIENCE_SECONDS", 3600)
    outbox.register("x", handler=flows.start_from_event)
    publish(outbox, 25)
    sent.clear()
    drain("default", hand_on=False)
    runs = [arguments[0] for task, arguments in sent if task == dispatch.RUN]
    assert [len(ids) for ids in runs] == [10, 10, 5]
    started = WorkflowExecutionRecord.objects.values_list("execution_id", flat=True)
    assert sorted(one for ids in runs for one in ids) == sorted(started)


def test_x1_messages_that_are_gathered_are_sent_when_a_handler_ends_the_process(
    outbox, celery_engine, sent
):
    def start_and_die(event):
        flows.start_from_event(event)
        if event.event_id.endswith("-1"):
            raise SystemExit

    outbox.register("x", handler=start_and_die, registration_id="r")
    publish(outbox, 2)
    sent.clear()
    with pytest.raises(SystemExit):
        drain("default", hand_on=False)
    runs = [arguments[0] for task, arguments in sent if task == dispatch.RUN]
    assert runs == [[WorkflowExecutionRecord.objects.get().execution_id]]


def test_an_idle_drain_is_one_statement(outbox):
    with data_statements() as statements:
        assert drain("default") == 0
    assert len(statements) == 1


def test_one_event_from_claim_to_settled_takes_few_statements(outbox, celery_engine, sent):
    outbox.register("x", handler=flows.start_from_event)
    publish(outbox, 1)
    with data_statements() as statements:
        assert drain("default") == 1
    # Claim, the chunk's events, the start, the delivery's row, the outcome; elsewhere a claim is
    # a SELECT and an UPDATE.
    assert len(statements) == (5 if connection.vendor == "postgresql" else 6)
    assert WorkflowOutbox.objects.get().status == "processed"


def test_a_drain_that_found_less_than_it_asked_for_does_not_ask_again(outbox, sent):
    outbox.register("x", handler=lambda event: None, registration_id="r")
    publish(outbox, 1)
    with data_statements() as statements:
        drain("default")
    claims = [one for one in statements if "available_at" in one and "claim" in one.lower()]
    assert sum("SKIP LOCKED" in one or "LIMIT" in one for one in claims) <= 1


def test_the_connection_to_the_broker_is_made_once():
    from celery import Celery

    app: Any = Celery("x", broker="memory://", set_as_current=False)
    first = dispatch._impatient_connection(app)
    assert dispatch._impatient_connection(app) is first
    app.conf.broker_url = "memory://elsewhere"
    assert dispatch._impatient_connection(app) is not first
