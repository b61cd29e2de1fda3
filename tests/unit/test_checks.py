"""manage.py check, with one setting after another wrong."""

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from general_manager import GeneralManager
from general_manager.checks import check_backends, check_managers, check_settings
from general_manager.interface import ExistingModelInterface
from general_manager.workflow import InMemoryEventRegistry, configure_event_registry

REGISTRY = "general_manager.workflow.event_registry.InMemoryEventRegistry"
ENGINE = "general_manager.workflow.backends.local.LocalWorkflowEngine"


def test_a_right_project_has_nothing_to_say():
    assert check_settings() == []
    assert check_backends() == []
    assert check_managers() == []


@pytest.mark.django_db(databases=["default", "archive"])
def test_every_wrong_key_is_named_in_one_run():
    wrong = {"WORKFLOW_MODE": "prod", "WORKFLOW_ASYNC": "yes", "WORKFLOW_RETRYS": 1}
    with override_settings(GENERAL_MANAGER=wrong), pytest.raises(SystemCheckError) as caught:
        call_command("check")
    for text in ("E003", "'prod'", "WORKFLOW_ASYNC", "E002", "WORKFLOW_RETRYS", "HINT"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("container", "check_id"),
    [
        ([], "E001"),
        ({"WORKFLOW_MOED": "local"}, "E002"),
        ({"WORKFLOW_MODE": "x"}, "E003"),
    ],
)
def test_a_wrong_setting_has_its_own_id_and_a_hint(container, check_id):
    with override_settings(GENERAL_MANAGER=container):
        (message,) = check_settings()
        assert check_backends() == []  # nothing is built from settings that are wrong
    assert message.id == f"general_manager.{check_id}"
    assert message.hint


@pytest.mark.parametrize(
    ("container", "check_id"),
    [
        ({"WORKFLOW_ENGINE": "no.where"}, "E004"),
        ({"WORKFLOW_EVENT_REGISTRY": ENGINE}, "E005"),
        ({"WORKFLOW_ASYNC": True}, "W002"),
        (
            {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
            | {"WORKFLOW_ENGINE": ENGINE, "WORKFLOW_EVENT_REGISTRY": REGISTRY},
            "W003",
        ),
    ],
)
def test_what_the_settings_build_is_looked_at_too(container, check_id):
    with override_settings(GENERAL_MANAGER=container):
        (message,) = check_backends()
    assert message.id == f"general_manager.{check_id}"
    assert message.hint


def test_a_manager_of_a_model_that_does_not_exist_is_found():
    class Ghost(GeneralManager):
        class Interface(ExistingModelInterface):
            model = "testapp.Gohst"

    try:
        (message,) = check_managers()
    finally:
        GeneralManager.known_managers.remove(Ghost)
    assert message.id == "general_manager.E006"
    assert "testapp.Gohst" in message.msg


def test_a8_a_registry_by_hand_that_is_not_in_use_is_named():
    """As in section 2 of the tutorial, which builds one and puts it nowhere."""
    by_hand = InMemoryEventRegistry()
    assert check_backends() == []
    by_hand.register("manager_updated", handler=print)
    (message,) = check_backends()
    assert message.id == "general_manager.W016"
    assert "has 1 registration but is not in use" in message.msg
    configure_event_registry(by_hand)
    try:
        assert check_backends() == []
    finally:
        configure_event_registry(None)
