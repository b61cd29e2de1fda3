"""Registrations made in `ready()`, when a test populates Django's apps once more."""

from uuid import uuid4

import pytest
from django.apps import apps
from django.test import modify_settings, override_settings

from general_manager.workflow import (
    InMemoryEventRegistry,
    WorkflowEvent,
    configure_event_registry,
)
from tests.testapp.lambdas.apps import LambdasConfig, heard

WITH = {"append": "tests.testapp.lambdas"}
ALL = ["lambda", "first", "second", "partial", "bound", "named"]


@pytest.fixture(autouse=True)
def _nothing_heard():
    heard.clear()
    yield
    heard.clear()


def publish(registry, event_id):
    heard.clear()
    registry.publish(WorkflowEvent(event_id, "a.b", {}, event_name="again"))
    return list(heard)


def test_what_ready_registers_is_not_doubled_by_populating_the_apps_again(event_registry, settings):
    with modify_settings(INSTALLED_APPS=WITH):
        first = [one.id for one in event_registry.registrations()]
        assert publish(event_registry, "1") == ALL
        for _ in range(3):
            apps.set_installed_apps(settings.INSTALLED_APPS)
            try:
                assert publish(event_registry, uuid4().hex) == ALL
            finally:
                apps.unset_installed_apps()
    assert publish(event_registry, "9") == ALL
    with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, WITH["append"]]):
        assert publish(event_registry, "10") == ALL
    assert [one.id for one in event_registry.registrations()] == first


def test_what_was_made_at_import_stays_when_the_apps_are_populated_again(event_registry):
    event_registry.register("again", handler=lambda event: heard.append("by a test"))
    with modify_settings(INSTALLED_APPS=WITH):
        pass
    with modify_settings(INSTALLED_APPS=WITH):
        assert publish(event_registry, "1") == ["by a test", *ALL]


def test_a_registry_that_adopts_the_registrations_does_not_double_them_either(event_registry):
    with modify_settings(INSTALLED_APPS=WITH):
        heir = InMemoryEventRegistry()
        heir.adopt(event_registry)
    before = heir.registrations()
    configure_event_registry(heir)
    with modify_settings(INSTALLED_APPS=WITH):
        assert [one.id for one in heir.registrations()] == [one.id for one in before]
        assert publish(heir, "1") == ALL


def test_two_that_one_place_makes_in_one_population_are_two(event_registry):
    with modify_settings(INSTALLED_APPS=WITH):
        assert publish(event_registry, "1").count("first") == 1
        assert publish(event_registry, "2").count("second") == 1


def test_an_action_that_ready_registers_anew_is_no_other(event_registry):
    for _ in range(3):
        with modify_settings(INSTALLED_APPS=WITH):
            assert LambdasConfig.actions.run("greet") == "hello"
