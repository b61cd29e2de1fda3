"""The tutorial in local mode: its code blocks as they stand, and what it says they do."""

import pytest
from django.test import override_settings

from general_manager.workflow.event_registry import configure_event_registry
from tests.testapp.models import Project

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

# --- 1. Configure the workflow engine: local zero-setup mode ---------------------------------

GENERAL_MANAGER = {
    "WORKFLOW_MODE": "local",
    "WORKFLOW_SIGNAL_BRIDGE": True,
}

# --- 4. Start a workflow and call an action ---------------------------------------------------

from general_manager.workflow.backend_registry import get_workflow_engine  # noqa: E402
from general_manager.workflow.engine import WorkflowDefinition  # noqa: E402


def project_status_workflow_handler(input_data):
    # Replace with your action registry call, e.g. send_email
    return {"sent": True, "to": "ops@example.test"}


def start_project_status_workflow(event):
    workflow = WorkflowDefinition(
        workflow_id="project_status_email",
        handler=project_status_workflow_handler,
    )
    engine = get_workflow_engine()
    engine.start(
        workflow,
        input_data={
            "event_id": event.event_id,
            "project_id": event.payload["identification"]["id"],
            "old_status": event.payload["changes"]["status"]["old"],
            "new_status": event.payload["changes"]["status"]["new"],
        },
        correlation_id=event.event_id,
    )


@pytest.fixture(autouse=True)
def _local_mode(engine):
    with override_settings(GENERAL_MANAGER=GENERAL_MANAGER):
        yield
    configure_event_registry(None)


@pytest.fixture
def registered():
    # --- 2. Register a workflow trigger with a readable event name ---------------------------
    from general_manager.workflow.event_registry import InMemoryEventRegistry

    event_registry = InMemoryEventRegistry()
    event_registry.register(
        "manager_updated",
        handler=start_project_status_workflow,
        when=lambda event: (
            event.payload.get("manager") == "Project"
            and event.payload.get("changes", {}).get("status", {}).get("new") == "active"
        ),
    )
    configure_event_registry(event_registry)
    return event_registry


def test_a_managers_change_becomes_an_event_a_workflow_and_a_result(registered, engine):
    project = Project.create(name="Apollo")
    project.update(status="active")
    (execution,) = engine.executions()
    assert execution.workflow_id == "project_status_email"
    assert execution.state == "completed"
    assert execution.output_data == {"sent": True, "to": "ops@example.test"}
    assert execution.input_data == {
        "event_id": execution.correlation_id,
        "project_id": project.id,
        "old_status": "draft",
        "new_status": "active",
    }


def test_only_relevant_updates_are_routed(registered, engine):
    project = Project.create(name="Apollo", status="active")
    project.update(name="Artemis")
    project.update(status="draft")
    assert engine.executions() == []


def test_the_canonical_type_routes_as_well_as_the_readable_name(registered, engine):
    registered.register("general_manager.manager.updated", handler=start_project_status_workflow)
    Project.create(name="Apollo").update(status="active")
    assert len(engine.executions()) == 1  # both handlers ask for the same correlation id


def test_the_constructor_stores_a_difference_for_each_field():
    # --- 3. Use typed event constructors ------------------------------------------------------
    from general_manager.workflow.events import manager_updated_event

    event = manager_updated_event(
        manager="Project",
        identification={"id": 42},
        changes={"status": "active"},
        old_values={"status": "draft"},
        event_name="project_status_changed",
    )
    assert event.payload["changes"] == {
        "status": {"old": "draft", "new": "active"},
    }


def test_the_other_constructors_are_there():
    from general_manager.workflow.events import manager_created_event, manager_deleted_event

    assert manager_created_event(manager="Project", values={}).event_name == "manager_created"
    assert manager_deleted_event(manager="Project").event_name == "manager_deleted"


def test_starting_again_with_the_same_correlation_id_reuses_the_execution(engine):
    workflow = WorkflowDefinition("project_status_email", handler=project_status_workflow_handler)
    first = engine.start(workflow, input_data={}, correlation_id="event-1")
    assert engine.start(workflow, input_data={}, correlation_id="event-1") == first


def test_after_a_failed_execution_the_same_correlation_id_starts_afresh(engine):
    def failing_handler(input_data):
        raise ConnectionError("the mail server is away")

    failing = WorkflowDefinition("project_status_email", handler=failing_handler)
    failed = engine.start(failing, correlation_id="event-1")
    assert (failed.state, failed.error) == ("failed", "the mail server is away")
    working = WorkflowDefinition("project_status_email", handler=project_status_workflow_handler)
    again = engine.start(working, correlation_id="event-1")
    assert again.state == "completed"
    assert again.execution_id != failed.execution_id


def test_an_explicit_publish_uses_the_same_routing_and_engine(registered, engine):
    registered.register("project_status_changed", handler=start_project_status_workflow)
    project = Project.create(name="Apollo")
    # --- 5. Trigger without signals (explicit publish) ----------------------------------------
    from general_manager.workflow.event_registry import get_event_registry
    from general_manager.workflow.events import manager_updated_event

    event = manager_updated_event(
        manager="Project",
        identification=project.identification,
        changes={"status": "active"},
        old_values={"status": "draft"},
        event_name="project_status_changed",
    )
    get_event_registry().publish(event)

    (execution,) = engine.executions()
    assert execution.correlation_id == event.event_id
    assert execution.state == "completed"


def test_trigger_failures_are_retried_and_then_told_to_the_hook(registered):
    event_registry = registered
    attempts = []

    def start_project_status_workflow(event):
        attempts.append(event.event_id)
        raise RuntimeError("no workflow today")

    # --- 6. Handle trigger failures with retries and dead-letter hooks ------------------------
    dead_letters: list[tuple[str, str]] = []

    event_registry.register(
        "manager_updated",
        handler=start_project_status_workflow,
        when=lambda event: event.payload.get("manager") == "Project",
        retries=2,
        dead_letter_handler=lambda event, exc: dead_letters.append((event.event_id, str(exc))),
    )

    Project.create(name="Apollo").update(name="Artemis")
    assert len(attempts) == 3
    assert dead_letters == [(attempts[0], "no workflow today")]


def test_identical_registrations_are_one_and_different_ones_are_not(registered):
    before = len(registered.registrations())
    for _ in range(2):
        registered.register("manager_updated", handler=start_project_status_workflow)
        registered.register("manager_updated", handler=start_project_status_workflow, retries=1)
    assert len(registered.registrations()) == before + 2
