"""One page that shows the state, with buttons to change it; and a webhook of the bank."""

from json import JSONDecodeError, loads
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.admin.views.decorators import staff_member_required
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.crypto import constant_time_compare
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from general_manager.workflow import (
    WorkflowError,
    WorkflowExecution,
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
    get_workflow_engine,
)
from projects.executions import all_executions
from projects.models import DeadLetter, Project
from projects.services import report_payment, request_budget, send_invoice

QUESTION = "approval by the boss"
AMOUNT = forms.DecimalField(min_value=1, max_digits=8, decimal_places=2)


def start_page(request: HttpRequest) -> HttpResponse:
    executions = list(reversed(all_executions()))
    names = {project.id: project.name for project in Project.all()}
    return render(
        request,
        "projects/start.html",
        {
            "projects": Project.all().queryset.select_related("owner"),
            "waiting": [_shown(one, names) for one in executions if one.waiting_for == QUESTION],
            "executions": [_shown(one, names) for one in executions[:20]],
            "dead_letters": DeadLetter.objects.all()[:5],
        },
    )


@staff_member_required
@require_POST
def activate(request: HttpRequest, key: int) -> HttpResponse:
    project = _project(key)
    project.update(status="draft" if project.status == "active" else "active")
    messages.success(request, f"{project.name} is now {project.status}.")
    return redirect("projects:start")


@staff_member_required
@require_POST
def ask_for_budget(request: HttpRequest, key: int) -> HttpResponse:
    project = _project(key)
    try:
        amount = AMOUNT.clean(request.POST.get("amount", "500"))
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
        return redirect("projects:start")
    request_budget(project, amount, asked_by=request.user.get_username())
    messages.success(request, f"The boss is asked for {amount:.2f} for {project.name}.")
    return redirect("projects:start")


@staff_member_required
@require_POST
def answer(request: HttpRequest, execution_id: str) -> HttpResponse:
    signal = {"approved": "approve" in request.POST, "by": request.user.get_username()}
    try:
        execution = get_workflow_engine().resume(execution_id, signal, wait=QUESTION)
    except WorkflowError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"Answered; the workflow is {execution.state}.")
    return redirect("projects:start")


@staff_member_required
@require_POST
def invoice(request: HttpRequest, key: int) -> HttpResponse:
    project = _project(key)
    number = send_invoice(project, AMOUNT.clean(request.POST.get("amount", "900")))
    messages.success(request, f"Invoice {number} for {project.name} is on its way.")
    return redirect("projects:start")


@csrf_exempt
@require_POST
def payment_received(request: HttpRequest) -> HttpResponse:
    """The bank's webhook: a signal for the workflow of the invoice, verified by a token."""
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not constant_time_compare(token, settings.PAYMENT_WEBHOOK_TOKEN):
        return JsonResponse({"error": "wrong token"}, status=401)
    try:
        payment = loads(request.body)
        number, amount = str(payment["invoice"]), str(payment["amount"])
        report_payment(number, amount)
    except (JSONDecodeError, UnicodeDecodeError, TypeError, KeyError, ValueError):
        return JsonResponse({"error": "send an invoice and an amount"}, status=400)
    except WorkflowExecutionNotFoundError:
        return JsonResponse({"error": "there is no such invoice"}, status=404)
    except WorkflowInvalidStateError:
        return JsonResponse({"error": "this invoice is settled"}, status=409)
    return JsonResponse({"accepted": number}, status=202)


def _project(key: int) -> Project:
    try:
        return Project.get(id=key)
    except Project.get_model().DoesNotExist:
        raise Http404(f"Project {key} does not exist.") from None


def _shown(execution: WorkflowExecution, names: dict[Any, str]) -> dict[str, Any]:
    return {
        "execution": execution,
        "project": names.get(execution.input_data.get("project_id"), "-"),
        "amount": execution.input_data.get("amount"),
        "asked_by": execution.input_data.get("asked_by"),
    }
