"""What is sent to Celery, when, and what happens when nobody takes it."""

import json
import socket
from queue import Empty
from threading import Event, Thread, current_thread

import pytest
from celery import Celery, current_app
from celery.signals import worker_process_shutdown
from django.db import transaction

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowEvent,
)
from general_manager.workflow.models import WorkflowOutbox
from general_manager.workflow.transport import broker
from general_manager.workflow.workers import beat, work
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
PREFIX = "general_manager.workflow.tasks."


def use_broker(url):
    app = Celery("tests", broker=url, set_as_current=False)
    before = current_app._get_current_object()  # type: ignore[attr-defined]
    app.set_current()
    return app, before


@pytest.fixture
def sent():
    """Names and arguments of the messages sent so far, in a broker that lives in memory."""
    app, before = use_broker("memory://")

    def receive(name="celery"):
        said = []
        with app.connection_for_read() as connection:
            queue = connection.SimpleQueue(name)
            while True:
                try:
                    message = queue.get_nowait()
                except Empty:
                    break
                arguments = json.loads(message.body)[0]
                said.append((message.headers["task"].removeprefix(PREFIX), arguments))
                message.ack()
            queue.close()
        return said

    receive()
    yield receive
    before.set_current()


def make_event(event_id):
    return WorkflowEvent(event_id, "a.b", {}, event_name="x")


def publish_among_others(outbox):
    """Publish in a transaction; returns what the hook of somebody else said after its commit."""
    said = []
    with transaction.atomic():
        outbox.publish(make_event("1"))
        transaction.on_commit(lambda: said.append("ran"))
    return said


def test_publishing_nudges_once_a_transaction_and_after_its_commit(outbox, sent):
    with transaction.atomic():
        outbox.publish(make_event("1"))
        outbox.publish(make_event("2"))
        assert sent() == []
    assert sent() == [("work", ["default", ""])]


def test_publishing_outside_of_a_transaction_nudges_at_once(outbox, sent):
    outbox.publish(make_event("1"))
    assert sent() == [("work", ["default", ""])]


def test_commits_soon_after_one_another_share_a_nudge(outbox, sent, drains):
    for number in range(5):
        outbox.publish(make_event(str(number)))
    assert sent() == [("work", ["default", ""])]
    drains.flush()
    assert sent() == [("work", ["default", ""])]


def test_each_database_has_messages_of_its_own(outbox, sent):
    for alias in ("default", "archive"):
        outbox.publish(make_event("1"), using=alias)
    assert sent() == [("work", ["default", ""]), ("work", ["archive", ""])]


def test_a_delayed_message_goes_to_the_app_of_those_who_asked(outbox, sent, drains):
    for number in range(2):
        outbox.publish(make_event(str(number)))
    sent()
    flushing = Thread(target=drains.flush)  # which has no current app
    flushing.start()
    flushing.join()
    assert sent() == [("work", ["default", ""])]


def test_a_process_of_a_worker_that_ends_sends_delayed_messages(outbox, sent, monkeypatch, drains):
    monkeypatch.setattr(beat, "nudge_throttle", drains)
    for number in range(2):
        outbox.publish(make_event(str(number)))
    sent()
    worker_process_shutdown.send(sender=None)
    assert sent() == [("work", ["default", ""])]


def test_an_eager_app_delivers_each_event_before_publish_returns(outbox):
    delivered = []
    outbox.register(
        "x", handler=lambda event: delivered.append(event.event_id), registration_id="r"
    )
    app, before = use_broker("memory://")
    app.conf.task_always_eager = True
    try:
        for number in "12":
            outbox.publish(make_event(number))
            assert delivered[-1] == number
    finally:
        before.set_current()


def test_a4_an_eager_app_runs_tasks_although_a_broker_was_away(outbox):
    delivered = []
    outbox.register("x", handler=lambda event: delivered.append(1), registration_id="r")
    app, before = use_broker("memory://")
    app.conf.task_always_eager = True
    broker.broker.failed()
    try:
        outbox.publish(make_event("1"))
    finally:
        before.set_current()
    assert delivered == [1]


@pytest.mark.parametrize("propagates", [True, False])
def test_a4_what_an_eager_task_raises_is_no_trouble_of_the_broker(
    outbox, monkeypatch, caplog, propagates
):
    def stumble(*arguments):
        raise ConnectionError("the database, say")

    monkeypatch.setattr("general_manager.workflow.tasks.empty", stumble)
    app, before = use_broker("memory://")
    app.conf.task_always_eager = True
    app.conf.task_eager_propagates = propagates
    try:
        outbox.publish(make_event("1"))
    finally:
        before.set_current()
    assert not broker.broker.is_away()
    assert "the database, say" in caplog.text


