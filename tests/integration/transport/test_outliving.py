"""What outlives the worker that called it, in a thread, a task or a process, sends its messages."""

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextvars import copy_context
from functools import partial
from threading import Event, Thread

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction
from django.test import override_settings

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.transport import broker, nudges
from general_manager.workflow.transport.throttle import Throttle
from general_manager.workflow.workers.work import empty
from tests.testapp import flows

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.skipif(
        connection.vendor == "sqlite", reason="There, one writer excludes all others"
    ),
]
ECHO = WorkflowDefinition("w", handler=flows.echo)


@pytest.fixture
def sent(monkeypatch, tmp_path):
    """Messages, in a file: processes send them too."""
    log = tmp_path / "sent"
    log.write_text("")

    def publish(app, task, arguments, queue):
        with log.open("a") as file:
            file.write(f"{arguments}\n")

    monkeypatch.setattr(broker, "has_app", lambda *_: True)
    monkeypatch.setattr(broker, "_publish", publish)
    monkeypatch.setattr(nudges, "nudge_throttle", Throttle(0))
    broker.broker.answered()
    return log


@pytest.fixture
def worked_off(outbox, sent):
    """Publish an event to *handler* and work it off; then nothing was sent yet."""

    def work(handler, **options):
        outbox.register("x", handler=handler, **options)
        outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
        empty("default")
        sent.write_text("")

    return work


def in_a_copied_context(act):
    thread = Thread(target=copy_context().run, args=(act,))
    thread.start()
    return thread


def start_in_an_open_transaction(engine, go, threads, _):
    """A handler that returns while a thread of its own holds its transaction open."""
    began = Event()

    def later():
        with transaction.atomic():
            engine.start(ECHO)
            began.set()
            go.wait(10)
        connections.close_all()

    threads.append(in_a_copied_context(later))
    began.wait(10)


def test_o6_a_coroutine_on_a_lasting_loop_sends_a_message(celery_engine, sent, worked_off):
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    go, futures = Event(), []

    async def later():
        while not go.is_set():
            await asyncio.sleep(0.01)
        await celery_engine.astart(ECHO)
        await sync_to_async(connections.close_all)()

    worked_off(lambda _: futures.append(asyncio.run_coroutine_threadsafe(later(), loop)))
    go.set()
    futures[0].result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert sent.read_text()


def test_o6_a_thread_with_the_handlers_context_sends_a_message(celery_engine, sent, worked_off):
    go, threads = Event(), []

    def later():
        go.wait(10)
        celery_engine.start(ECHO)
        connections.close_all()

    worked_off(lambda _: threads.append(in_a_copied_context(later)))
    go.set()
    threads[0].join()
    assert sent.read_text()


def test_o6_what_another_thread_commits_after_the_last_look_sends_a_message(
    celery_engine, sent, worked_off
):
    go, threads = Event(), []
    handle = partial(start_in_an_open_transaction, celery_engine, go, threads)
    worked_off(handle)
    go.set()
    threads[0].join()
    assert sent.read_text()


def forget_connections():
    for one in connections.all(initialized_only=True):
        one.connection, one.in_atomic_block = None, False
        one.run_on_commit, one.atomic_blocks, one.savepoint_ids = [], [], []


def start_one():
    CeleryWorkflowEngine().start(ECHO)
    connections.close_all()


def test_o6_a_process_that_a_handler_forked_sends_a_message(celery_engine, sent, worked_off):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        worked_off(lambda _: pool.submit(forget_connections).result(), atomic=False)
        pool.submit(start_one).result()
    assert sent.read_text()


def test_o6_a_thread_with_the_handlers_context_can_work_itself(celery_engine, worked_off):
    go, threads = Event(), []

    def later():
        go.wait(10)
        empty("default")
        connections.close_all()

    worked_off(lambda _: threads.append(in_a_copied_context(later)))
    celery_engine.start(ECHO)
    go.set()
    threads[0].join()
    assert WorkflowExecutionRecord.objects.get().state == "completed"


def test_without_workers_a_thread_runs_what_it_commits_after_its_caller(outbox, celery_engine):
    go, threads = Event(), []
    handle = partial(start_in_an_open_transaction, celery_engine, go, threads)
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    with override_settings(GENERAL_MANAGER=settings):
        outbox.register("x", handler=handle)
        outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
        go.set()
        threads[0].join()
    assert WorkflowExecutionRecord.objects.get().state == "completed"
