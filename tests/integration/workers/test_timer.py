"""What comes due later, in a process without workers. Nothing is timed: a test waits for it."""

import logging
from datetime import timedelta
from threading import Event

import pytest
from celery.signals import worker_process_init
from django.core import mail
from django.core.signals import request_started
from django.test import Client, override_settings

from general_manager.workflow import (
    LocalWorkflowEngine,
    Retry,
    WorkflowDefinition,
    WorkflowEvent,
    configure_event_registry,
    configure_workflow_engine,
    schedule,
)
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowHeartbeat
from general_manager.workflow.outbox.registry import DatabaseEventRegistry
from general_manager.workflow.workers import timer
from tests.servers import wait_until
from tests.testapp.workflows import double

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture(autouse=True)
def _no_timer():
    timer.stop()
    yield
    timer.stop()


@pytest.fixture
def local():
    engine = LocalWorkflowEngine()
    configure_workflow_engine(engine)
    yield engine
    configure_workflow_engine(None)


def fail_once():
    troubles = [ValueError("not now")]

    def handler(data):
        if troubles:
            raise troubles.pop()
        return {"done": True}

    return WorkflowDefinition("w", handler=handler, retry=Retry(base=0.01))


def test_a6_a_retry_of_the_local_engine_follows_by_itself(local, caplog):
    assert timer.start()
    execution = local.start(fail_once())
    assert execution.state == "pending"
    # Looking at it with `status` would fire the timer too.
    wait_until(lambda: local.executions()[0].state == "completed", "the second attempt")
    (said,) = [one for one in caplog.records if one.name == timer.__name__]
    assert said.levelno == logging.WARNING
    assert "a restart loses it" in said.getMessage()


def test_a6_one_that_is_started_twice_is_one(local, caplog):
    assert timer.start()
    assert timer.start()
    assert len([one for one in caplog.records if one.name == timer.__name__]) == 1


def test_a6_trouble_does_not_end_it(local, monkeypatch):
    turns = []
    second = Event()

    def stumble(self):
        turns.append(1)
        if len(turns) == 2:
            second.set()
        raise RuntimeError("trouble")

    monkeypatch.setattr(timer, "LOCAL_SECONDS", 0.01)
    monkeypatch.setattr(LocalWorkflowEngine, "run_due", stumble)
    timer.start()
    assert second.wait(60)


def test_a6_stored_work_is_done_in_this_process_where_there_are_no_workers(workers):
    registry, handled = DatabaseEventRegistry(), []

    def fail_first(event):
        handled.append(event.event_id)
        if len(handled) == 1:
            raise ValueError("not now")

    registry.register("x", handler=fail_first)
    configure_event_registry(registry)
    settings = {
        "WORKFLOW_MODE": "production",
        "WORKFLOW_ASYNC": False,
        "WORKFLOW_RETRY_BACKOFF_SECONDS": 0.01,
        "WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS": 1,
    }
    try:
        with override_settings(GENERAL_MANAGER=settings):
            registry.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
            assert timer.start()
            wait_until(lambda: handled == ["1", "1"], "the second pass")
            timer.stop()
    finally:
        configure_event_registry(None)
    assert WorkflowHeartbeat.objects.filter(duty="tick").exists()


def test_a6_where_workers_do_the_work_there_is_none(outbox, celery_engine):
    assert not timer.start()


def test_a6_tests_and_short_commands_have_none(local):
    Client().get("/")
    assert timer._timer is None
    assert not timer._is_development_server()


def test_a6_the_first_request_starts_it_in_a_server(local, monkeypatch):
    monkeypatch.delattr(mail, "outbox")
    request_started.send(sender=None)
    assert timer._timer is not None
    assert timer._timer.is_alive


@pytest.mark.parametrize(
    ("arguments", "main", "serves"),
    [
        (["manage.py", "runserver"], "true", True),
        (["manage.py", "runserver"], None, False),  # it only restarts the other
        (["manage.py", "runserver", "--noreload"], None, True),
        (["manage.py", "migrate"], None, False),
        (["manage.py", "shell"], "true", False),
    ],
)
def test_a6_the_development_server_has_one_from_its_start(monkeypatch, arguments, main, serves):
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.delenv("RUN_MAIN", raising=False)
    if main:
        monkeypatch.setenv("RUN_MAIN", main)
    assert timer._is_development_server() is serves


def test_a6_a_celery_worker_has_one_for_the_work_that_its_tasks_cause(local, monkeypatch):
    monkeypatch.delattr(mail, "outbox")
    worker_process_init.send(sender=None)
    assert timer._timer is not None
    assert timer._timer.is_alive


def test_a6_a_fork_has_no_thread_and_starts_its_own(local, monkeypatch):
    assert timer.start()
    before = timer._timer
    assert before is not None
    monkeypatch.setattr(before, "pid", before.pid + 1)  # as the child of a fork sees it
    assert timer.start()
    assert timer._timer is not before
    before.stop()


def test_a_schedule_of_local_mode_starts_by_itself(local):
    made = schedule("often", WorkflowDefinition("w", handler=lambda data: {"n": 1}),
                    every=timedelta(seconds=1))  # fmt: skip
    assert timer.start()
    wait_until(lambda: local.executions().count() >= 2, "two slots")
    timer.stop()
    first, second = local.executions()[:2]
    assert first.output_data == {"n": 1}
    assert first.correlation_id != second.correlation_id
    assert str(first.correlation_id).startswith(f"{made.name}@")


def test_a_schedule_of_a_process_that_stores_its_work_starts_by_itself(celery_engine):
    schedule("often", WorkflowDefinition("w", handler=double), every=timedelta(seconds=1),
             input_data={"number": 4})  # fmt: skip
    settings = {
        "WORKFLOW_MODE": "production",
        "WORKFLOW_ASYNC": False,
        "WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS": 1,
    }
    ended = WorkflowExecutionRecord.objects.filter(state="completed")
    with override_settings(GENERAL_MANAGER=settings):
        assert timer.start()
        wait_until(lambda: ended.count() >= 2, "two slots")
        timer.stop()
    assert {one.output_data["doubled"] for one in ended if one.output_data} == {8}


def test_a_deadline_of_a_wait_is_kept_by_the_timer(local):
    from general_manager.workflow import WaitTimeout, wait_for

    def ask(data):
        try:
            wait_for("answer", timeout=timedelta(milliseconds=10))
        except WaitTimeout:
            return {"timed_out": True}
        raise AssertionError

    timer.start()
    local.start(WorkflowDefinition("w", handler=ask))
    wait_until(lambda: local.executions()[0].output_data == {"timed_out": True}, "the timeout")
