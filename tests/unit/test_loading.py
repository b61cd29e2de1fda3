"""From a setting to an instance: every shape, and every way to get it wrong."""

from types import SimpleNamespace

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from general_manager.loading import BackendSlot
from general_manager.workflow.backend_registry import (
    configure_workflow_engine,
    configure_workflow_engine_from_settings,
    get_workflow_engine,
)
from general_manager.workflow.backends.local import LocalWorkflowEngine
from general_manager.workflow.event_registry import (
    InMemoryEventRegistry,
    configure_event_registry,
    configure_event_registry_from_settings,
    get_event_registry,
)
from general_manager.workflow.events import WorkflowEvent
from tests.testapp.heard import heard

LOCAL = "general_manager.workflow.backends.local.LocalWorkflowEngine"
shared_engine = LocalWorkflowEngine()


def make_engine(max_executions=3):
    return LocalWorkflowEngine(max_executions=max_executions)


def broken_factory():
    raise RuntimeError("no such server")


class HalfAnEngine:
    def start(self): ...


def using(value, key="WORKFLOW_ENGINE"):
    return override_settings(GENERAL_MANAGER={key: value})


@pytest.mark.parametrize(
    "value",
    [
        None,
        LOCAL,
        LocalWorkflowEngine,
        make_engine,
        "tests.unit.test_loading.make_engine",
        "tests.unit.test_loading.shared_engine",
        {"class": LOCAL},
        {"class": LOCAL, "options": {}},
        {"class": LOCAL, "options": {"max_executions": 5}},
        {"class": make_engine, "options": {"max_executions": 5}},
    ],
)
def test_every_shape_gives_an_engine_and_the_same_one_each_time(value):
    with using(value):
        engine = get_workflow_engine()
        assert isinstance(engine, LocalWorkflowEngine)
        assert get_workflow_engine() is engine


def test_an_instance_is_taken_as_it_is():
    with using(shared_engine):
        assert get_workflow_engine() is shared_engine


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("general_manager.nowhere.Engine", "WORKFLOW_ENGINE names .* cannot be imported"),
        ("Engine", "WORKFLOW_ENGINE names 'Engine', which cannot be imported"),
        ({"class": LOCAL, "options": {"max_executions": 0}}, "WORKFLOW_ENGINE could not build"),
        ({"class": LOCAL, "options": {"speed": 9}}, "WORKFLOW_ENGINE could not build.*speed"),
        (broken_factory, "WORKFLOW_ENGINE could not build broken_factory.*no such server"),
        (HalfAnEngine, r"which lacks resume\(\), cancel\(\), status\(\)"),
        (object(), r"which lacks start\(\), resume\(\), cancel\(\), status\(\)"),
        ({"class": shared_engine, "options": {"a": 1}}, "is an instance and takes none"),
    ],
)
def test_what_cannot_be_an_engine_is_refused_and_named(value, message):
    with using(value), pytest.raises(ImproperlyConfigured, match=message):
        get_workflow_engine()


def test_a_registry_without_the_protocol_is_refused():
    with (
        using(LOCAL, "WORKFLOW_EVENT_REGISTRY"),
        pytest.raises(
            ImproperlyConfigured, match=r"WORKFLOW_EVENT_REGISTRY gives .* lacks register"
        ),
    ):
        get_event_registry()


def test_after_an_override_everything_is_as_it_was():
    before = get_workflow_engine()
    with using({"class": LOCAL, "options": {"max_executions": 7}}):
        seven = get_workflow_engine()
        assert seven is not before
        with using({"class": LOCAL, "options": {"max_executions": 8}}):
            assert get_workflow_engine() not in (before, seven)
        assert get_workflow_engine() is seven
    assert get_workflow_engine() is before


def test_an_instance_first_built_under_an_override_does_not_outlive_it():
    slot = BackendSlot("WORKFLOW_ENGINE", lambda settings: settings.engine, methods=["start"])
    with using({"class": LOCAL, "options": {"max_executions": 7}}):
        first = slot.get()
    own = slot.get()
    assert own is not first
    with using({"class": LOCAL, "options": {"max_executions": 7}}):
        assert slot.get() not in (first, own)
    assert slot.get() is own


def test_another_keys_change_leaves_the_instance_alone():
    before = get_event_registry()
    with using(9, "WORKFLOW_MAX_RETRIES"):
        assert get_event_registry() is before


def test_a_new_registry_carries_on_the_projects_registrations_and_leaks_none():
    path = "general_manager.workflow.event_registry.InMemoryEventRegistry"
    value = {"class": path, "options": {"max_seen_event_ids": 10}}
    with using(value, "WORKFLOW_EVENT_REGISTRY"):
        registry = get_event_registry()
        registry.register("only_here", handler=heard.append)
        assert registry.publish(WorkflowEvent("1", "a.b", {}, event_name="heard_after"))
        assert len(heard) == 1
    assert "only_here" not in {one.key for one in get_event_registry().registrations()}


def test_a_configured_instance_wins_until_it_is_taken_back():
    engine, registry = LocalWorkflowEngine(), InMemoryEventRegistry()
    by_setting = get_workflow_engine(), get_event_registry()
    configure_workflow_engine(engine)
    configure_event_registry(registry)
    try:
        assert get_workflow_engine() is engine
        assert get_event_registry() is registry
    finally:
        configure_workflow_engine(None)
        configure_event_registry(None)
    assert (get_workflow_engine(), get_event_registry()) == by_setting


def test_configuring_what_is_no_engine_changes_nothing():
    before = get_workflow_engine()
    with pytest.raises(TypeError, match="WORKFLOW_ENGINE requires"):
        configure_workflow_engine(object())  # type: ignore[arg-type]
    assert get_workflow_engine() is before


def test_an_engine_and_a_registry_are_built_from_settings_that_are_handed_over():
    source = SimpleNamespace(GENERAL_MANAGER={"WORKFLOW_ENGINE": {"class": make_engine}})
    try:
        assert configure_workflow_engine_from_settings(source) is get_workflow_engine()
        assert configure_event_registry_from_settings(source) is get_event_registry()
    finally:
        configure_workflow_engine(None)
        configure_event_registry(None)


def test_wrong_settings_that_are_handed_over_change_nothing():
    before = get_workflow_engine()
    with pytest.raises(ImproperlyConfigured, match="WORKFLOW_MODE"):
        configure_workflow_engine_from_settings(SimpleNamespace(WORKFLOW_MODE="x"))
    assert get_workflow_engine() is before
