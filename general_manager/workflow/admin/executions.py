"""Executions: the list, and one execution with its timeline and what may be done to it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.workflow.admin.acts import ACTS, IN_BULK, Act
from general_manager.workflow.admin.base import ReadOnlyAdmin, may
from general_manager.workflow.admin.confirming import confirm_many, confirm_page, perform_one
from general_manager.workflow.admin.execution_fields import ExecutionFields, by_id_url, object_url
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.filters import (
    EndedFilter,
    OverdueFilter,
    StartedFilter,
    StateFilter,
    WorkflowFilter,
)
from general_manager.workflow.admin.formats import (
    UUID_LENGTH,
    badge,
)
from general_manager.workflow.admin.links import find_subjects
from general_manager.workflow.admin.telling import told
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.timeline import timeline_of_execution

FAILURE: Any = (gettext_lazy("Failure"), {"fields": ("error_text", "trace")})


def bulk_action(act: Act) -> Any:
    """The act on selected rows, as an action of the list."""

    def selected(
        page: "ExecutionAdmin", request: HttpRequest, queryset: "QuerySet[Any]"
    ) -> HttpResponse | None:
        return confirm_many(
            page,
            request,
            queryset,
            action=f"{act.name}_selected",
            title=act.label,
            done=act.done,
            sentence=act.sentence,
            allows=act.allows,
            perform=act.perform,
            form_class=partial(act.form),  # type: ignore[arg-type]
            is_grave=act.is_grave,
        )

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
    search_help_text = gettext_lazy("A whole execution id, or how a correlation id begins")
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

    def complete(self, rows: list[Any]) -> list[Any]:
        find_subjects(rows)
        return rows

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        found = super().get_object(request, object_id, from_field)
        if found is not None:
            find_subjects([found])
        return found

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        found = super().get_fieldsets(request, obj)
        is_fine = obj is not None and not (obj.error or obj.traceback)
        return [one for one in found if one is not FAILURE] if is_fine else found

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
        term = search_term.strip()
        if not term:
            return queryset, False
        if len(term) == UUID_LENGTH and term.count("-") == 4:
            # Correlation ids are often UUIDs too, for example those of events.
            is_it = Q(execution_id=term.lower()) | Q(correlation_id=term)
            return queryset.filter(is_it), False
        return queryset.filter(correlation_id__startswith=term), False

    def get_urls(self) -> list[URLPattern]:
        act = self.admin_site.admin_view(self.act_view)
        by_id = self.admin_site.admin_view(self.by_id_view)
        own = [
            path("<int:key>/act/<slug:name>/", act, name="general_manager_execution_act"),
            path("by-id/<str:execution_id>/", by_id, name="general_manager_execution_by_id"),
        ]
        return [*own, *super().get_urls()]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        record = self.get_object(request, object_id)
        extra: dict[str, Any] = dict(extra_context or {})
        if record is not None and self.has_view_permission(request, record):
            extra["execution"] = record
            extra["badge"] = badge(record.state)
            extra["acts"] = self._acts(request, record)
            extra["moments"] = told(timeline_of_execution(record))
            extra["title"] = _("Execution")
            extra["subtitle"] = None  # the head says it, and more
        return super().change_view(request, object_id, form_url, extra)

    def _acts(self, request: HttpRequest, record: WorkflowExecutionRecord) -> Sequence[Act]:
        """Only what is legal now and permitted to this user."""
        return [
            act
            for act in ACTS.values()
            if act.allows(record) is None and may(request, act.permission)
        ]

    def by_id_view(self, request: HttpRequest, execution_id: str) -> HttpResponse:
        found = WorkflowExecutionRecord.objects.filter(execution_id=execution_id).only("pk").first()
        if found is None:
            raise Http404(_("There is no execution %s.") % execution_id)
        return HttpResponseRedirect(object_url(found.pk))

    def act_view(self, request: HttpRequest, key: int, name: str) -> HttpResponse:
        act = ACTS.get(name)
        record = self.get_queryset(request).filter(pk=key).first()
        if act is None or record is None:
            raise Http404
        if not (self.has_view_permission(request, record) and may(request, act.permission)):
            raise PermissionDenied
        why_not = act.allows(record)
        form = act.form(request.POST or None, record=record)
        if request.method == "POST" and form.is_valid():
            # Also where it is not allowed any more: the engine tells what happened meanwhile.
            result = perform_one(
                self, request, record, act.done, lambda: act.perform(record, form.cleaned_data)
            )
            fresh = result.execution_id if result is not None else record.execution_id
            return HttpResponseRedirect(by_id_url(fresh))
        return confirm_page(
            self,
            request,
            title=act.label,
            sentence=act.sentence,
            form=form,
            obj=record,
            execution=record,
            badge=badge(record.state),
            question=record.waiting_for if name == "answer" else None,
            why_not=why_not,
            is_grave=act.is_grave,
        )

    def has_resume_execution_permission(self, request: HttpRequest) -> bool:
        return may(request, "resume_execution")

    def has_retry_execution_permission(self, request: HttpRequest) -> bool:
        return may(request, "retry_execution")

    def has_cancel_execution_permission(self, request: HttpRequest) -> bool:
        return may(request, "cancel_execution")
