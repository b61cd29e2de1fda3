"""The workflows: plain functions, some of which record steps and wait.

Code between steps may run again; a finished step does not.
"""

from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from general_manager.workflow import (
    ChildFailed,
    Limit,
    Rate,
    Retry,
    WaitTimeout,
    WorkflowDefinition,
    child,
    current_execution_id,
    first_of,
    gather,
    on_event,
    on_signal,
    resume_url,
    saga,
    step,
    wait_for,
)
from projects import bank
from projects.actions import actions
from projects.models import Project

BOSS = "boss@example.test"
CUSTOMER = "customer@example.test"


def project_status_workflow(input_data: dict[str, Any]) -> dict[str, Any]:
    """Notify the owner that the project's status changed."""
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
        move_money(project, amount, key=f"budget {input_data['request']}")
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


def move_money(project: Project, amount: Decimal, *, key: str) -> None:
    """Both or neither: if the budget cannot be raised, the bank pays the money back."""
    with saga("move the money") as undo:
        # Registered before the transfer, with a key of our own: a worker that dies after the
        # transfer and before its checkpoint leaves nothing else to find it by.
        undo("pay back", bank.pay_back_if_transferred, key, atomic=False)
        step(
            "transfer",
            bank.transfer,
            key,
            amount,
            atomic=False,
            retry=Retry(max_attempts=5),
            timeout=timedelta(seconds=30),
        )
        step("raise the budget", raise_budget, project, amount)


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


def nightly_summary_workflow(input_data: dict[str, Any]) -> dict[str, Any]:
    """Tell the boss every night how the active projects stand: a child looks at each of them."""
    day = input_data["slot"][:10]
    active = step("list the active projects", list_active)
    found = gather(
        "look at each project",
        [child(PROJECT_REPORT, {"project_id": one}, key=str(one)) for one in active],
        at_once=10,
        on_failure="collect",  # one that cannot be looked at keeps no other from the boss
    )
    lines = [
        f"Project {one.key} could not be looked at: {one.error}"
        if isinstance(one, ChildFailed)
        else f"{one['name']} has {one['budget']} left"
        for one in found
    ]
    step(
        "mail the boss",
        actions.run,
        "send_email",
        to=BOSS,
        subject=f"Projects on {day}",
        text="\n".join([f"{len(active)} of them are active.", *lines]),
    )
    return {"day": day, "active": len(active)}


def list_active() -> list[int]:
    return [one.identification["id"] for one in Project.filter(status="active")]


def project_report_workflow(input_data: dict[str, Any]) -> dict[str, Any]:
    """How one project stands."""
    project = Project(id=input_data["project_id"])
    return {"name": project.name, "budget": str(project.budget)}


def invoice_workflow(input_data: dict[str, Any]) -> dict[str, Any]:
    """Mail an invoice, and wait for the payment: a report of the bank, or an event of ours.

    `views.payment_received` sends what the bank reports; cash that somebody books at the counter is
    an event, ``payment_booked``.
    """
    project, number = Project(id=input_data["project_id"]), input_data["number"]
    amount = input_data["amount"]
    step(
        "mail the invoice",
        actions.run,
        "send_email",
        to=CUSTOMER,
        subject=f"Invoice {number} for {project.name}: {amount}",
        text="Please pay within 30 days.",
    )
    try:
        _, payment = first_of(  # however early it comes
            "paid",
            by_bank=on_signal("paid"),
            at_the_counter=on_event("payment_booked", match={"invoice": number}),
            timeout=timedelta(days=30),
        )
    except WaitTimeout:
        return {"paid": None}
    step(
        "mail the owner",
        actions.run,
        "send_email",
        to=project.owner.email,
        subject=f"Invoice {number} is paid: {payment['amount']}",
        text="The bank has reported the payment.",
    )
    return {"paid": payment["amount"]}


PROJECT_STATUS = WorkflowDefinition("project_status_email", handler=project_status_workflow)
BUDGET_APPROVAL = WorkflowDefinition(
    "budget_approval",
    handler=budget_approval_workflow,
    # Two requests for one project never move its money at the same time; a wait holds no slot.
    limit=Limit(1, key="project_id"),
)
PROJECT_REPORT = WorkflowDefinition("project_report", handler=project_report_workflow)
NIGHTLY_SUMMARY = WorkflowDefinition("nightly_summary", handler=nightly_summary_workflow)
INVOICE = WorkflowDefinition(
    "project_invoice",
    handler=invoice_workflow,
    rate=Rate(100, per=timedelta(minutes=1), name="mail provider"),  # as its contract says
)
