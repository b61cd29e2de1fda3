"""The workflows: plain functions, some of which remember and wait.

Code between steps may run again; what a step did is done.
"""

from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from general_manager.workflow import (
    WaitTimeout,
    WorkflowDefinition,
    current_execution_id,
    resume_url,
    step,
    wait_for,
)
from projects.actions import actions
from projects.models import Project

BOSS = "boss@example.test"


def project_status_workflow(input_data: dict[str, Any]) -> dict[str, Any]:
    """Tell the owner that the project's status changed."""
    project = Project(id=input_data["project_id"])
    return step(
        "mail the owner",
        actions.run,
        "send_email",
        to=project.owner.email,
        subject=f"{project.name} is now {input_data['new_status']}",
        text=f"It was {input_data['old_status']} before.",
    )


def budget_approval_workflow(input_data: dict[str, Any]) -> dict[str, Any]:
    """Ask the boss; raise the budget if the answer is yes."""
    project = Project(id=input_data["project_id"])
    amount = Decimal(input_data["amount"])
    try:
        answer = wait_for(
            "approval by the boss",
            timeout=timedelta(days=3),
            ask=partial(ask_the_boss, project, amount),
        )
    except WaitTimeout:
        answer = {"approved": False, "by": "nobody in three days"}
    if answer["approved"]:
        step("raise the budget", raise_budget, project, amount)
    outcome = "approved" if answer["approved"] else "refused"
    step(
        "mail the owner",
        actions.run,
        "send_email",
        to=project.owner.email,
        subject=f"{amount} for {project.name}: {outcome} by {answer['by']}",
        text="The request is closed.",
    )
    return {"approved": answer["approved"], "by": answer["by"], "amount": amount}


def ask_the_boss(project: Project, amount: Decimal) -> None:
    execution, wait = str(current_execution_id()), "approval by the boss"
    question = f"May {project.name} have {amount} more?"
    yes = resume_url(
        execution, wait, {"approved": True, "by": "the boss"}, label="Approve", title=question
    )
    no = resume_url(
        execution, wait, {"approved": False, "by": "the boss"}, label="Refuse", title=question
    )
    actions.run(
        "send_email",
        to=BOSS,
        subject=question,
        text=f"Approve: {yes}\nRefuse: {no}\nOr answer on the start page.",
    )


def raise_budget(project: Project, amount: Decimal) -> str:
    budget = Project(**project.identification).budget + amount
    project.update(budget=budget)
    return str(budget)


PROJECT_STATUS = WorkflowDefinition("project_status_email", handler=project_status_workflow)
BUDGET_APPROVAL = WorkflowDefinition("budget_approval", handler=budget_approval_workflow)
