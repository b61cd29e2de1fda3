"""Dead letters: deliveries that failed for good, with every attempt; to requeue or discard."""

from typing import Any, Final

from django.contrib import admin
from django.db.models import QuerySet, prefetch_related_objects
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from general_manager.escaping import visible
from general_manager.workflow.admin.acts.confirming import (
    bulk_action,
)
from general_manager.workflow.admin.acts.dead_letters import ACTS, why_not
from general_manager.workflow.admin.acts.seen import dead_since, sign
from general_manager.workflow.admin.acts.single import confirm_act, permitted_act
from general_manager.workflow.admin.base import DetailAdmin, may
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.fields.formats import ago, badge, isolated, text_block
from general_manager.workflow.admin.fields.links import event_cell, find_events
from general_manager.workflow.admin.fields.timelines import moments_of, timeline_lines
from general_manager.workflow.admin.filters import HandlerFilter
from general_manager.workflow.admin.pages import list_url
from general_manager.workflow.admin.scope import Reader, is_whole_asked
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.executions.lookup import events_like
from general_manager.workflow.models import (
    DeadLetter,
    DeliveryStatus,
    WorkflowEventRecord,
    WorkflowHistory,
)
from general_manager.workflow.operations.moments import last_line

MOST_ATTEMPTS: Final = 100
MOST_EVENTS: Final = 1_000
"""At most so many events are searched for dead letters."""


def _refusals(letters: list[Any]) -> dict[Any, Any]:
    prefetch_related_objects(letters, "outbox")
    reasons = {letter.pk: why_not(letter) for letter in letters}
    return {key: reason for key, reason in reasons.items() if reason is not None}


@admin.register(DeadLetter)
class DeadLetterAdmin(DetailAdmin):
    view_permission = "view_workflowdeliveryattempt"
    list_display = ("handler", "event", "tried", "failed", "why")
    list_display_links = ("handler",)
    list_filter = (HandlerFilter,)
    search_fields = ("outbox__event__event_id",)
    search_help_text = gettext_lazy(
        "Event id or its beginning, or a business object such as Invoice 7"
    )
    list_select_related = ("outbox",)
    list_defer = ("traceback", "outbox__expected_registrations")
    actions = (
        *(bulk_action(act, refusals=_refusals, seen=dead_since) for act in ACTS.values()),
        export_as_csv,
    )
    change_form_template = "admin/general_manager/delivery.html"
    fieldsets = (
        (
            gettext_lazy("Facts"),
            {
                "fields": (
                    "state", "registration_id", "event", "tried", "calls", "started_at",
                    "first_failed_at", "finished_at",
                )
            },
        ),
        (gettext_lazy("Failure"), {"fields": ("error_class", "error_text", "trace")}),
    )  # fmt: skip
    export_fields = (
        "registration_id", "outbox__event__event_id", "outbox__event__event_type", "attempts",
        "crashes", "first_failed_at", "finished_at", "error_class", "error",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> "QuerySet[DeadLetter]":
        rows = super().get_queryset(request)
        return rows if is_whole_asked(request) else rows.filter(status=DeliveryStatus.DEAD_LETTER)

    def complete(self, rows: list[Any], reader: Reader) -> list[Any]:
        super().complete(rows, reader)
        find_events(rows, reader, lambda letter: letter.outbox.event_id)
        return rows

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> tuple["QuerySet[Any]", bool]:
        if not search_term.strip():
            return queryset, False
        events, _is_beginning = events_like(
            self.reader(request).rows(WorkflowEventRecord).using(queryset.db), search_term
        )
        keys = list(events.order_by().values_list("pk", flat=True)[:MOST_EVENTS])
        return queryset.filter(outbox__event__in=keys), False

    @admin.display(description=gettext_lazy("Handler"))
    def handler(self, letter: DeadLetter) -> SafeString:
        return format_html("<code>{}</code>", isolated(letter.registration_id))

    @admin.display(description=gettext_lazy("State"))
    def state(self, letter: DeadLetter) -> SafeString:
        return badge(letter.status)

    @admin.display(description=gettext_lazy("Event"))
    def event(self, letter: Any) -> SafeString | str:
        return event_cell(letter.event_seen, letter.links)

    @admin.display(description=gettext_lazy("Attempts"))
    def tried(self, letter: DeadLetter) -> str:
        text = ngettext("%d pass", "%d passes", letter.attempts) % letter.attempts
        if letter.crashes:
            died = ngettext("worker died %d time", "worker died %d times", letter.crashes)
            text = f"{text}, {died % letter.crashes}"
        return text

    @admin.display(description=gettext_lazy("Calls"))
    def calls(self, letter: DeadLetter) -> str:
        """Tries times passes: a surprising number for users who set only one of the two."""
        passes = ngettext("%d pass", "%d passes", letter.attempts) % letter.attempts
        known = get_event_registry().find_registration(letter.registration_id)
        if known is None:
            return _(
                "%s; tries in each pass unknown: the handler is not registered in this process"
            ) % (passes)
        tries, calls = known.retries + 1, letter.attempts * (known.retries + 1)
        text = _("%(passes)s with up to %(tries)s each (retries=%(retries)d): up to %(calls)s")
        return text % {
            "passes": passes,
            "tries": ngettext("%d try", "%d tries", tries) % tries,
            "retries": known.retries,
            "calls": ngettext("%d call", "%d calls", calls) % calls,
        }

    @admin.display(description=gettext_lazy("Failed"))
    def failed(self, letter: DeadLetter) -> SafeString:
        return ago(letter.finished_at)

    @admin.display(description=gettext_lazy("Why"))
    def why(self, letter: DeadLetter) -> SafeString:
        kind = letter.error_class.rpartition(".")[2]
        return format_html(
            '{}<br><span class="gm-quiet">{}</span>',
            isolated(kind), isolated(last_line(letter.error)),
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Error"))
    def error_text(self, letter: DeadLetter) -> SafeString:
        return text_block(letter.error, _("Error"))

    @admin.display(description=gettext_lazy("Traceback"))
    def trace(self, letter: DeadLetter) -> SafeString:
        return text_block(letter.traceback, _("Traceback"))

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.act_view)
        own = path("<int:key>/act/<slug:name>/", view, name="general_manager_delivery_act")
        return [own, *super().get_urls()]

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        notes = WorkflowHistory.objects.using(row._state.db)
        rows = notes.filter(delivery_id=row.pk).order_by("pk")
        moments = moments_of(rows[:MOST_ATTEMPTS])
        return {
            "title": _("Dead letter"),
            "delivery": row,
            "name": visible(row.registration_id),
            "badge": badge(row.status),
            "attempts": timeline_lines(moments, row.links),
            "acts": [act for act in ACTS.values() if may(request, act.permission)],
            "seen": sign(dead_since(row)),
        }

    def act_view(self, request: HttpRequest, key: int, name: str) -> HttpResponse:
        letter = self.find_row(request, joined=("outbox",), pk=key)
        return confirm_act(
            self,
            request,
            letter,
            permitted_act(ACTS, name, request),
            now=dead_since(letter),
            why_not=why_not(letter),
            changed=_("It has failed again since you opened the page. Go back and check it first."),
            after=lambda _result: list_url(self),
        )

    def has_requeue_delivery_permission(self, request: HttpRequest) -> bool:
        return may(request, "requeue_delivery")

    def has_discard_delivery_permission(self, request: HttpRequest) -> bool:
        return may(request, "discard_delivery")
