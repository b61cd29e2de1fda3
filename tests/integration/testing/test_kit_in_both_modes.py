"""The test kit on both engines and both registries, inside test cases that never commit."""

from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.test import TestCase, override_settings
from django.utils import timezone

from general_manager.workflow import (
    InMemoryEventRegistry,
    LocalWorkflowEngine,
    Retry,
    WaitTimeout,
    WorkflowDefinition,
    WorkflowEvent,
    WorkflowInvalidStateError,
    configure_event_registry,
    configure_workflow_engine,
    current_execution_id,
    get_event_registry,
    get_workflow_engine,
    sleep,
    step,
    wait_for,
)
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.event_registry import DatabaseEventRegistry
from general_manager.workflow.testing import advance, assert_published, drain, published
from tests.testapp import flows
from tests.testapp.models import Project

pytestmark = pytest.mark.django_db(databases=["default", "archive"])

MODES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "local": (LocalWorkflowEngine, InMemoryEventRegistry, {"WORKFLOW_MODE": "local"}),
    "production": (CeleryWorkflowEngine, DatabaseEventRegistry, {"WORKFLOW_MODE": "production"}),
    "inline": (
        CeleryWorkflowEngine,
        DatabaseEventRegistry,
        {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False},
    ),
}


@contextmanager
def in_mode(name, **more):
    engine, registry, settings = MODES[name]
    with override_settings(GENERAL_MANAGER={**settings, **more}):
        configure_workflow_engine(engine())
        configure_event_registry(registry())
        try:
            yield
        finally:
            configure_workflow_engine(None)
            configure_event_registry(None)


@pytest.fixture(params=MODES)
def mode(request):
    flows.calls.clear()
    flows.troubles.clear()
    with in_mode(request.param):
        yield request.param


def event(event_id="1", name="paid"):
    return WorkflowEvent(event_id, "shop.paid", {"n": 1}, event_name=name)


def test_drain_delivers_what_was_published_in_a_transaction_of_a_test_case(mode):
    get_event_registry().register("paid", handler=flows.start_from_event)
    with transaction.atomic():
        assert get_event_registry().publish(event()) is False
        assert flows.calls == []
    drain()
    assert flows.calls == ["echo"]
    assert drain() == 0
    assert flows.calls == ["echo"]


def test_drain_delivers_nothing_that_was_rolled_back(mode):
    get_event_registry().register("paid", handler=flows.start_from_event)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        get_event_registry().publish(event())
        raise ZeroDivisionError
    assert drain() == 0
    assert flows.calls == []


def test_drain_goes_on_with_what_handlers_publish(mode):
    def publish_another(received):
        with transaction.atomic():
            get_event_registry().publish(event("2", "shipped"))

    get_event_registry().register("paid", handler=publish_another)
    get_event_registry().register("shipped", handler=flows.start_from_event)
    with transaction.atomic():
        get_event_registry().publish(event())
    drain()
    assert flows.calls == ["echo"]


def test_a_commit_delivers_nothing_that_drain_has_delivered(mode, run_on_commit):
    get_event_registry().register("paid", handler=flows.start_from_event)
    with run_on_commit(execute=True):
        with transaction.atomic():
            get_event_registry().publish(event())
        drain()
    drain()
    assert flows.calls == ["echo"]


def test_what_waits_for_a_commit_is_published_as_far_as_a_test_is_concerned(mode):
    with assert_published("paid", count=1, payload={"n": 1}), transaction.atomic():
        get_event_registry().publish(event())
    with published() as events:
        with transaction.atomic():
            get_event_registry().publish(event("2"))
        assert [one.event_id for one in events] == ["2"]
        drain()
        get_event_registry().publish(event("3"))
    assert [one.event_id for one in events] == ["2", "3"]


def test_what_was_published_before_is_not_published_in_the_block(mode):
    with transaction.atomic():
        get_event_registry().publish(event())
    with published() as events:
        drain()
    assert events == []


def test_what_was_rolled_back_in_memory_was_not_published():
    def publish_and_fail():
        get_event_registry().publish(event())
        raise ZeroDivisionError

    with in_mode("local"), published() as events, pytest.raises(ZeroDivisionError):
        transaction.atomic(publish_and_fail)()
    assert events == []


class TestAManagersChangeInATestCase(TestCase):
    databases = "__all__"

    def _change(self, mode):
        with in_mode(mode, WORKFLOW_SIGNAL_BRIDGE=True):
            get_event_registry().register("manager_updated", handler=flows.start_from_event)
            project = Project.create(name="Apollo")
            flows.calls.clear()
            with assert_published("manager_updated", count=1):
                project.update(status="active")
            drain()
        assert flows.calls == ["echo"]

    def test_it_is_published_and_delivered_in_local_mode(self):
        self._change("local")

    def test_it_is_published_and_delivered_in_production_mode(self):
        self._change("production")

    def test_it_is_published_and_delivered_without_workers(self):
        self._change("inline")


# Answers.


def answer_before_the_question(data):
    def answer():
        try:
            get_workflow_engine().resume(str(current_execution_id()), "early", wait="approval")
        except WorkflowInvalidStateError as error:
            return [type(error).__name__, str(error.state)]

    early = step("answer", answer)
    return {"early": early, "answer": wait_for("approval")}


def test_advance_reaches_the_time_for_which_an_execution_was_started(mode):
    engine = get_workflow_engine()
    at = timezone.now() + timedelta(hours=3)
    execution = engine.start(WorkflowDefinition("w", handler=flows.echo), at=at)
    advance(timedelta(hours=2))
    assert engine.status(execution.execution_id).state == "pending"
    advance(timedelta(hours=1, seconds=1))
    assert engine.status(execution.execution_id).state == "completed"


