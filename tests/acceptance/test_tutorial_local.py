"""The tutorial in local mode, as it stands: a registry by hand, and what only local mode says."""

import pytest
from django.test import override_settings

from general_manager.workflow import (
    InMemoryEventRegistry,
    WorkflowDefinition,
    configure_event_registry,
)
from general_manager.workflow.events import manager_created_event, manager_deleted_event
from tests.acceptance import tutorial_blocks as blocks
from tests.testapp.models import Project

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

# --- 1. Configure the workflow engine: local zero-setup mode ---------------------------------

GENERAL_MANAGER = {
    "WORKFLOW_MODE": "local",
    "WORKFLOW_SIGNAL_BRIDGE": True,
}


@pytest.fixture(autouse=True)
def _local_mode(engine):
    with override_settings(GENERAL_MANAGER=GENERAL_MANAGER):
        yield
    configure_event_registry(None)


@pytest.fixture
def registered():
    # --- 2. Register a workflow trigger with a readable event name ---------------------------
    event_registry = InMemoryEventRegistry()
    blocks.register_the_trigger(event_registry)
    configure_event_registry(event_registry)
    return event_registry


def test_a_registry_by_hand_routes_what_managers_report(registered, engine):
    Project.create(name="Apollo").update(status="active")
    (execution,) = engine.executions()
    assert execution.output_data == {"sent": True, "to": "ops@example.test"}


def test_the_canonical_type_routes_as_well_as_the_readable_name(registered, engine):
    registered.register(
        "general_manager.manager.updated", handler=blocks.start_project_status_workflow
    )
    Project.create(name="Apollo").update(status="active")
    assert engine.executions().count() == 1  # both handlers ask for the same correlation id


def test_the_other_constructors_are_there():
    assert manager_created_event(manager="Project", values={}).event_name == "manager_created"
    assert manager_deleted_event(manager="Project").event_name == "manager_deleted"


def test_a_nested_handler_runs_at_once(engine):
    def nested(input_data):
        return {"nested": True}

    execution = engine.start(WorkflowDefinition("project_status_email", handler=nested))
    assert (execution.state, execution.output_data) == ("completed", {"nested": True})


def test_identical_registrations_are_one_and_different_ones_are_not(registered):
    before = len(registered.registrations())
    for _ in range(2):
        registered.register("manager_updated", handler=blocks.start_project_status_workflow)
        registered.register(
            "manager_updated", handler=blocks.start_project_status_workflow, retries=1
        )
    assert len(registered.registrations()) == before + 2
