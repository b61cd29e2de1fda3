"""The first page: how things stand, what is wrong, and where to look."""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.timezone import localtime
from django.utils.translation import gettext as _

from general_manager.workflow.admin.base import ReadOnlyAdmin
from general_manager.workflow.admin.formats import NONE, STATE_NAMES, ago, in_short
from general_manager.workflow.admin.local_mode import remembered
from general_manager.workflow.admin.pages import frame
from general_manager.workflow.engine import ACTIVE_STATES
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.health import Trouble, check_health, number
from general_manager.workflow.importing import describe, is_importable
from general_manager.workflow.models import Overview, WorkflowEventRecord
from general_manager.workflow.overview import MOST_PER_HOUR, Details, Hour, look_closer
from general_manager.workflow.overview import Overview as Seen
from general_manager.workflow.timeline import last_line

REFRESH: Final = {"10": 10, "30": 30, "60": 60}
CHART_HEIGHT: Final = 112
BAR: Final = 20
EXECUTIONS: Final = "admin:general_manager_workflowexecutionrecord_changelist"
LETTERS: Final = "admin:general_manager_deadletter_changelist"
OUTBOX: Final = "admin:general_manager_workflowoutbox_changelist"


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

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        health = check_health()
        seen, details = health.overview, look_closer()
        context = {
            **frame(self, request, title=_("Overview")),
            "refresh": REFRESH.get(request.GET.get("refresh", "")),
            "seen": seen,
            "troubles": [_with_link(one) for one in health.troubles],
            "is_empty": not any(seen.states.values()) and not WorkflowEventRecord.objects.exists(),
            "cards": list(_cards(seen)),
            "chart": chart(details.hours),
            "outbox_rows": _outbox_rows(seen),
            "waiting": _waiting(details),
            "failures": _failures(details),
            "dead": [
                Row(name, count, f"{reverse(LETTERS)}?{urlencode({'handler': name})}")
                for name, count in details.dead_by_handler
            ],
            "failed": [
                Row(name, count, f"{_executions(state='failed', workflow=name, ended='day')}")
                for name, count in details.failed_by_workflow
            ],
            "handlers": registered(),
            "remembered": remembered(),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/general_manager/overview.html", context)


def _executions(**filters: str) -> str:
    return f"{reverse(EXECUTIONS)}?{urlencode(filters)}"


def _with_link(trouble: Trouble) -> dict[str, Any]:
    urls = {
        "dead-letters": reverse(LETTERS),
        "old-work": reverse(OUTBOX),
        "no-worker": reverse(OUTBOX),
        "long-deliveries": reverse(OUTBOX),
        "late-executions": _executions(overdue="yes"),
    }
    url = urls.get(trouble.code, "")
    return {"message": trouble.message, "remedy": trouble.remedy, "url": url}


def _cards(seen: Seen) -> Any:
    for state, count in seen.states.items():
        is_active = state in ACTIVE_STATES
        name = str(STATE_NAMES[state])
        yield {
            "number": number(count),
            "label": name if is_active else _("%(state)s, last 24 h") % {"state": name},
            "tone": state,
            "url": _executions(state=state) if is_active else _executions(state=state, ended="day"),
        }


def _outbox_rows(seen: Seen) -> list[Row]:
    oldest = in_short(seen.at - seen.oldest_owed) if seen.oldest_owed else NONE
    tick = ago(seen.last_tick) if seen.last_tick else _("never")
    return [
        Row(_("Owed"), number(seen.owed), reverse(OUTBOX)),
        Row(_("Oldest owed for"), oldest, reverse(OUTBOX) if seen.oldest_owed else ""),
        Row(_("Being delivered"), number(seen.claimed), reverse(OUTBOX)),
        Row(_("Dead letters"), number(seen.dead), reverse(LETTERS)),
        Row(_("Last tick of Beat"), tick),
        Row(_("Live workers"), ", ".join(seen.workers) or _("none")),
    ]


def _object(key: Any) -> str:
    return reverse("admin:general_manager_workflowexecutionrecord_change", args=[key])


def _waiting(details: Details) -> list[Row]:
    return [
        Row(one.workflow_id, one.waiting_for, _object(one.pk), ago(since or one.created_at))
        for one, since in details.waiting
    ]


def _failures(details: Details) -> list[Row]:
    return [
        Row(one.workflow_id, last_line(one.error), _object(one.pk), ago(one.ended_at))
        for one in details.failures
    ]


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
                "x": position * BAR + 2,
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
