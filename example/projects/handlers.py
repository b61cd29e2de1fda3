"""Event handlers: each starts a workflow or does one small thing."""

from general_manager.workflow import WorkflowEvent, get_workflow_engine
from projects.models import DeadLetter
from projects.workflows import BUDGET_APPROVAL, PROJECT_STATUS


def start_project_status_workflow(event: WorkflowEvent) -> None:
    get_workflow_engine().start(
        PROJECT_STATUS,
        input_data={
            "event_id": event.event_id,
            "project_id": event.payload["identification"]["id"],
            "old_status": event.payload["changes"]["status"]["old"],
            "new_status": event.payload["changes"]["status"]["new"],
        },
        correlation_id=event.event_id,
    )


def start_budget_approval(event: WorkflowEvent) -> None:
    get_workflow_engine().start(
        BUDGET_APPROVAL,
        input_data={
            "project_id": event.payload["identification"]["id"],
            "amount": event.payload["amount"],
            "asked_by": event.payload["asked_by"],
            "request": event.event_id,
        },
        correlation_id=event.event_id,
        attributes={"asked_by": event.payload["asked_by"]},  # to search by in the admin
    )


def tell_accounting(event: WorkflowEvent) -> None:
    """Accounting's server is always down in this example, to show a failure."""
    raise ConnectionError("accounting.example.test does not answer")


def note_dead_letter(event: WorkflowEvent, error: Exception) -> None:
    DeadLetter.objects.create(
        event_id=event.event_id, event_name=event.event_name or "", error=str(error)
    )
