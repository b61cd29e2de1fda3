"""Executions: the list, and the page of one with its timeline and its acts."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.admin.acts.acting import Button, act_page, button
from general_manager.workflow.admin.acts.confirming import bulk_action
from general_manager.workflow.admin.acts.executions import ACTS, IN_BULK, Act, Standing
from general_manager.workflow.admin.acts.seen import situation
from general_manager.workflow.admin.base import DetailAdmin, may
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.fields.children import find_gathers
from general_manager.workflow.admin.fields.executions import ExecutionFields
from general_manager.workflow.admin.fields.formats import (
    badge,
)
from general_manager.workflow.admin.fields.links import find_subjects
from general_manager.workflow.admin.fields.timelines import timeline_lines
from general_manager.workflow.admin.filters import (
    EndedFilter,
    OverdueFilter,
    StartedFilter,
    StateFilter,
    WorkflowFilter,
)
from general_manager.workflow.admin.pages import object_url
from general_manager.workflow.admin.scope import Reader
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.exceptions import WorkflowExecutionNotFoundError
from general_manager.workflow.executions.lookup import executions_like
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from general_manager.workflow.operations.timeline import timeline_of_execution

FAMILY_FIELDS: Any = gettext_lazy("Family")
FAILURE: Any = (gettext_lazy("Failure"), {"fields": ("error_text", "trace")})


def _on_selected(act: Act) -> Any:
    return bulk_action(act, refusals=lambda rows: act.refusals(Standing(rows)), seen=situation)


@admin.register(WorkflowExecutionRecord)
class ExecutionAdmin(ExecutionFields, DetailAdmin):
    list_display = ("state_badge", "what", "which", "when", "note")
    list_display_links = ("which",)
    list_defer = (
        "input_data", "output_data", "metadata", "traceback", "retry", "attributes", "reports",
    )  # fmt: skip
    list_filter = (StateFilter, WorkflowFilter, StartedFilter, EndedFilter, OverdueFilter)
    search_fields = ("execution_id",)
    search_help_text = gettext_lazy(
        "Execution id, correlation id or event id, or its beginning; a business object such as "
        "Invoice 7; or attributes such as customer=7"
    )
    actions = (*map(_on_selected, IN_BULK), export_as_csv)
    change_form_template = "admin/general_manager/execution.html"
    fieldsets = (
        (
            gettext_lazy("Facts"),
            {
                "fields": (
                    "state_badge", "workflow_id", "version", "execution_id", "correlation_id",
                    "event", "subject_shown", "attributes_shown", "progress", "schedule",
                    "continuation", "created_at", "started_at", "ended_at", "duration", "counts",
                    "handler_path", "queue_and_priority", "limit", "in_line", "claimed_by",
                    "next_wake_up", "timeout", "time_left",
                )
            },
        ),
        (
            gettext_lazy("Signals and events"),
            {"fields": ("waits_for", "signals", "events_taken")},
        ),
        (
            FAMILY_FIELDS,
            {"fields": ("parent_shown", "root_shown", "children_shown")},
        ),
        (
            gettext_lazy("Data"),
            {"fields": ("input", "output", "about", "other_reports", "retry_policy")},
        ),
        FAILURE,
        (gettext_lazy("Others with this correlation id"), {"fields": ("earlier",)}),
    )  # fmt: skip
    export_fields = (
        "execution_id", "workflow_id", "version", "state", "correlation_id", "caused_by",
        "created_at", "started_at", "ended_at", "attempts", "crashes", "error", "input_data",
        "output_data", "subject", "attributes", "queue", "priority",
    )  # fmt: skip

    def complete(self, rows: list[Any], reader: Reader) -> list[Any]:
        for record in super().complete(rows, reader):
            record.reader = reader
        find_subjects(rows, reader)
        find_gathers(rows)
        return rows

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        found = super().get_fieldsets(request, obj)
        hidden = []
        if obj is not None and not (obj.error or obj.traceback):
            hidden.append(FAILURE[0])
        if obj is not None and not (obj.parent or obj.has_children):
            hidden.append(FAMILY_FIELDS)
        return [one for one in found if one[0] not in hidden]

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """Latest first; with a filter by state, those that ended last first.

        Searching the latest rows for a rare state may scan the whole table. Completed executions
        are not rare: there the other filters narrow more.
        """
        asked = {name for name, value in request.GET.items() if value}
        completed = request.GET.get("state") == WorkflowState.COMPLETED
        if "state" in asked and not (completed and asked & {"workflow", "started", "q"}):
            return ("-ended_at", "-pk")
        return ("-workflow_id", "-pk") if "workflow" in asked else ("-pk",)

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> tuple["QuerySet[Any]", bool]:
        if not search_term.strip():
            return queryset, False
        events = self.reader(request).rows(WorkflowEventRecord)
        found, is_beginning = executions_like(queryset, search_term, events)
        if is_beginning and request.method == "GET" and found.order_by().exists():
            text = _("No id or correlation id is exactly “%s”. These begin with it.")
            messages.info(request, text % visible(search_term.strip()[:100]))
        return found, False

    def get_urls(self) -> list[URLPattern]:
        act = self.admin_site.admin_view(self.act_view)
        by_id, name = self.admin_site.admin_view(self.by_id_view), "general_manager_execution_by_id"
        own = [
            path("<int:key>/act/<slug:name>/", act, name="general_manager_execution_act"),
            path("by-id/", by_id, name=name),
            path("by-id/<path:execution_id>/", by_id, name=name),
        ]
        return [*own, *super().get_urls()]

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return {
            **_head(row),
            "title": _("Execution"),
            "acts": self._acts(request, row),
            "moments": timeline_lines(timeline_of_execution(row, row.reader.tables()), row.links),
        }

    def _acts(self, request: HttpRequest, record: WorkflowExecutionRecord) -> Sequence[Button]:
        """The acts that are possible now and permitted to this user."""
        permitted = [act for act in ACTS.values() if may(request, act.permission)]
        now = Standing([record])
        return [button(record, act) for act in permitted if act.why_not(record, now) is None]

    def by_id_view(self, request: HttpRequest, execution_id: str | None = None) -> HttpResponse:
        """By id: in the path, or as ``?id=``, which can carry any text."""
        known_id = request.GET.get("id", "") if execution_id is None else execution_id
        return HttpResponseRedirect(object_url(self, self.find_row(request, execution_id=known_id)))

    def act_view(self, request: HttpRequest, key: int, name: str) -> HttpResponse:
        record = self.find_row(request, pk=key)
        act = ACTS.get(name)
        if act is None:
            raise Http404
        if not may(request, act.permission):
            raise PermissionDenied
        self.complete([record], self.reader(request))
        try:
            return act_page(self, request, record, act)
        except WorkflowExecutionNotFoundError:
            # Pruned just now, or not an id that an engine generates or finds.
            raise Http404 from None

    def has_resume_execution_permission(self, request: HttpRequest) -> bool:
        return may(request, "resume_execution")

    def has_retry_execution_permission(self, request: HttpRequest) -> bool:
        return may(request, "retry_execution")

    def has_cancel_execution_permission(self, request: HttpRequest) -> bool:
        return may(request, "cancel_execution")


def _head(record: WorkflowExecutionRecord) -> dict[str, Any]:
    """The texts that the templates show, every character visible."""
    return {
        "execution": record,
        "badge": badge(record.state),
        "name": visible(record.workflow_id[:MAX_TITLE]),
        "known_as": visible(record.execution_id[:MAX_TITLE]),
    }
