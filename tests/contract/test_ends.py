"""The end of an execution as an event: one for each end, for those who register for it."""

import re
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from general_manager.workflow import (
    EXECUTION_CANCELLED,
    EXECUTION_COMPLETED,
    EXECUTION_FAILED,
    DatabaseEventRegistry,
    InMemoryEventRegistry,
    LocalWorkflowEngine,
    PermanentFailure,
    WorkflowDefinition,
    WorkflowEvent,
    configure_event_registry,
    current_execution_id,
    get_workflow_engine,
    step,
)
from general_manager.workflow.executions.end_events import LONGEST_CHAIN_OF_ENDS
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from general_manager.workflow.outbox.drain import drain
from tests.bare import PACKAGE
from tests.contract.test_observing import DAY, HISTORIES
from tests.testapp import plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

TYPES = {
    "completed": EXECUTION_COMPLETED, "failed": EXECUTION_FAILED, "cancelled": EXECUTION_CANCELLED,
}  # fmt: skip


def define(handler=None, workflow_id="w", **options):
    return WorkflowDefinition(workflow_id, handler=handler, **options)


class Ends:
    """The registry that goes with the engine, and the ends that its handlers received."""

    def __init__(self, driver):
        self.driver = driver
        is_local = isinstance(driver.engine, LocalWorkflowEngine)
        self.registry = InMemoryEventRegistry() if is_local else DatabaseEventRegistry()
        self.events = []

    def listen(self, *keys, handler=None):
        for key in keys:
            self.registry.register(key, handler=handler or self.events.append)

    def settle(self):
        for _ in range(2 * LONGEST_CHAIN_OF_ENDS):
            with self.driver.in_force():
                drain()
            self.driver.settle()


@pytest.fixture
def ends(driver):
    ends = Ends(driver)
    configure_event_registry(ends.registry)
    yield ends
    configure_event_registry(None)


@pytest.mark.parametrize("history", HISTORIES)
def test_every_way_to_end_has_one_event(engine, driver, started, ends, history):
    ends.listen(*TYPES.values())
    definition, troubles, acts, states = HISTORIES[history]
    plays.stage.troubles[:] = troubles
    key = started(definition).execution_id
    for act in acts:
        act(engine, key)
        driver.settle()
    driver.pass_time(DAY)
    driver.settle()
    ends.settle()
    over = [one for one in states.split() or [str(engine.status(key).state)] if one in TYPES]
    assert Counter(one.payload["state"] for one in ends.events) == Counter(over)
    for event in ends.events:
        now = engine.status(event.payload["execution_id"])
        assert event.event_type == TYPES[now.state]
        assert event.payload["error"] == now.error


def test_the_event_says_what_ended_and_how(engine, driver, started, ends):
    ends.listen(EXECUTION_FAILED)
    about = {"subject": "Invoice 7", "attributes": {"customer": 7}, "correlation_id": "k"}
    execution = started(define(plays.fail), {"secret": 1}, **about)
    ends.settle()
    [event] = ends.events
    assert event.event_name == "execution_failed"
    assert event.event_id == f"{execution.execution_id}.failed.1"
    assert event.occurred_at is not None
    assert event.payload == {
        "execution_id": execution.execution_id, "workflow_id": "w", "state": "failed",
        "error": "boom", **about,
    }  # fmt: skip


def test_a_handler_may_register_for_the_name(engine, started, ends):
    ends.listen("execution_completed")
    started(define(plays.echo))
    ends.settle()
    assert [one.event_type for one in ends.events] == [EXECUTION_COMPLETED]


def test_only_ends_that_somebody_registered_for_are_emitted(engine, driver, started, ends):
    ends.listen(EXECUTION_CANCELLED, "something_else")
    started(define(plays.echo))
    started(define(plays.fail))
    ends.settle()
    assert ends.events == []
    assert not WorkflowEventRecord.objects.exists()


def test_a_duplicate_or_refused_act_emits_nothing_more(engine, started, ends):
    ends.listen(*TYPES.values())
    execution = started(define(plays.ask), correlation_id="k")
    engine.cancel(execution.execution_id)
    with pytest.raises(Exception, match="cancel"):
        engine.cancel(execution.execution_id)
    done = started(define(plays.echo), correlation_id="k")
    assert started(define(plays.echo), correlation_id="k") == done
    started(define(), correlation_id="j")
    started(define(), correlation_id="j")
    ends.settle()
    assert sorted(one.payload["state"] for one in ends.events) == [
        "cancelled", "completed", "completed",
    ]  # fmt: skip


def test_handlers_that_start_another_execution_at_each_end_do_not_run_on(
    engine, driver, started, ends, caplog
):
    def start_the_next(event: WorkflowEvent) -> None:
        engine.start(define(plays.echo, "next"), correlation_id=event.event_id)

    ends.listen(EXECUTION_COMPLETED, handler=start_the_next)
    started(define(plays.echo))
    ends.settle()
    assert engine.executions(workflow="next").count() == LONGEST_CHAIN_OF_ENDS
    assert "started by a handler of such an event" in caplog.text


def test_an_end_whose_event_cannot_be_stored_is_not_written_either(
    engine, driver, started, ends, monkeypatch
):
    if isinstance(engine, LocalWorkflowEngine):
        return
    execution = started(define(plays.ask))
    ends.listen(EXECUTION_CANCELLED)

    def refuse(event, *, using):
        raise OSError("no space left")

    monkeypatch.setattr(ends.registry, "publish_with_change", refuse)
    with pytest.raises(OSError, match="no space"):
        engine.cancel(execution.execution_id)
    assert engine.status(execution.execution_id).state == "waiting"


