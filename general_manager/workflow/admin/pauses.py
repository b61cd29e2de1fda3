"""Pauses: what is paused, since when, by whom, and how much it holds back."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.escaping import visible
from general_manager.workflow.admin.acts.confirming import confirm_page, perform_one
from general_manager.workflow.admin.acts.pauses import (
    PERMISSION,
    UNPAUSE,
    NewPauseForm,
    pause_once,
    pause_situation,
    why_not_here,
)
from general_manager.workflow.admin.acts.seen import SEEN, sign
from general_manager.workflow.admin.acts.single import confirm_act
from general_manager.workflow.admin.base import DetailAdmin, may
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.fields.formats import NONE, ago, badge, isolated, text_block
from general_manager.workflow.admin.fields.timelines import moments_of, timeline_lines
from general_manager.workflow.admin.pages import list_url, object_url
from general_manager.workflow.admin.schedules import MOST_NOTES
from general_manager.workflow.admin.scope import Reader, to_act_on
from general_manager.workflow.admission.pausing import count_parked
from general_manager.workflow.models import WorkflowHistory, WorkflowPause
from general_manager.workflow.operations.numbers import number


@admin.register(WorkflowPause)
class PauseAdmin(DetailAdmin):
    list_display = ("state", "what", "since", "why", "parked")
    list_display_links = ("what",)
    list_filter = ("kind",)
    search_fields = ("name",)
    search_help_text = gettext_lazy("Name of the workflow or registration, or a part of it")
    ordering = ("-paused_at",)
    actions = (export_as_csv,)
    change_form_template = "admin/general_manager/schedule.html"
    change_list_template = "admin/general_manager/pause_list.html"
    fieldsets = (
        (
            gettext_lazy("Facts"),
            {"fields": ("state", "kind", "name", "since", "why", "parked", "lifted_at")},
        ),
    )
    export_fields = ("kind", "name", "paused_at", "paused_by", "reason", "lifted_at")

    def complete(self, rows: list[Any], reader: Reader) -> list[Any]:
        """Set on each row how much it has parked, with one statement for all."""
        super().complete(rows, reader)
        if rows:
            alias = rows[0]._state.db
            for row, count in zip(rows, count_parked(alias, rows), strict=True):
                row.parked_count = count
        return rows

    @admin.display(description=gettext_lazy("State"))
    def state(self, row: WorkflowPause) -> SafeString:
        return badge("paused" if row.is_on else "lifted")

    @admin.display(description=gettext_lazy("Paused"))
    def what(self, row: WorkflowPause) -> SafeString:
        return format_html(
            '{}<br><span class="gm-quiet">{}</span>', isolated(row.name), isolated(row.kind)
        )

    @admin.display(description=gettext_lazy("Since"))
    def since(self, row: WorkflowPause) -> SafeString:
        by = visible(row.paused_by) or _("unknown")
        return format_html('{}<br><span class="gm-quiet">{}</span>', ago(row.paused_at), by)

    @admin.display(description=gettext_lazy("Reason"))
    def why(self, row: WorkflowPause) -> SafeString | str:
        return text_block(row.reason, _("Reason")) if row.reason else NONE

    @admin.display(description=gettext_lazy("Parked"))
    def parked(self, row: Any) -> str:
        return number(row.parked_count)

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        name = "general_manager_unpause"
        own = [
            path("pause/", wrap(self.pause_view), name="general_manager_pause"),
            path("<int:key>/unpause/", wrap(self.unpause_view), name=name),
        ]
        return [*own, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        extra = {"may_pause": may(request, PERMISSION), **(extra_context or {})}
        return super().changelist_view(request, extra)

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        notes = WorkflowHistory.objects.using(row._state.db).filter(pause_id=row.pk)
        moments = reversed(moments_of(notes.order_by("-pk")[:MOST_NOTES]))
        act = {"label": UNPAUSE.label, "is_grave": UNPAUSE.is_grave, "url": self._unpause_url(row)}
        return {
            "title": _("Pause"),
            "name": visible(row.name),
            "badge": badge("paused" if row.is_on else "lifted"),
            "acts": [act] if may(request, PERMISSION) and UNPAUSE.why_not(row) is None else [],
            "moments": timeline_lines(moments, row.links),
        }

    def _unpause_url(self, row: WorkflowPause) -> str:
        name = "admin:general_manager_unpause"
        url = reverse(name, args=[row.pk], current_app=self.admin_site.name)
        return f"{url}?{SEEN}={sign(pause_situation(row))}"

    def pause_view(self, request: HttpRequest) -> HttpResponse:
        self._require(request)
        form: forms.Form = NewPauseForm(request.POST or None)
        if form.is_valid() and not self._may_pause(request, form.cleaned_data):
            form.add_error("name", _("This name is not among those that you may pause."))
        if request.method == "POST" and form.is_valid() and not why_not_here():
            row = self._paused(request, form.cleaned_data)
            return HttpResponseRedirect(object_url(self, row) if row else list_url(self))
        return confirm_page(
            self,
            request,
            title=_("Pause…"),
            sentence=_(
                "From now on no worker begins it. What is running runs on; what comes meanwhile is "
                "parked, and nothing is lost or counted as a failure."
            ),
            form=form,
            why_not=why_not_here(),
        )

    def _may_pause(self, request: HttpRequest, values: dict[str, Any]) -> bool:
        """Whether the row would be in this user's scope: it is made, looked for and undone."""
        if not self.is_narrowed():
            return True
        rows = to_act_on(self.get_queryset(request))
        with transaction.atomic(using=rows.db):
            every = WorkflowPause.objects.using(rows.db)
            row, _made = every.get_or_create(kind=values["kind"], name=values["name"])
            found = rows.filter(pk=row.pk).exists() and self.has_view_permission(request, row)
            transaction.set_rollback(True, using=rows.db)
        return found

    def _paused(self, request: HttpRequest, values: dict[str, Any]) -> WorkflowPause | None:
        """The row, so that the log entry names it."""
        kind, name = values["kind"], values["name"]
        rows = to_act_on(WorkflowPause.objects.all())
        stub = WorkflowPause(kind=kind, name=name)

        def act() -> WorkflowPause:
            found = pause_once(kind, name, values["reason"])
            row: WorkflowPause = rows.get(kind=found.kind, name=found.name)
            stub.pk = row.pk
            return row

        row: WorkflowPause | None = perform_one(self, request, stub, _("Paused."), act)
        return row

    def unpause_view(self, request: HttpRequest, key: int) -> HttpResponse:
        self._require(request)
        row = self.find_row(request, pk=key)
        return confirm_act(
            self,
            request,
            row,
            UNPAUSE,
            now=pause_situation(row),
            why_not=UNPAUSE.why_not(row),
            after=lambda _result: object_url(self, row),
        )

    def _require(self, request: HttpRequest) -> None:
        self.require_view(request)
        if not may(request, PERMISSION):
            raise PermissionDenied
