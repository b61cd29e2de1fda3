"""Schedules: the list with last and next runs, and the page of one with its acts."""

from functools import partial
from typing import Any, Final
from zoneinfo import ZoneInfo

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.escaping import visible
from general_manager.workflow.admin.acts.schedules import (
    ACTS,
    REMOVE,
    RUN_NOW,
    ScheduleAct,
    schedule_situation,
)
from general_manager.workflow.admin.acts.seen import SEEN, sign
from general_manager.workflow.admin.acts.single import confirm_act, permitted_act
from general_manager.workflow.admin.base import DetailAdmin, may
from general_manager.workflow.admin.bounds import Bounded
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.fields.formats import (
    BREAK,
    NONE,
    ago,
    ahead,
    badge,
    isolated,
    text_block,
)
from general_manager.workflow.admin.fields.links import anchor
from general_manager.workflow.admin.fields.timelines import moments_of, timeline_lines
from general_manager.workflow.admin.pages import list_url, object_url
from general_manager.workflow.admin.scope import Reader, to_act_on
from general_manager.workflow.models import (
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowSchedule,
)
from general_manager.workflow.operations.moments import in_zone
from general_manager.workflow.operations.schedules import condition, last_tick, next_slots
from general_manager.workflow.operations.timeline import LARGE
from general_manager.workflow.schedules import SEPARATOR
from general_manager.workflow.scheduling.rows import active_executions

MOST_NOTES: Final = 100
"""Entries of its history that the page of a schedule or a pause shows, the latest ones."""


