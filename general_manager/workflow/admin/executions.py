"""Executions: the list, and one execution with its timeline and what may be done to it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.workflow.admin.acts import ACTS, IN_BULK, Act
from general_manager.workflow.admin.base import ReadOnlyAdmin, may
from general_manager.workflow.admin.confirming import confirm_many, confirm_page, perform_one
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.filters import (
    EndedFilter,
    OverdueFilter,
    StartedFilter,
    StateFilter,
    WorkflowFilter,
)
from general_manager.workflow.admin.formats import (
    NONE,
    UUID_LENGTH,
    ago,
    ahead,
    badge,
    in_short,
    json_block,
    short_id,
    text_block,
)
from general_manager.workflow.admin.links import event_link, subject_link
from general_manager.workflow.admin.telling import told
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from general_manager.workflow.timeline import last_line, timeline_of_execution

BIG = ("input_data", "output_data", "metadata", "traceback", "retry")
EARLIER = 10


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
class ExecutionAdmin(ReadOnlyAdmin):
    list_display = ("state_badge", "what", "which", "when", "note")
    list_display_links = ("which",)
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
        (gettext_lazy("Failure"), {"fields": ("error_text", "trace")}),
        (gettext_lazy("Others with this correlation id"), {"fields": ("earlier",)}),
    )  # fmt: skip
    export_fields = (
        "execution_id", "workflow_id", "version", "state", "correlation_id", "caused_by",
        "created_at", "started_at", "ended_at", "attempts", "crashes", "error", "input_data",
        "output_data",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        event = WorkflowEventRecord.objects.filter(event_id=OuterRef("caused_by"))
        rows: QuerySet[Any] = (
            super()
            .get_queryset(request)
            .annotate(
                subject_manager=Subquery(event.values("payload__manager")[:1]),
                subject_id=Subquery(event.values("payload__identification")[:1]),
            )
        )
        return rows

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> tuple["QuerySet[Any]", bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        if len(term) == UUID_LENGTH and term.count("-") == 4:
            return queryset.filter(execution_id=term.lower()), False
        return queryset.filter(correlation_id__startswith=term), False

    # The columns of the list

    @admin.display(description=gettext_lazy("State"))
    def state_badge(self, record: WorkflowExecutionRecord) -> SafeString:
        return badge(record.state)

    @admin.display(description=gettext_lazy("Workflow"))
    def what(self, record: WorkflowExecutionRecord) -> SafeString:
        return format_html(
            '{}<br><span class="gm-quiet">{}</span>',
            record.workflow_id, subject_link(record),
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Execution"))
    def which(self, record: WorkflowExecutionRecord) -> SafeString:
        return format_html(
            '{}<br><span class="gm-quiet">{}</span>',
            short_id(record.execution_id), record.correlation_id or "",
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Started"))
    def when(self, record: WorkflowExecutionRecord) -> SafeString:
        return ago(record.started_at or record.created_at)

    @admin.display(description=gettext_lazy("Note"))
    def note(self, record: WorkflowExecutionRecord) -> str:
        """The one thing worth knowing in each state."""
        if record.state == WorkflowState.FAILED:
            return last_line(record.error)
        if record.state == WorkflowState.WAITING:
            until = f" ({ahead(record.wake_at)})" if record.wake_at else ""
            if record.waiting_for is None:
                return _("sleeps%(until)s") % {"until": until}
            return _("waits for “%(name)s”%(until)s") % {"name": record.waiting_for, "until": until}
        if record.state == WorkflowState.PENDING and record.attempts and record.wake_at:
            return _("attempt %(number)d %(time)s") % {
                "number": record.attempts + 1, "time": ahead(record.wake_at),
            }  # fmt: skip
        took = self.duration(record)
        return took if took != NONE else ""

    # The fields of one execution

    @admin.display(description=gettext_lazy("Duration"))
    def duration(self, record: WorkflowExecutionRecord) -> str:
        if record.started_at is None:
            return NONE
        return in_short((record.ended_at or timezone.now()) - record.started_at)

    @admin.display(description=gettext_lazy("Counts"))
    def counts(self, record: WorkflowExecutionRecord) -> str:
        return _("runs: %(runs)d, failed attempts since the last step: %(attempts)d, "
                 "crashes since the last step: %(crashes)d") % {
            "runs": record.runs, "attempts": record.attempts, "crashes": record.crashes,
        }  # fmt: skip

    @admin.display(description=gettext_lazy("Looked at again"))
    def next_look(self, record: WorkflowExecutionRecord) -> str:
        return ahead(record.wake_at) if record.wake_at else NONE

    @admin.display(description=gettext_lazy("Event"))
    def event(self, record: WorkflowExecutionRecord) -> SafeString | str:
        return event_link(record.caused_by)

    @admin.display(description=gettext_lazy("About"))
    def subject(self, record: WorkflowExecutionRecord) -> SafeString | str:
        return subject_link(record) or NONE

    @admin.display(description=gettext_lazy("Continuation"))
    def continuation(self, record: WorkflowExecutionRecord) -> SafeString | str:
        before = record.metadata.get("continues") if isinstance(record.metadata, dict) else None
        if not before:
            return NONE
        return format_html('<a href="{}">{}</a>', by_id_url(str(before)), before)

    @admin.display(description=gettext_lazy("Input"))
    def input(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.input_data)

    @admin.display(description=gettext_lazy("Output"))
    def output(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.output_data)

    @admin.display(description=gettext_lazy("Metadata"))
    def about(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.metadata)

    @admin.display(description=gettext_lazy("Retry policy"))
    def retry_policy(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.retry)

    @admin.display(description=gettext_lazy("Error"))
    def error_text(self, record: WorkflowExecutionRecord) -> SafeString:
        return text_block(record.error or "", _("Error"))

    @admin.display(description=gettext_lazy("Traceback"))
    def trace(self, record: WorkflowExecutionRecord) -> SafeString:
        return text_block(record.traceback, _("Traceback"))

    @admin.display(description=gettext_lazy("Executions"))
    def earlier(self, record: WorkflowExecutionRecord) -> SafeString | str:
        if not record.correlation_id:
            return NONE
        same = WorkflowExecutionRecord.objects.filter(correlation_id=record.correlation_id)
        same = same.filter(workflow_id=record.workflow_id).exclude(pk=record.pk)
        rows = same.only("pk", "execution_id", "state", "created_at").order_by("-pk")[:EARLIER]
        links = [
            format_html('{} <a href="{}">{}</a>', badge(one.state), object_url(one.pk), one)
            for one in rows
        ]
        return SafeString("<br>").join(links) if links else NONE

    # The page of one execution

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
            execution=record,
            badge=badge(record.state),
            question=record.waiting_for if name == "answer" else None,
            why_not=why_not,
            is_grave=act.is_grave,
            back=object_url(record.pk),
        )

    def has_resume_execution_permission(self, request: HttpRequest) -> bool:
        return may(request, "resume_execution")

    def has_retry_execution_permission(self, request: HttpRequest) -> bool:
        return may(request, "retry_execution")

    def has_cancel_execution_permission(self, request: HttpRequest) -> bool:
        return may(request, "cancel_execution")


def object_url(key: Any) -> str:
    return reverse("admin:general_manager_workflowexecutionrecord_change", args=[key])


def by_id_url(execution_id: str) -> str:
    return reverse("admin:general_manager_execution_by_id", args=[execution_id])
