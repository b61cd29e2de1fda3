"""The tutorial's code blocks as they stand, each in a function where it needs outer names."""

# --- 4. Start a workflow and call an action ---------------------------------------------------

from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.engine import WorkflowDefinition


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


# --- 2. Register a workflow trigger with a readable event name --------------------------------


def register_the_trigger(event_registry):
    event_registry.register(
        "manager_updated",
        handler=start_project_status_workflow,
        when=lambda event: (
            event.payload.get("manager") == "Project"
            and event.payload.get("changes", {}).get("status", {}).get("new") == "active"
        ),
    )


# --- 3. Use typed event constructors ----------------------------------------------------------


def construct_an_event():
    from general_manager.workflow.events import manager_updated_event

    event = manager_updated_event(
        manager="Project",
        identification={"id": 42},
        changes={"status": "active"},
        old_values={"status": "draft"},
        event_name="project_status_changed",
    )
    return event  # noqa: RET504 - the block as it stands


# --- 5. Trigger without signals (explicit publish) --------------------------------------------


def publish_explicitly(project):
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
    return event


# --- 6. Handle trigger failures with retries and dead-letter hooks ----------------------------

dead_letters: list[tuple[str, str]] = []


def register_with_a_hook(event_registry, start_project_status_workflow):
    event_registry.register(
        "manager_updated",
        handler=start_project_status_workflow,
        when=lambda event: event.payload.get("manager") == "Project",
        retries=2,
        dead_letter_handler=lambda event, exc: dead_letters.append((event.event_id, str(exc))),
    )