def test_an_eager_app_runs_all_in_the_thread_that_asked(outbox, celery_engine, monkeypatch):
    """Another thread would not see what a test's transaction holds."""
    monkeypatch.setattr(work, "SLOW_SECONDS", 0)
    monkeypatch.setattr(work, "SLICE_SECONDS", 0)
    threads = []

    def where(input_data):
        threads.append(current_thread())
        Event().wait(0.05)  # long enough for a timer to go off

    monkeypatch.setattr(flows, "echo", where)
    definition = WorkflowDefinition("w", metadata={"handler_path": "tests.testapp.flows.echo"})

    def start_two(event):
        for _ in range(2):
            celery_engine.start(definition)
        Event().wait(0.05)

    outbox.register("x", handler=start_two, registration_id="r")
    app, before = use_broker("memory://")
    app.conf.task_always_eager = True
    try:
        outbox.publish(make_event("1"))
    finally:
        before.set_current()
    assert threads == [current_thread()] * 2


def test_after_a_rollback_nothing_is_sent_and_the_next_commit_sends(outbox, sent):
    with pytest.raises(RuntimeError), transaction.atomic():
        outbox.publish(make_event("1"))
        raise RuntimeError
    assert sent() == []
    with transaction.atomic():
        outbox.publish(make_event("2"))
    assert sent() == [("work", ["default", ""])]


def test_a_savepoint_that_is_rolled_back_takes_no_other_nudge_with_it(outbox, sent):
    with transaction.atomic():
        with pytest.raises(RuntimeError), transaction.atomic():
            outbox.publish(make_event("1"))
            raise RuntimeError
        outbox.publish(make_event("2"))
    assert sent() == [("work", ["default", ""])]


def test_a_known_event_asks_for_nothing(outbox, sent):
    outbox.publish(make_event("1"))
    sent()
    outbox.publish(make_event("1"))
    assert sent() == []


def test_executions_of_one_transaction_share_a_nudge_for_each_queue(celery_engine, sent):
    with transaction.atomic():
        for queue in ("", "gpu", ""):
            celery_engine.start(WorkflowDefinition("w", handler=flows.echo, queue=queue))
    assert sent() == [("work", ["default", ""])]
    assert sent("gpu") == [("work", ["default", "gpu"])]


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"])
def test_e3_an_unreachable_broker_fails_nobody_and_is_asked_only_once(
    outbox, caplog, url, monkeypatch, drains
):
    _, before = use_broker(url)
    asked = []
    publish = broker._publish

    def ask(*arguments):
        asked.append(1)
        publish(*arguments)

    monkeypatch.setattr(broker, "_publish", ask)
    try:
        others = publish_among_others(outbox)
        outbox.publish(make_event("2"))
        drains.flush()
    finally:
        before.set_current()
    assert others == ["ran"]
    assert asked == [1]
    assert "the next Beat tick will pick the work up" in caplog.text


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_e3_a_broker_that_accepts_and_never_answers_fails_nobody(outbox, caplog, scheme):
    """Redis would be waited for without end, AMQP for as long as connecting may take."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        _, before = use_broker(f"{scheme}://127.0.0.1:{mute.getsockname()[1]}//")
        try:
            others = publish_among_others(outbox)
        finally:
            before.set_current()
    assert others == ["ran"]
    assert "the next Beat tick will pick the work up" in caplog.text


def test_e3_no_part_of_talking_to_a_broker_takes_longer_than_a_fraction_of_a_second():
    limits = ("socket_connect_timeout", "socket_timeout", "read_timeout", "write_timeout")
    assert [broker.IMPATIENT[name] for name in limits] == [broker.CONNECT_SECONDS] * 4
    assert broker.CONNECT_SECONDS <= 0.5


def test_e3_a_celery_configuration_that_cannot_be_read_fails_no_commit(outbox, caplog):
    app, before = use_broker("memory://")
    app.config_from_object("no.such.module")
    try:
        others = publish_among_others(outbox)
    finally:
        before.set_current()
    assert others == ["ran"]
    assert WorkflowOutbox.objects.count() == 1
    assert "no.such.module" in caplog.text or "No module named" in caplog.text


def test_without_a_celery_app_the_log_says_what_is_missing(outbox, caplog):
    outbox.publish(make_event("1"))
    assert "import your app in your project's __init__.py" in caplog.text