def test_an_answer_before_the_question_is_refused_the_same_way(mode):
    execution_id = start(answer_before_the_question)
    assert state_of(execution_id) == "waiting"
    get_workflow_engine().resume(execution_id, "in time", wait="approval")
    drain()
    assert get_workflow_engine().status(execution_id).output_data == {
        "early": ["WorkflowInvalidStateError", "running"],
        "answer": "in time",
    }


def test_an_answer_to_a_sleeping_execution_is_refused_the_same_way(mode):
    execution_id = start(patient)
    with pytest.raises(WorkflowInvalidStateError) as caught:
        get_workflow_engine().resume(execution_id, "early")
    assert caught.value.state == "waiting"


def test_an_answer_while_the_question_is_being_asked_is_kept(mode):
    execution_id = start(flows.answer_at_once)
    assert get_workflow_engine().status(execution_id).output_data == {"answer": "at once"}


# Time.


def patient(data):
    sleep("night", timedelta(hours=8))
    step("morning", flows.note, "morning")
    try:
        answer = wait_for("approval", timeout=timedelta(days=3))
    except WaitTimeout:
        answer = "nobody"
    return {"answer": answer}


def start(handler, **options):
    flows.calls.clear()
    execution = get_workflow_engine().start(WorkflowDefinition("w", handler=handler, **options))
    drain()
    return execution.execution_id


def state_of(execution_id):
    return get_workflow_engine().status(execution_id).state


def test_a_sleep_ends_when_its_time_has_passed_and_not_sooner(mode):
    execution_id = start(patient)
    assert advance(timedelta(hours=7, minutes=59)) == 0
    assert flows.calls == []
    assert advance(timedelta(minutes=1)) == 1
    assert flows.calls == ["morning"]
    assert state_of(execution_id) == "waiting"


def test_an_answer_in_time_counts_and_a_timeout_comes_in_its_time(mode):
    execution_id = start(patient)
    advance(timedelta(days=2))
    get_workflow_engine().resume(execution_id, "ada")
    drain()
    assert get_workflow_engine().status(execution_id).output_data == {"answer": "ada"}
    other = start(patient)
    advance(timedelta(hours=8) + timedelta(days=3) - timedelta(minutes=1))
    assert state_of(other) == "waiting"
    advance(timedelta(minutes=1))
    assert get_workflow_engine().status(other).output_data == {"answer": "nobody"}


def test_all_that_falls_due_meanwhile_happens_in_one_call(mode):
    execution_id = start(patient)
    assert advance(timedelta(days=30)) == 2
    assert get_workflow_engine().status(execution_id).output_data == {"answer": "nobody"}


def test_each_thing_happens_at_its_time_and_in_order(mode):
    start(named_nap, metadata={})
    engine = get_workflow_engine()
    for hours in (3, 1, 2):
        engine.start(WorkflowDefinition("w", handler=named_nap), {"hours": hours})
    drain()
    flows.calls.clear()
    advance(timedelta(hours=10))
    assert flows.calls == ["1", "2", "3"]


def named_nap(data):
    if hours := data.get("hours"):
        sleep("nap", timedelta(hours=hours))
    flows.note(str(hours))


def test_retries_follow_as_their_policy_says(mode):
    hour, some = timedelta(hours=1), timedelta(minutes=10)
    flows.troubles += [ValueError("one")]
    retry = Retry(base=3600, factor=2, maximum=10**6, jitter=0)
    execution_id = start(flows.two_steps, retry=retry)
    flows.troubles[:] = [ValueError("two"), ValueError("three")]
    assert state_of(execution_id) == "pending"
    for wait, left in ((hour, 1), (2 * hour, 0)):
        advance(wait - some)
        assert len(flows.troubles) == left + 1
        advance(some)
        assert len(flows.troubles) == left
    advance(4 * hour)
    assert state_of(execution_id) == "completed"


def test_time_can_be_moved_to_a_moment(mode):
    execution_id = start(patient)
    advance(to=timezone.now() + timedelta(days=9))
    assert state_of(execution_id) == "completed"


def test_a_moment_is_measured_from_a_frozen_clock_too(mode, monkeypatch):
    execution_id = start(patient)
    frozen = timezone.now() - timedelta(days=700)
    monkeypatch.setattr(timezone, "now", lambda: frozen)
    advance(to=frozen + timedelta(hours=1))
    assert flows.calls == []
    advance(to=frozen + timedelta(hours=7, seconds=1))
    assert flows.calls == ["morning"]
    assert state_of(execution_id) == "waiting"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, TypeError),
        ({"duration": timedelta(1), "to": timezone.now()}, TypeError),
        ({"duration": 5}, TypeError),
        ({"duration": timedelta(-1)}, ValueError),
    ],
)
def test_time_that_cannot_pass_is_refused(mode, arguments, error):
    with pytest.raises(error):
        advance(**arguments)


def test_a_failing_delivery_is_tried_again_in_its_time_until_it_is_dead():
    def fail(received):
        flows.note("failed")
        raise ValueError("boom")

    with in_mode("production", WORKFLOW_RETRY_BACKOFF_SECONDS=60):
        get_event_registry().register("paid", handler=fail)
        get_event_registry().publish(event())
        flows.calls.clear()
        drain()
        assert flows.calls == ["failed"]
        advance(timedelta(seconds=20))
        assert flows.calls == ["failed"]
        advance(timedelta(hours=4))
        assert flows.calls == ["failed"] * 3