def test_a_run_whose_end_has_no_event_yet_is_not_over_and_ends_later(
    engine, driver, ends, monkeypatch
):
    if isinstance(engine, LocalWorkflowEngine):
        return
    ends.listen(EXECUTION_COMPLETED)
    publish, refused = ends.registry.publish_with_change, []

    def refuse_once(event, *, using):
        publish(event, using=using)
        if not refused:
            refused.append(event)
            raise OSError("no space left")

    monkeypatch.setattr(ends.registry, "publish_with_change", refuse_once)
    execution = engine.start(define(plays.echo))
    with driver.in_force():
        run(execution.execution_id, "default")
    assert refused
    assert engine.status(execution.execution_id).state == "pending"
    assert not WorkflowEventRecord.objects.exists()
    driver.pass_time(DAY)
    driver.settle()
    ends.settle()
    assert engine.status(execution.execution_id).state == "completed"
    assert len(ends.events) == 1


def test_an_end_that_is_rolled_back_has_no_event(engine, started, ends):
    if isinstance(engine, LocalWorkflowEngine):
        return
    ends.listen(EXECUTION_CANCELLED, EXECUTION_COMPLETED)
    execution = started(define(plays.ask))
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        engine.cancel(execution.execution_id)
        engine.start(define())
        assert WorkflowEventRecord.objects.count() == 2
        raise ZeroDivisionError
    ends.settle()
    assert ends.events == []
    assert not WorkflowEventRecord.objects.exists()


def cancel_itself(_):
    step("cancel", partial(get_workflow_engine().cancel, current_execution_id(), reason="self"))


def cancel_another_and_fail(data):
    def act():
        get_workflow_engine().cancel(data["other"])
        raise PermanentFailure("after that")

    step("cancel", act)


def test_who_cancels_itself_in_a_step_that_is_rolled_back_has_its_event(engine, started, ends):
    ends.listen(EXECUTION_CANCELLED)
    execution = started(define(cancel_itself))
    ends.settle()
    assert engine.status(execution.execution_id).state == "cancelled"
    assert [one.payload["execution_id"] for one in ends.events] == [execution.execution_id]


def test_a_step_that_is_rolled_back_leaves_no_end_without_its_event(engine, started, ends):
    """In local mode what it has cancelled has ended; elsewhere it has not."""
    ends.listen(EXECUTION_CANCELLED)
    other = started(define(plays.ask, "other"))
    started(define(cancel_another_and_fail, "w"), {"other": other.execution_id})
    ends.settle()
    is_cancelled = engine.status(other.execution_id).state == "cancelled"
    assert is_cancelled is isinstance(engine, LocalWorkflowEngine)
    assert len(ends.events) == is_cancelled


def test_an_answer_without_a_wait_is_an_end_too(engine, started, ends):
    if isinstance(engine, LocalWorkflowEngine):
        return
    ends.listen(EXECUTION_COMPLETED)
    row = WorkflowExecutionRecord.objects.create(
        execution_id="0190", workflow_id="old", state="waiting"
    )
    engine.resume(row.execution_id, "yes")
    ends.settle()
    assert [one.payload["workflow_id"] for one in ends.events] == ["old"]


def test_what_kills_its_workers_ends_with_an_event(engine, driver, ends):
    if isinstance(engine, LocalWorkflowEngine):
        return
    ends.listen(EXECUTION_FAILED)
    with transaction.atomic():
        execution = engine.start(define(plays.echo))
        WorkflowExecutionRecord.objects.update(crashes=9)
    ends.settle()
    assert engine.status(execution.execution_id).state == "failed"
    [event] = ends.events
    assert "9 times" in event.payload["error"]


def test_an_execution_ends_though_the_registry_cannot_be_built(engine, started, monkeypatch):
    def refuse():
        raise ImproperlyConfigured("WORKFLOW_EVENT_REGISTRY is wrong")

    path = "general_manager.workflow.executions.end_events.get_event_registry"
    monkeypatch.setattr(path, refuse)
    assert started(define(plays.echo)).state == "completed"


def test_every_end_of_a_stored_execution_goes_through_the_one_door():
    """The table's verbs that end are called there, and nowhere else."""
    ending = re.compile(
        r"\bexecutions?\w*(?:\([^)]*\))?\.(?:complete|end|cancel|start_once)\("
        r"|\bheld(?:\([^)]*\))?\.end\("
    )
    allowed = {
        "executions/ending.py", "models/executions/verbs.py", "admin/acts/executions.py",
        "executions/repairs.py",  # starts a fresh one, which is pending
        "models/executions/renewal.py",  # continues as new: it is not over
        "models/executions/ending.py",  # its `end_as` is called by the door only: see below
    }  # fmt: skip
    root = PACKAGE / "workflow"
    found = {
        str(Path(path).relative_to(root))
        for path in root.rglob("*.py")
        if ending.search(path.read_text())
    }
    assert found <= allowed
    asked = {
        path.name
        for path in root.rglob("*.py")
        if "models.executions.ending import end_as" in path.read_text()
    }
    assert asked == {"ending.py"}
    assert "executions/ending.py" in found
