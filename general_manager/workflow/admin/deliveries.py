"""Dead letters: what failed for the last time, with every attempt; to replay or to discard."""

from typing import Any, Final

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet, prefetch_related_objects
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from general_manager.escaping import visible
from general_manager.workflow.admin.base import ReadOnlyAdmin, may
from general_manager.workflow.admin.bounds import Bounded
from general_manager.workflow.admin.confirming import (
    ManyRows,
    confirm_many,
    confirm_page,
    perform_one,
)
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.filters import HandlerFilter
from general_manager.workflow.admin.formats import NONE, ago, badge, isolated, text_block
from general_manager.workflow.admin.letter_acts import ACTS, LetterAct, why_not
from general_manager.workflow.admin.links import event_link, find_events
from general_manager.workflow.admin.pages import list_url
from general_manager.workflow.admin.scope import Reader, is_whole_asked
from general_manager.workflow.admin.seen import SEEN, dead_since, seen_of, sign
from general_manager.workflow.admin.telling import told
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.lookup import events_like
from general_manager.workflow.models import (
    DeadLetter,
    DeliveryStatus,
    WorkflowEventRecord,
    WorkflowHistory,
)
from general_manager.workflow.timeline import Moment, last_line

MOST_ATTEMPTS: Final = 100
MOST_FOUND: Final = 1_000
"""Events whose dead letters one search shows."""


def _refusals(letters: list[Any]) -> dict[Any, Any]:
    prefetch_related_objects(letters, "outbox")
    reasons = {letter.pk: why_not(letter) for letter in letters}
    return {key: reason for key, reason in reasons.items() if reason is not None}


def bulk_action(act: LetterAct) -> Any:
    many = ManyRows(
        action=f"{act.name}_selected",
        title=act.label,
        done=act.done,
        sentence=act.sentence,
        refusals=_refusals,
        seen=dead_since,
        perform=act.perform_as_seen,
        counted=act.counted,
        form_class=act.form,
        is_grave=act.is_grave,
    )

    def selected(
        page: "DeadLetterAdmin", request: HttpRequest, queryset: "QuerySet[Any]"
    ) -> HttpResponse | None:
        return confirm_many(page, request, queryset, many)

    selected.__name__ = f"{act.name}_selected"
    selected.short_description = act.label  # type: ignore[attr-defined]
    selected.allowed_permissions = (act.permission,)  # type: ignore[attr-defined]
    return selected


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    view_permission = "view_workflowdeliveryattempt"
    list_display = ("handler", "event", "tried", "failed", "why")
    list_display_links = ("handler",)
    list_filter = (HandlerFilter,)
    search_fields = ("outbox__event__event_id",)
    search_help_text = gettext_lazy(
        "The id of the event, or the beginning of it; or a business object, such as Invoice 7"
    )
    list_select_related = ("outbox",)
    list_defer = ("traceback", "outbox__owed_to")
    actions = (*(bulk_action(act) for act in ACTS.values()), export_as_csv)
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
        "registration_id", "outbox__event__event_id", "outbox__event__event_type", "passes",
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
        keys = list(events.order_by().values_list("pk", flat=True)[:MOST_FOUND])
        return queryset.filter(outbox__event__in=keys), False

    @admin.display(description=gettext_lazy("Handler"))
    def handler(self, letter: DeadLetter) -> SafeString:
        return format_html("<code>{}</code>", isolated(letter.registration_id))

    @admin.display(description=gettext_lazy("State"))
    def state(self, letter: DeadLetter) -> SafeString:
        return badge(letter.status)

    @admin.display(description=gettext_lazy("Event"))
    def event(self, letter: Any) -> SafeString | str:
        stored = letter.event_seen
        if stored is None:
            return NONE
        name = isolated(stored.event_name or stored.event_type)
        return format_html("{}<br>{}", name, event_link(stored, letter.links))

    @admin.display(description=gettext_lazy("Attempts"))
    def tried(self, letter: DeadLetter) -> str:
        text = ngettext("%d pass", "%d passes", letter.passes) % letter.passes
        if letter.crashes:
            died = ngettext("worker died %d time", "worker died %d times", letter.crashes)
            text = f"{text}, {died % letter.crashes}"
        return text

    @admin.display(description=gettext_lazy("Calls"))
    def calls(self, letter: DeadLetter) -> str:
        """Tries times passes, which nobody expects who set only one of the two."""
        passes = ngettext("%d pass", "%d passes", letter.passes) % letter.passes
        known = get_event_registry().find_registration(letter.registration_id)
        if known is None:
            return _("%s; how often each tries is not known: not registered in this process") % (
                passes
            )
        tries = known.retries + 1
        return _("%(passes)s of up to %(tries)d (retries=%(retries)d): up to %(sum)d calls") % {
            "passes": passes,
            "tries": tries,
            "retries": known.retries,
            "sum": letter.passes * tries,
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

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        letter = self.get_object(request, unquote(object_id))
        extra: dict[str, Any] = dict(extra_context or {})
        if letter is not None:
            rows = WorkflowHistory.objects.filter(delivery_id=letter.pk).order_by("pk")
            moments = [
                Moment(one.at, one.kind, by=one.by, detail=one.detail)
                for one in Bounded(WorkflowHistory).read(rows[:MOST_ATTEMPTS])
            ]
            extra["delivery"] = letter
            extra["name"] = visible(letter.registration_id)
            extra["badge"] = badge(letter.status)
            extra["attempts"] = told(moments, letter.links)
            extra["acts"] = [act for act in ACTS.values() if may(request, act.permission)]
            extra["seen"] = sign(dead_since(letter))
            extra["title"] = _("Dead letter")
            extra["subtitle"] = None  # the head says it, and more
        return super().change_view(request, object_id, form_url, extra)

    def act_view(self, request: HttpRequest, key: int, name: str) -> HttpResponse:
        letter = self.find_row(request, pk=key)
        act = ACTS.get(name)
        if act is None:
            raise Http404
        if not may(request, act.permission):
            raise PermissionDenied
        form: forms.Form = act.form(request.POST or None)
        now = dead_since(letter)
        if request.method == "POST" and form.is_valid():
            seen = seen_of(request.POST)
            values = form.cleaned_data
            perform_one(
                self, request, letter, act.done, lambda: act.perform_as_seen(letter, seen, values)
            )
            return HttpResponseRedirect(list_url(self))
        came_from = seen_of(request.GET)
        reason = why_not(letter)
        if came_from not in (None, now):
            reason = _("It has failed again since you looked: go back and look again.")
        return confirm_page(
            self,
            request,
            title=act.label,
            sentence=act.sentence,
            form=form,
            obj=letter,
            seen=request.POST.get(SEEN) or sign(now),
            why_not=reason,
            is_grave=act.is_grave,
        )

    def has_replay_delivery_permission(self, request: HttpRequest) -> bool:
        return may(request, "replay_delivery")

    def has_discard_delivery_permission(self, request: HttpRequest) -> bool:
        return may(request, "discard_delivery")
