"""What the views and the shell call. Here events are published explicitly, without signals."""

from decimal import Decimal
from uuid import uuid4

from general_manager.workflow import WorkflowEvent, get_event_registry
from projects.models import Project


def request_budget(project: Project, amount: Decimal, *, asked_by: str) -> WorkflowEvent:
    """Ask for more money; the approval is a workflow of its own."""
    event = WorkflowEvent(
        event_id=str(uuid4()),
        event_type="company.budget.requested",
        event_name="budget_requested",
        payload={
            "manager": "Project",
            "identification": project.identification,
            "amount": amount,
            "asked_by": asked_by,
        },
        source="projects.services.request_budget",
    )
    get_event_registry().publish(event)
    return event
