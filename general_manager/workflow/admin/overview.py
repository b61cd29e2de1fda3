"""The overview: current state, problems, and links to the rows behind them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.contrib import admin
from django.db import router
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.translation import gettext as _

from general_manager.conf import get_workflow_settings
from general_manager.durations import in_words
from general_manager.escaping import visible
from general_manager.names import APP_LABEL
from general_manager.workflow.admin.base import ReadOnlyAdmin
from general_manager.workflow.admin.bounds import SHORT
from general_manager.workflow.admin.fields.formats import NONE, STATE_NAMES, ago, ahead, badge
from general_manager.workflow.admin.fields.links import Links
from general_manager.workflow.admin.local_mode import remembered
from general_manager.workflow.admin.pages import frame
from general_manager.workflow.admin.scope import Reader
from general_manager.workflow.engine import ACTIVE_STATES
from general_manager.workflow.models import (
    DeadLetter,
    Overview,
    WorkflowExecutionRecord,
    WorkflowLane,
    WorkflowOutbox,
    WorkflowPause,
    WorkflowSchedule,
)
from general_manager.workflow.operations.health import Trouble, check_health
from general_manager.workflow.operations.lines import lines_in_use
from general_manager.workflow.operations.listeners import listeners
from general_manager.workflow.operations.moments import in_zone, last_line
from general_manager.workflow.operations.numbers import number
from general_manager.workflow.operations.overview import MOST_PER_HOUR, Details, Hour, read_details
from general_manager.workflow.operations.overview import Overview as OverviewData
from general_manager.workflow.operations.schedules import condition, in_this_process
from general_manager.workflow.pauses import Pause

REFRESH: Final = {one: one for one in ("10", "30", "60")}
CHART_HEIGHT: Final = 112
BAR: Final = 20
EXECUTION: Final = WorkflowExecutionRecord


@dataclass(frozen=True, slots=True)
class Row:
    label: Any
    value: Any
    url: str = ""
    extra: Any = ""


@admin.register(Overview)
class OverviewAdmin(ReadOnlyAdmin):
    """The list page of a proxy model, so that the admin's index and sidebar show it."""

    view_permission = "view_workflowexecutionrecord"

    def get_urls(self) -> list[URLPattern]:
        """Only the overview itself: its rows are executions, whose own pages redact them."""
        view = self.admin_site.admin_view(self.changelist_view)
        return [path("", view, name=f"{APP_LABEL}_{self.opts.model_name}_changelist")]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        self.require_view(request)
        reader = self.reader(request)
        tables = reader.tables()
        health = check_health(tables=tables)
        overview = health.overview
        home = router.db_for_read(EXECUTION)
        is_home = home not in health.away
        details = (
            read_details(tables=tables, at=overview.at) if is_home else Details([], [], [], [])
        )
        links = Links(reader)
        context = {
            **frame(self, request, title=_("Overview")),
            "refresh": REFRESH.get(request.GET.get("refresh", "")),
            "overview": overview,
            "troubles": [_with_link(one, links) for one in _shown(health.troubles, reader)],
            "is_empty": is_home
            and not any(overview.states.values())
            and not tables.events.exists(),
            "cards": list(_cards(overview, links)),
            "chart": chart(details.hours),
            "outbox_rows": _outbox_rows(overview, links, reader),
            "waiting": _waiting(details, links),
            "failures": _failures(details, links),
            "may_see_dead": reader.may_view(DeadLetter),
            "dead": [
                Row(visible(name), number(count), links.to_list(DeadLetter, handler=name))
                for name, count in details.dead_by_handler
            ],
            "failed": [
                Row(
                    visible(name),
                    number(count),
                    links.to_list(EXECUTION, state="failed", workflow=name, ended="day"),
                )
                for name, count in details.failed_by_workflow
            ],
            "handlers": listeners(),
            "schedules": list(_schedules(overview, links, reader)) if is_home else [],
            "lines": _lines(overview, reader),
            "pauses": _pauses(health.pauses, overview.at, links, reader),
            # Executions in memory have no queryset that a project could narrow.
            "remembered": None if reader.is_narrowed(EXECUTION) else remembered(),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/general_manager/overview.html", context)


def _shown(troubles: list[Trouble], reader: Reader) -> list[Trouble]:
    """Those whose names this user may read: not the values of limits, nor what is paused."""
    hidden: set[str] = set()
    if not _may_read_lines(reader):
        hidden |= {"standing-lines"}
    if not reader.may_view(WorkflowPause):
        hidden |= {"unknown-pauses", "long-pauses"}
    return [one for one in troubles if one.code not in hidden]


def _may_read_lines(reader: Reader) -> bool:
    """The labels of limits are values of executions, which a project may narrow."""
    return reader.may_view(EXECUTION) and not reader.is_narrowed(EXECUTION)


def _with_link(trouble: Trouble, links: Links) -> dict[str, Any]:
    urls = {
        "dead-letters": links.to_list(DeadLetter),
        "old-work": links.to_list(WorkflowOutbox),
        "blocked-lane": links.to_list(WorkflowLane),
        "late-lanes": links.to_list(WorkflowLane),
        "no-worker": links.to_list(WorkflowOutbox),
        "long-deliveries": links.to_list(WorkflowOutbox),
        "late-schedules": links.to_list(WorkflowSchedule),
        "unregistered-schedules": links.to_list(WorkflowSchedule),
        "schedules-ahead": links.to_list(WorkflowSchedule),
        "late-executions": links.to_list(EXECUTION, overdue="yes"),
        "late-ends": links.to_list(EXECUTION, overdue="ended"),
        "standing-lines": links.to_list(EXECUTION, state="running"),
    }
    url = urls.get(trouble.code, "")
    return {"message": trouble.message, "remedy": trouble.remedy, "url": url}


def _cards(overview: OverviewData, links: Links) -> Any:
    for state, count in overview.states.items():
        is_active = state in ACTIVE_STATES
        name = str(STATE_NAMES[state])
        span = {} if is_active else {"ended": "day"}
        yield {
            "number": number(count),
            "label": name if is_active else _("%(state)s, last 24 h") % {"state": name},
            "tone": state,
            "url": links.to_list(EXECUTION, state=state, **span),
        }


def _outbox_rows(overview: OverviewData, links: Links, reader: Reader) -> Iterator[Row]:
    """The outbox as far as this user may see it; ticks and workers are shown to everyone."""
    outbox = links.to_list(WorkflowOutbox)
    if reader.may_view(WorkflowOutbox):
        oldest = (
            in_words(overview.at - overview.oldest_undelivered)
            if overview.oldest_undelivered
            else NONE
        )
        yield Row(_("Undelivered"), number(overview.undelivered), outbox)
        yield Row(_("Age of the oldest"), oldest, outbox if overview.oldest_undelivered else "")
        yield Row(_("Being delivered"), number(overview.claimed), outbox)
    if reader.may_view(DeadLetter):
        yield Row(_("Dead letters"), number(overview.dead), links.to_list(DeadLetter))
    if reader.may_view(WorkflowLane) and overview.lanes:
        yield Row(_("Lanes"), number(overview.lanes), links.to_list(WorkflowLane))
    yield Row(_("Last tick"), ago(overview.last_tick) if overview.last_tick else _("never"))
    if get_workflow_settings().run_async:
        yield Row(_("Live workers"), visible(", ".join(overview.workers)) or _("none"))


def _schedules(overview: OverviewData, links: Links, reader: Reader) -> Iterator[Row]:
    """The schedules of this process: when each runs next, or why it does not."""
    listed = in_this_process()
    mine = reader.rows(WorkflowSchedule).filter(name__in=[one.name for one in listed])
    rows = {row.name: row for row in reader.seen(mine)} if listed else {}
    for one in listed:
        row, state, coming = rows.get(one.name), one.condition, one.next_at
        if row is not None and one.is_stored:
            state, coming = condition(row, overview.at, overview.last_tick), row.next_at
        runs = ahead(coming) if coming else NONE
        yield Row(
            visible(one.name),
            visible(f"{one.timing} ({one.tz})"),
            links.to(WorkflowSchedule, row.pk) if row is not None and one.is_stored else "",
            runs if state == "scheduled" else badge(state),
        )


def _lines(overview: OverviewData, reader: Reader) -> list[Row]:
    if not overview.lines or not _may_read_lines(reader):
        return []
    return [
        Row(
            visible(one.label),
            _("%(waiting)s in line, %(holders)s with a slot")
            % {"waiting": number(one.waiting), "holders": number(one.holders)},
            extra=format_html("{}; {}", one.numbers, ago(one.moved_at)),
        )
        for one in lines_in_use(router.db_for_read(EXECUTION))
    ]


def _pauses(pauses: list[Pause], at: datetime, links: Links, reader: Reader) -> list[Row]:
    """What is paused, for those who may see the page of pauses."""
    if not reader.may_view(WorkflowPause):
        return []
    return [
        Row(
            visible(f"{one.kind} {one.name[:SHORT]}"),
            _("for %(time)s by %(who)s")
            % {"time": in_words(at - one.since), "who": visible(one.by[:SHORT]) or NONE},
            links.to_list(WorkflowPause, q=one.name[:SHORT]),
            _("%s parked") % number(one.parked),
        )
        for one in pauses
    ]


def _waiting(details: Details, links: Links) -> list[Row]:
    return [
        Row(visible(one.workflow_id[:SHORT]), visible(str(one.waiting_for)[:SHORT]),
            links.to(EXECUTION, one.pk), ago(since or one.created_at))
        for one, since in details.waiting
    ]  # fmt: skip


def _failures(details: Details, links: Links) -> list[Row]:
    return [
        Row(visible(one.workflow_id[:SHORT]), visible(last_line(one.error_end)),
            links.to(EXECUTION, one.pk), ago(one.ended_at))
        for one in details.failures
    ]  # fmt: skip


def chart(hours: list[Hour]) -> dict[str, Any]:
    """Bars for a server-side SVG of 480 by 120, each with a title that explains it."""
    peak = max((hour.ended for hour in hours), default=0)
    total, failed = sum(one.ended for one in hours), sum(one.failed for one in hours)
    bars = []
    for position, hour in enumerate(hours):
        height = round(CHART_HEIGHT * hour.ended / peak, 1) if peak else 0
        failed_height = round(CHART_HEIGHT * hour.failed / peak, 1) if peak else 0
        start = date_format(in_zone(hour.start), "H:i")
        bars.append(
            {
                "x": str(position * BAR + 2),  # as text: never in a locale's own digits
                "y": f"{119 - height:.1f}",
                "height": f"{height:.1f}",
                "failed_y": f"{119 - failed_height:.1f}",
                "failed_height": f"{failed_height:.1f}" if failed_height else "",
                "title": _("from %(start)s: %(ended)d ended, %(failed)d of them failed")
                % {"start": start, "ended": hour.ended, "failed": hour.failed},
            }
        )
    more = "+" if peak > MOST_PER_HOUR else ""
    words = _("%(total)s ended, %(failed)s of them failed; at most %(peak)s in an hour") % {
        "total": f"{total:,}{more}",
        "failed": f"{failed:,}",
        "peak": f"{peak:,}{more}",
    }
    return {"bars": bars, "words": words}
