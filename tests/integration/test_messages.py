"""How many messages and statements a delivery costs: the hot paths, counted."""

from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from django.db import connection

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowEvent,
    dispatch,
    messages,
)
from general_manager.workflow.executor import run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from general_manager.workflow.outbox import drain
from general_manager.workflow.run_store import DatabaseRunStore
from general_manager.workflow.spacing import Spaced
from general_manager.workflow.sweep import sweep
from tests.integration.conftest import data_statements
from tests.servers import wait_until
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


def publish(outbox, number):
    outbox.publish_many(
        WorkflowEvent(f"{number}-{one}", "a.b", {}, event_name="x") for one in range(number)
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


def runs(sent):
    return [arguments[0] for task, arguments in sent if task == dispatch.RUN]


def test_a_message_does_not_wait_for_the_next_handler(outbox, celery_engine, sent):
    """The first handler starts an execution; the second takes until its message is sent."""

    def start_or_wait(event):
        if event.event_id.endswith("-0"):
            flows.start_from_event(event)
        else:
            wait_until(lambda: runs(sent), "the message")

    outbox.register("x", handler=start_or_wait, registration_id="r")
    publish(outbox, 2)
    drain("default", hand_on=False)
    assert len(runs(sent)) == 1


def test_what_a_slow_chunk_gives_back_is_announced(outbox, sent, monkeypatch):
    outbox.register("x", handler=lambda event: None, registration_id="r")
    publish(outbox, 3)
    sent.clear()
    monkeypatch.setattr(
        "general_manager.workflow.outbox.monotonic", iter(range(0, 10**6, 1000)).__next__
    )
    monkeypatch.setattr(messages, "drains", Spaced(0))
    drain("default")
    assert WorkflowOutbox.objects.filter(status="pending").count() == 2
    assert [task for task, _ in sent] == [dispatch.DRAIN]


def test_x6_an_answer_that_comes_while_the_run_suspends_sends_a_message(
    celery_engine, sent, monkeypatch
):
    started = celery_engine.start(WorkflowDefinition("w", handler=flows.ask))
    sent.clear()
    opened = DatabaseRunStore.settle_wait

    def answer_after_it_looked(self, name):
        wait = opened(self, name)
        celery_engine.resume(started.execution_id, "late", wait=name)
        return wait

    monkeypatch.setattr(DatabaseRunStore, "settle_wait", answer_after_it_looked)
    run(started.execution_id, "default")
    assert WorkflowExecutionRecord.objects.get().state == "pending"
    assert runs(sent) == [[started.execution_id]]


def test_executions_that_a_slow_one_keeps_waiting_are_handed_on(sent, monkeypatch):
    monkeypatch.setattr(messages, "SLOW_SECONDS", 0.01)
    done = []
    with messages.handing_on(["a", "b", "c"], "default") as own:
        for execution_id in own:
            done.append(execution_id)
            wait_until(lambda: len(runs(sent)) == 2, "the others' messages")
    assert done == ["a"]
    assert sorted(runs(sent)) == [["b"], ["c"]]


def test_executions_that_no_broker_takes_are_run_here_after_the_slow_one(monkeypatch):
    monkeypatch.setattr(messages, "SLOW_SECONDS", 0.01)
    tried = Event()

    def refuse(*_):
        tried.set()
        return False

    monkeypatch.setattr(messages, "send", refuse)
    done = []
    with messages.handing_on(["a", "b"], "default") as own:
        for execution_id in own:
            done.append(execution_id)
            assert tried.wait(60)
    assert done == ["a", "b"]


def test_executions_that_come_along_quickly_stay_together(sent):
    with messages.handing_on(["a", "b", "c"], "default") as own:
        assert list(own) == ["a", "b", "c"]
    assert sent == []


def test_a_sweep_shares_messages_but_for_what_lost_its_worker(celery_engine, sent, workers):
    started = [
        celery_engine.start(WorkflowDefinition("w", handler=flows.echo)).execution_id
        for _ in range(14)
    ]
    for execution_id in started[:2]:
        WorkflowExecutionRecord.objects.claim(execution_id, lease=timedelta(minutes=1))
    sent.clear()
    workers.let_rest_pass()
    assert sweep() == 14
    assert sorted(map(len, runs(sent))) == [1, 1, 2, 10]
    alone = [ids[0] for ids in runs(sent) if len(ids) == 1]
    assert sorted(alone) == sorted(started[:2])
    sent.clear()
    workers.let_rest_pass()
    sweep()
    assert sorted(map(len, runs(sent))) == [1, 1, 2, 10], "what died once stays suspect"
