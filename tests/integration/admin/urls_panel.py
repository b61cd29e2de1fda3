"""A project whose own pages show the workflows of their object."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.urls import path

from general_manager.workflow.admin.events import EventAdmin
from general_manager.workflow.admin.executions import ExecutionAdmin
from general_manager.workflow.admin.panel import WorkflowsPanel
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from tests.testapp.models import Invoice, InvoiceLine, Ticket


class LineInline(admin.TabularInline):  # type: ignore[type-arg]  # generic for type checkers only
    model = InvoiceLine


class InvoiceAdmin(WorkflowsPanel, admin.ModelAdmin):  # type: ignore[type-arg]  # as above
    inlines = (LineInline,)


class TicketAdmin(WorkflowsPanel, admin.ModelAdmin):  # type: ignore[type-arg]  # as above
    change_form_template = "admin/general_manager/execution.html"  # a template of its own


class NarrowedExecutions(ExecutionAdmin):
    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).exclude(workflow_id="hidden")


class Site(admin.AdminSite):
    pass


site = Site()
site.register(Invoice, InvoiceAdmin)
site.register(Ticket, TicketAdmin)
site.register(WorkflowExecutionRecord, NarrowedExecutions)
site.register(WorkflowEventRecord, EventAdmin)
bare_site = admin.AdminSite(name="bare")
bare_site.register(Invoice, InvoiceAdmin)

TEXT = "{% load general_manager %}<p>{% workflows_of invoice site %}</p>"


def tagged(request: HttpRequest, pk: int) -> HttpResponse:
    """A page of the project, outside the admin."""
    template = engines["django"].from_string(TEXT)
    context = {"invoice": Invoice.objects.get(pk=pk), "site": site}
    return HttpResponse(template.render(context, request))


urlpatterns = [
    path("admin/", site.urls),
    path("bare/", bare_site.urls),
    path("invoice/<int:pk>/", tagged),
]
