"""An admin whose pages are narrowed by subclasses, as a project with tenants writes them."""

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.urls import include, path

from general_manager.workflow.admin.dead_letters import DeadLetterAdmin
from general_manager.workflow.admin.events import EventAdmin
from general_manager.workflow.admin.executions import ExecutionAdmin
from general_manager.workflow.admin.lanes import LaneAdmin
from general_manager.workflow.admin.outbox import OutboxAdmin
from general_manager.workflow.admin.overview import OverviewAdmin
from general_manager.workflow.models import (
    DeadLetter,
    Overview,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowLane,
    WorkflowOutbox,
)

MINE = "mine"
THEIRS = "theirs"


class OwnEvents(EventAdmin):
    def get_queryset(self, request):
        return super().get_queryset(request).filter(source=MINE)


class OwnExecutions(ExecutionAdmin):
    def get_queryset(self, request):
        return super().get_queryset(request).filter(version=MINE)


class OwnLetters(DeadLetterAdmin):
    def get_queryset(self, request):
        return super().get_queryset(request).filter(outbox__event__source=MINE)


class OwnOutbox(OutboxAdmin):
    def get_queryset(self, request):
        return super().get_queryset(request).filter(event__source=MINE)


class OwnLanes(LaneAdmin):
    def get_queryset(self, request):
        return super().get_queryset(request).exclude(ordering_key__endswith=THEIRS)


class RowByRow:
    """The other way to narrow: each row is asked for."""

    def is_mine(self, obj):
        raise NotImplementedError

    def has_view_permission(self, request: HttpRequest, obj=None) -> bool:
        allowed = super().has_view_permission(request, obj)  # type: ignore[misc]
        return allowed and (obj is None or self.is_mine(obj))


class EventsRowByRow(RowByRow, EventAdmin):
    def is_mine(self, obj):
        return obj.source == MINE


class ExecutionsRowByRow(RowByRow, ExecutionAdmin):
    def is_mine(self, obj):
        return obj.version == MINE


class LettersRowByRow(RowByRow, DeadLetterAdmin):
    def is_mine(self, obj):
        return obj.outbox.event.source == MINE


class OutboxRowByRow(RowByRow, OutboxAdmin):
    def is_mine(self, obj):
        return obj.event.source == MINE


class LanesRowByRow(RowByRow, LaneAdmin):
    def is_mine(self, obj):
        return not obj.ordering_key.endswith(THEIRS)


def site(name, events, executions, letters, outbox, lanes=LaneAdmin):
    made = AdminSite(name)
    for model, page in (
        (WorkflowEventRecord, events), (WorkflowExecutionRecord, executions),
        (DeadLetter, letters), (WorkflowOutbox, outbox), (Overview, OverviewAdmin),
        (WorkflowLane, lanes),
    ):  # fmt: skip
        made.register(model, page)
    return made


narrowed = site("narrowed", OwnEvents, OwnExecutions, OwnLetters, OwnOutbox, OwnLanes)
row_by_row = site(
    "row_by_row", EventsRowByRow, ExecutionsRowByRow, LettersRowByRow, OutboxRowByRow, LanesRowByRow
)

urlpatterns = [
    path("admin/", site("admin", EventAdmin, ExecutionAdmin, DeadLetterAdmin, OutboxAdmin).urls),
    path("narrowed/", narrowed.urls),
    path("row_by_row/", row_by_row.urls),
    path("workflows/", include("general_manager.urls")),
]
