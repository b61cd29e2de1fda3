"""What a visitor may do: change a project, ask for money, answer who asks."""

from typing import Any

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_POST

from general_manager.workflow import WorkflowEvent, get_event_registry, get_workflow_engine
from general_manager.workflow.models import WorkflowExecutionRecord
from tests.acceptance.production.shop.workflows import STUMBLING
from tests.testapp.models import Project


@require_POST
def activate_a_project(request: HttpRequest) -> JsonResponse:
    project = Project.create(name=request.POST["name"])
    project.update(status="active")
    return JsonResponse({"id": project.id})


@require_POST
def ask_for_a_budget(request: HttpRequest) -> JsonResponse:
    name, amount = request.POST["name"], request.POST["amount"]
    event = WorkflowEvent(
        f"budget of {name}",
        "company.budget.requested",
        {"name": name, "amount": amount},
        event_name="budget_requested",
    )
    get_event_registry().publish(event)
    return JsonResponse({"asked": True})


@require_POST
def answer(request: HttpRequest) -> JsonResponse:
    waiting = WorkflowExecutionRecord.objects.get(state="waiting")
    signal = {"approved": request.POST["approved"]}
    execution = get_workflow_engine().resume(waiting.execution_id, signal)
    return JsonResponse({"state": execution.state})


@require_POST
def publish_what_fails(request: HttpRequest) -> JsonResponse:
    event = WorkflowEvent(request.POST["id"], "a.b", {}, event_name="project_failing")
    return JsonResponse({"handled": get_event_registry().publish(event)})


@require_POST
def start_what_stumbles(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"id": get_workflow_engine().start(STUMBLING).execution_id})


@require_POST
def look_into_memory(request: HttpRequest) -> JsonResponse:
    """Without `status`, which would do what is due by itself."""
    engine: Any = get_workflow_engine()
    found = {one.execution_id: one.state for one in engine.executions()}
    return JsonResponse({"state": found[request.POST["id"]]})