@admin.register(WorkflowSchedule)
class ScheduleAdmin(DetailAdmin):
    list_display = ("state", "what", "timing_and_zone", "last_run", "next_run")
    list_display_links = ("what",)
    list_defer = ("versions", "pause_reason")
    search_fields = ("name",)
    search_help_text = gettext_lazy("Name or workflow, or a part of it")
    ordering = ("name",)
    actions = (export_as_csv,)
    change_form_template = "admin/general_manager/schedule.html"
    fieldsets = (
        (
            gettext_lazy("Facts"),
            {
                "fields": (
                    "state", "name", "workflow_id", "timing", "tz", "coming", "missed", "overlap",
                    "last_run", "last_slot", "still_active", "skipped", "paused", "trouble",
                    "registered_at", "created_at",
                )
            },
        ),
    )  # fmt: skip
    export_fields = (
        "name", "workflow_id", "timing", "tz", "missed", "overlap", "next_at", "last_slot",
        "last_started_at", "skipped", "paused_at", "paused_by",
    )  # fmt: skip

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> tuple["QuerySet[Any]", bool]:
        term = search_term.strip()
        if not term or "\x00" in term:
            return (queryset.none() if term else queryset), False
        named, flows = (queryset.filter(**{f"{one}__icontains": term})
                        for one in ("name", "workflow_id"))  # fmt: skip
        return named | flows, False

    def complete(self, rows: list[Any], reader: Reader) -> list[Any]:
        """Set on each row the execution that it started last, with one statement for all."""
        super().complete(rows, reader)
        ids = {row.last_correlation_id for row in rows if row.last_correlation_id}
        found: dict[str, Any] = {}
        if ids:
            executions = reader.rows(WorkflowExecutionRecord).filter(correlation_id__in=ids)
            bounded = Bounded(WorkflowExecutionRecord).read(
                executions.order_by("pk").defer(*LARGE, "traceback")
            )
            found = {str(one.correlation_id): one for one in reader.seen(bounded)}
        now = timezone.now()
        tick = last_tick(rows[0]._state.db) if rows else None
        for row in rows:
            row.reader, row.last_execution = reader, found.get(row.last_correlation_id or "")
            row.condition = condition(row, now, tick)
        return rows

    @admin.display(description=gettext_lazy("State"))
    def state(self, row: Any) -> SafeString:
        return badge(row.condition)

    @admin.display(description=gettext_lazy("Schedule"))
    def what(self, row: WorkflowSchedule) -> SafeString:
        return format_html(
            '{}<br><span class="gm-quiet">{}</span>', isolated(row.name), isolated(row.workflow_id)
        )

    @admin.display(description=gettext_lazy("Runs at"))
    def timing_and_zone(self, row: WorkflowSchedule) -> SafeString:
        return format_html(
            '<code>{}</code><br><span class="gm-quiet">{}</span>',
            isolated(row.timing), isolated(row.tz),
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Last run"))
    def last_run(self, row: Any) -> SafeString | str:
        if row.last_started_at is None:
            return NONE
        started = ago(row.last_started_at)
        execution = row.last_execution
        if execution is None:
            return started
        url = row.links.to(WorkflowExecutionRecord, execution.pk)
        return format_html("{} {}", anchor(url, str(execution.state), str(execution)), started)

    @admin.display(description=gettext_lazy("Next run"))
    def next_run(self, row: Any) -> SafeString | str:
        if row.next_at is None or row.condition in ("paused", "unregistered"):
            return NONE
        at = in_zone(row.next_at).isoformat()
        return format_html('<time datetime="{0}" title="{0}">{1}</time>', at, ahead(row.next_at))

    @admin.display(description=gettext_lazy("Next slots"))
    def coming(self, row: WorkflowSchedule) -> SafeString | str:
        try:
            slots = next_slots(row.as_timing(), row.next_at)
        except (ValueError, OverflowError) as error:  # a row of another release, or of year 9999
            return isolated(error)
        zone = _zone_of(row)
        shown = (
            (f"{date_format(one.astimezone(zone), 'DATETIME_FORMAT')} {one.astimezone(zone):%Z}",)
            for one in slots
        )
        return format_html_join(BREAK, "{}", shown) or NONE

    @admin.display(description=gettext_lazy("Active executions"))
    def still_active(self, row: Any) -> SafeString | str:
        mine = row.reader.rows(WorkflowExecutionRecord)
        active = active_executions(row._state.db, row.name).filter(pk__in=mine.values("pk"))
        url = row.links.to_list(WorkflowExecutionRecord, q=f"{row.name}{SEPARATOR}")
        count = active[:1_001].count()
        link = anchor(url, _("all its executions"))
        return format_html("{} ({})", "1,000+" if count > 1_000 else count, link)

    @admin.display(description=gettext_lazy("Paused"))
    def paused(self, row: WorkflowSchedule) -> SafeString | str:
        if row.paused_at is None:
            return NONE
        by = visible(row.paused_by) or _("unknown")
        since = format_html(_("{} by {}"), ago(row.paused_at), by)
        return format_html("{}<br>{}", since, text_block(row.pause_reason, _("Reason")))

    @admin.display(description=gettext_lazy("Cannot start"))
    def trouble(self, row: WorkflowSchedule) -> SafeString:
        return text_block(row.error, _("Error"))

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.act_view)
        own = path("<int:key>/act/<slug:name>/", view, name="general_manager_schedule_act")
        return [own, *super().get_urls()]

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        notes = WorkflowHistory.objects.using(row._state.db).filter(schedule_id=row.pk)
        moments = reversed(moments_of(notes.order_by("-pk")[:MOST_NOTES]))
        return {
            "title": _("Schedule"),
            "name": visible(row.name),
            "badge": badge(row.condition),
            "acts": [
                {"label": act.label, "is_grave": act.is_grave, "url": self._act_url(row, act)}
                for act in ACTS.values()
                if may(request, act.permission) and act.why_not(row) is None
            ],
            "moments": timeline_lines(moments, row.links),
        }

    def _act_url(self, row: WorkflowSchedule, act: ScheduleAct) -> str:
        name, site = "admin:general_manager_schedule_act", self.admin_site.name
        seen = sign(schedule_situation(row, act))
        return f"{reverse(name, args=[row.pk, act.name], current_app=site)}?{SEEN}={seen}"

    def act_view(self, request: HttpRequest, key: int, name: str) -> HttpResponse:
        row = self.find_row(request, pk=key)
        act = permitted_act(ACTS, name, request)
        self.complete([row], self.reader(request))
        return confirm_act(
            self,
            request,
            row,
            act,
            now=schedule_situation(row, act),
            why_not=act.why_not(row),
            after=partial(self._after, row, act),
        )

    def _after(self, row: Any, act: ScheduleAct, result: Any) -> str:
        """The page to show next: that of the execution, if one was started."""
        if act is RUN_NOW and result is not None:
            return row.links.to_execution(result.execution_id) or object_url(self, row)
        rows = to_act_on(type(row).objects.filter(pk=row.pk))
        is_gone = act is REMOVE and not rows.exists()
        return list_url(self) if is_gone else object_url(self, row)


def _zone_of(row: WorkflowSchedule) -> Any:
    try:
        return ZoneInfo(row.tz)
    except (KeyError, ValueError, OSError):  # this machine does not know it
        return timezone.get_current_timezone()
