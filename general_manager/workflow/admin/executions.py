"""Executions: the list, and one execution with its timeline and what may be done to it."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.admin.acting import Button, act_page, button
from general_manager.workflow.admin.acts import ACTS, IN_BULK, Act, Standing
from general_manager.workflow.admin.base import ReadOnlyAdmin, may
from general_manager.workflow.admin.confirming import ManyRows, confirm_many
from general_manager.workflow.admin.execution_fields import ExecutionFields
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.filters import (
    EndedFilter,
    OverdueFilter,
    StartedFilter,
    StateFilter,
    WorkflowFilter,
)
from general_manager.workflow.admin.formats import (
    badge,
)
from general_manager.workflow.admin.links import find_subjects
from general_manager.workflow.admin.pages import object_url
from general_manager.workflow.admin.scope import Reader
from general_manager.workflow.admin.seen import situation
from general_manager.workflow.admin.telling import told
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.exceptions import WorkflowExecutionNotFoundError
from general_manager.workflow.lookup import executions_like
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from general_manager.workflow.timeline import timeline_of_execution

FAILURE: Any = (gettext_lazy("Failure"), {"fields": ("error_text", "trace")})


def bulk_action(act: Act) -> Any:
    """The act on selected rows, as an action of the list."""
    many = ManyRows(
        action=f"{act.name}_selected",
        title=act.label,
        done=act.done,
        sentence=act.sentence,
        refusals=lambda rows: act.refusals(Standing(rows)),
        seen=situation,
        perform=act.perform_as_seen,
        counted=act.counted,
        form_class=act.form,
        is_grave=act.is_grave,
    )

    def selected(
        page: "ExecutionAdmin", request: HttpRequest, queryset: "QuerySet[Any]"
    ) -> HttpResponse | None:
        return confirm_many(page, request, queryset, many)

    selected.__name__ = f"{act.name}_selected"
    selected.short_description = act.label  # type: ignore[attr-defined]
    selected.allowed_permissions = (act.permission,)  # type: ignore[attr-defined]
    return selected


@admin.register(WorkflowExecutionRecord)
class ExecutionAdmin(ExecutionFields, ReadOnlyAdmin):
    list_display = ("state_badge", "what", "which", "when", "note")
    list_display_links = ("which",)
    list_defer = ("input_data", "output_data", "metadata", "traceback", "retry")
    list_filter = (StateFilter, WorkflowFilter, StartedFilter, EndedFilter, OverdueFilter)
    search_fields = ("execution_id",)
    search_help_text = gettext_lazy(
        "An execution id, a correlation id, the id of its event, or the beginning of one; or a "
        "business object, such as Invoice 7"
    )
    actions = (*(bulk_action(act) for act in IN_BULK), export_as_csv)
    change_form_template = "admin/general_manager/execution.html"
    fieldsets = (
        (
            gettext_lazy("Facts"),
            {
                "fields": (
                    "state_badge", "workflow_id", "version", "execution_id", "correlation_id",
                    "event", "subject", "continuation", "created_at", "started_at", "ended_at",
                    "duration", "counts", "handler_path", "claimed_by", "next_look", "timeout",
                )
            },
        ),
        (
            gettext_lazy("Data"),
            {"fields": ("input", "output", "about", "retry_policy")},
        ),
        FAILURE,
        (gettext_lazy("Others with this correlation id"), {"fields": ("earlier",)}),
    )  # fmt: skip
    export_fields = (
        "execution_id", "workflow_id", "version", "state", "correlation_id", "caused_by",
        "created_at", "started_at", "ended_at", "attempts", "crashes", "error", "input_data",
        "output_data",
    )  # fmt: skip

    def complete(self, rows: list[Any], reader: Reader) -> list[Any]:
        for record in super().complete(rows, reader):
            record.reader = reader
        find_subjects(rows, reader)
        return rows

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        found = super().get_fieldsets(request, obj)
        is_fine = obj is not None and not (obj.error or obj.traceback)
        return [one for one in found if one[0] != FAILURE[0]] if is_fine else found

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """The latest first; of one state, those that ended last.

        A database that looks for a rare state among the latest rows may go through all of them.
        What completed is not rare: then whatever else is asked for narrows more.
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
            text = _("No id or correlation id is exactly “%s”: these begin with it.")
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

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        record = self.get_object(request, unquote(object_id))
        extra: dict[str, Any] = dict(extra_context or {})
        if record is not None:
            extra |= _head(record)
            extra["acts"] = self._acts(request, record)
            extra["moments"] = told(
                timeline_of_execution(record, record.reader.tables()), record.links
            )
            extra["title"] = _("Execution")
            extra["subtitle"] = None  # the head says it, and more
        return super().change_view(request, object_id, form_url, extra)

    def _acts(self, request: HttpRequest, record: WorkflowExecutionRecord) -> Sequence[Button]:
        """Only what is legal now and permitted to this user."""
        permitted = [act for act in ACTS.values() if may(request, act.permission)]
        now = Standing([record])
        return [button(record, act) for act in permitted if act.why_not(record, now) is None]

    def by_id_view(self, request: HttpRequest, execution_id: str | None = None) -> HttpResponse:
        """In the path, or as ``?id=``, which carries every text."""
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
            # It was pruned just now; or its id is none that an engine makes or looks up.
            raise Http404 from None

    def has_resume_execution_permission(self, request: HttpRequest) -> bool:
        return may(request, "resume_execution")

    def has_retry_execution_permission(self, request: HttpRequest) -> bool:
        return may(request, "retry_execution")

    def has_cancel_execution_permission(self, request: HttpRequest) -> bool:
        return may(request, "cancel_execution")


def _head(record: WorkflowExecutionRecord) -> dict[str, Any]:
    """What the templates show of it, visibly."""
    return {
        "execution": record,
        "badge": badge(record.state),
        "name": visible(record.workflow_id[:MAX_TITLE]),
        "known_as": visible(record.execution_id[:MAX_TITLE]),
    }
