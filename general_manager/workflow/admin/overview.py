"""The first page: how things stand, what is wrong, and where to look."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.formats import date_format
from django.utils.timezone import localtime
from django.utils.translation import gettext as _

from general_manager.conf import get_workflow_settings
from general_manager.durations import in_words
from general_manager.escaping import visible
from general_manager.workflow.admin.base import APP, ReadOnlyAdmin
from general_manager.workflow.admin.bounds import SHORT
from general_manager.workflow.admin.formats import NONE, STATE_NAMES, ago
from general_manager.workflow.admin.links import Links
from general_manager.workflow.admin.local_mode import remembered
from general_manager.workflow.admin.pages import frame
from general_manager.workflow.admin.scope import Reader
from general_manager.workflow.engine import ACTIVE_STATES
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.health import Trouble, check_health, number
from general_manager.workflow.importing import describe, is_importable
from general_manager.workflow.models import (
    DeadLetter,
    Overview,
    WorkflowExecutionRecord,
    WorkflowOutbox,
)
from general_manager.workflow.overview import MOST_PER_HOUR, Details, Hour, look_closer
from general_manager.workflow.overview import Overview as Seen
from general_manager.workflow.timeline import last_line

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
    """A proxy model's list, so that it stands in the index and the sidebar by itself."""

    view_permission = "view_workflowexecutionrecord"

    def get_urls(self) -> list[URLPattern]:
        """The one page: its rows are executions, whose own pages know what to redact."""
        view = self.admin_site.admin_view(self.changelist_view)
        return [path("", view, name=f"{APP}_{self.opts.model_name}_changelist")]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        self.require_view(request)
        reader = self.reader(request)
        tables = reader.tables()
        health = check_health(tables=tables)
        seen, details = health.overview, look_closer(tables=tables)
        links = Links(reader)
        context = {
            **frame(self, request, title=_("Overview")),
            "refresh": REFRESH.get(request.GET.get("refresh", "")),
            "seen": seen,
            "troubles": [_with_link(one, links) for one in health.troubles],
            "is_empty": not any(seen.states.values()) and not tables.events.exists(),
            "cards": list(_cards(seen, links)),
            "chart": chart(details.hours),
            "outbox_rows": _outbox_rows(seen, links, reader),
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
            "handlers": registered(),
            # What is remembered has no queryset that a project could narrow.
            "remembered": None if reader.is_narrowed(EXECUTION) else remembered(),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/general_manager/overview.html", context)


def _with_link(trouble: Trouble, links: Links) -> dict[str, Any]:
    urls = {
        "dead-letters": links.to_list(DeadLetter),
        "old-work": links.to_list(WorkflowOutbox),
        "no-worker": links.to_list(WorkflowOutbox),
        "long-deliveries": links.to_list(WorkflowOutbox),
        "late-executions": links.to_list(EXECUTION, overdue="yes"),
    }
    url = urls.get(trouble.code, "")
    return {"message": trouble.message, "remedy": trouble.remedy, "url": url}


def _cards(seen: Seen, links: Links) -> Any:
    for state, count in seen.states.items():
        is_active = state in ACTIVE_STATES
        name = str(STATE_NAMES[state])
        span = {} if is_active else {"ended": "day"}
        yield {
            "number": number(count),
            "label": name if is_active else _("%(state)s, last 24 h") % {"state": name},
            "tone": state,
            "url": links.to_list(EXECUTION, state=state, **span),
        }


def _outbox_rows(seen: Seen, links: Links, reader: Reader) -> Iterator[Row]:
    """What this person may see of the outbox; who ticks and works is the same for everybody."""
    outbox = links.to_list(WorkflowOutbox)
    if reader.may_view(WorkflowOutbox):
        oldest = in_words(seen.at - seen.oldest_owed) if seen.oldest_owed else NONE
        yield Row(_("Undelivered"), number(seen.owed), outbox)
        yield Row(_("Age of the oldest"), oldest, outbox if seen.oldest_owed else "")
        yield Row(_("Being delivered"), number(seen.claimed), outbox)
    if reader.may_view(DeadLetter):
        yield Row(_("Dead letters"), number(seen.dead), links.to_list(DeadLetter))
    yield Row(_("Last tick"), ago(seen.last_tick) if seen.last_tick else _("never"))
    if get_workflow_settings().run_async:
        yield Row(_("Live workers"), visible(", ".join(seen.workers)) or _("none"))


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


def registered() -> list[dict[str, Any]]:
    """Who listens to what in this process."""
    return [
        {
            "key": one.key,
            "path": describe(one.handler),
            "is_importable": is_importable(one.handler),
        }
        for one in get_event_registry().registrations()
    ]


def chart(hours: list[Hour]) -> dict[str, Any]:
    """Bars for a server-side SVG of 480 by 120; each says in a title what it stands for."""
    peak = max((hour.ended for hour in hours), default=0)
    total, failed = sum(one.ended for one in hours), sum(one.failed for one in hours)
    bars = []
    for position, hour in enumerate(hours):
        height = round(CHART_HEIGHT * hour.ended / peak, 1) if peak else 0
        failed_height = round(CHART_HEIGHT * hour.failed / peak, 1) if peak else 0
        start = date_format(localtime(hour.start), "H:i")
        bars.append(
            {
                "x": str(position * BAR + 2),  # as text: in no language's own digits
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
