"""Called by views and the shell: publishes events explicitly, and starts a workflow."""

from decimal import Decimal
from uuid import uuid4

from general_manager.workflow import WorkflowEvent, get_event_registry, get_workflow_engine
from projects.models import Project
from projects.workflows import INVOICE


def request_budget(project: Project, amount: Decimal, *, asked_by: str) -> WorkflowEvent:
    """Request a budget; a separate workflow asks for the approval."""
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


def send_invoice(project: Project, amount: Decimal) -> str:
    """Start the workflow that mails an invoice and waits for its payment; returns its number."""
    number = uuid4().hex[:8]
    get_workflow_engine().start(
        INVOICE,
        {"project_id": project.id, "number": number, "amount": amount},
        correlation_id=number,
    )
    return number


def report_payment(number: str, amount: str) -> None:
    """The bank knows the number of the invoice, and nothing of executions."""
    get_workflow_engine().signal(
        workflow=INVOICE, correlation_id=number, name="paid", value={"amount": amount}
    )
