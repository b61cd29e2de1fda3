"""The tutorial's handler and workflow, and some that kill their worker."""

import os
import signal
from pathlib import Path
from typing import Any

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowEvent,
    get_event_registry,
    get_workflow_engine,
    step,
)
from tests.testapp.models import Tag


def once(name: str) -> bool:
    """True the first time that any process asks for *name*."""
    try:
        (Path(os.environ["TEST_MARKS"]) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def project_status_workflow_handler(input_data: dict[str, Any]) -> dict[str, Any]:
    return {"sent": True, "to": "ops@example.test"}


def start_project_status_workflow(event: WorkflowEvent) -> None:
    get_workflow_engine().start(
        WorkflowDefinition("project_status_email", handler=project_status_workflow_handler),
        input_data={"project_id": event.payload["identification"]["id"]},
        correlation_id=event.event_id,
    )


def write(event: WorkflowEvent) -> None:
    Tag.objects.create(name=event.event_id)


def write_and_die_once(event: WorkflowEvent) -> None:
    Tag.objects.create(name=event.event_id)
    if once(f"event {event.event_id}"):
        die()


def die_for_seven(event: WorkflowEvent) -> None:
    if event.event_id == "7":
        os._exit(1)
    Tag.objects.create(name=event.event_id)


def ten_steps(input_data: dict[str, Any]) -> dict[str, Any]:
    for number in range(10):
        if once(f"{input_data['n']} before {number}") and number == input_data["n"] % 10:
            die()
        step(f"step {number}", tag, f"{input_data['n']}-{number}")
    return {"done": input_data["n"]}


def tag(name: str) -> None:
    Tag.objects.create(name=name)
    if once(f"in {name}") and name.endswith("-5"):
        die()


TEN_STEPS = WorkflowDefinition("ten_steps", handler=ten_steps)

registry = get_event_registry()
registry.register(
    "manager_updated",
    handler=start_project_status_workflow,
    when=lambda event: (
        event.payload.get("manager") == "Project"
        and event.payload.get("changes", {}).get("status", {}).get("new") == "active"
    ),
    registration_id="project_status_email",
)
registry.register("write", handler=write)
registry.register("write_and_die_once", handler=write_and_die_once)
registry.register("die_for_seven", handler=die_for_seven)
