"""Admins whose page of pauses is narrowed by a subclass, in both ways."""

from django.contrib.admin import AdminSite
from django.urls import include, path

from general_manager.workflow.admin.executions import ExecutionAdmin
from general_manager.workflow.admin.overview import OverviewAdmin
from general_manager.workflow.admin.pauses import PauseAdmin
from general_manager.workflow.models import Overview, WorkflowExecutionRecord, WorkflowPause


class OwnPauses(PauseAdmin):
    def get_queryset(self, request):
        return super().get_queryset(request).filter(name__startswith="mine")


class PausesRowByRow(PauseAdmin):
    def has_view_permission(self, request, obj=None):
        allowed = super().has_view_permission(request, obj)
        return allowed and (obj is None or obj.name.startswith("mine"))


def site(name, pauses):
    made = AdminSite(name)
    made.register(WorkflowPause, pauses)
    made.register(Overview, OverviewAdmin)
    made.register(WorkflowExecutionRecord, ExecutionAdmin)
    return made


urlpatterns = [
    path("admin/", site("admin", PauseAdmin).urls),
    path("narrowed/", site("narrowed", OwnPauses).urls),
    path("row_by_row/", site("row_by_row", PausesRowByRow).urls),
    path("workflows/", include("general_manager.urls")),
]
