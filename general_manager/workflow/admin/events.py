"""Events: what was published, where it was delivered, what it started; deliver one again."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.formats import localize
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from general_manager.escaping import visible
from general_manager.workflow.admin.acts.confirming import confirm_page, perform_one
from general_manager.workflow.admin.acts.seen import SEEN, seen_of, sign
from general_manager.workflow.admin.base import DetailAdmin, may
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.fields.events import EventFields
from general_manager.workflow.admin.fields.formats import NONE, STATE_NAMES
from general_manager.workflow.admin.fields.timelines import timeline_lines
from general_manager.workflow.admin.filters import EventTypeFilter
from general_manager.workflow.admin.pages import object_url
from general_manager.workflow.admin.scope import Reader
from general_manager.workflow.executions.lookup import events_like
from general_manager.workflow.models import DeliveryStatus, WorkflowEventRecord
from general_manager.workflow.operations.moments import in_zone
from general_manager.workflow.operations.timeline import timeline_of_event
from general_manager.workflow.outbox.deliver_again import (
    Recipient,
    deliver_again,
    recipients,
    statuses,
)
from general_manager.workflow.outbox.drain import drain_soon


class RedeliverForm(forms.Form):
    """Chooses the handlers; preselects only those that failed."""

    to = forms.MultipleChoiceField(
        label=gettext_lazy("Deliver again to"), widget=forms.CheckboxSelectMultiple
    )

    def __init__(self, *args: Any, known: list[Recipient], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        to: Any = self.fields["to"]
        to.choices = [(one.id, f"{visible(one.id)} ({_status(one)})") for one in known]
        to.initial = [one.id for one in known if one.has_failed]


@admin.register(WorkflowEventRecord)
class EventAdmin(EventFields, DetailAdmin):
    list_display = ("name", "which", "source", "when", "reached")
    list_display_links = ("name",)
    list_filter = (EventTypeFilter,)
    list_defer = ("payload", "metadata")
    search_fields = ("event_id",)
    search_help_text = gettext_lazy(
        "Event id or its beginning, or a business object such as Invoice 7"
    )
    actions = (export_as_csv,)
    change_form_template = "admin/general_manager/event.html"
    fieldsets = (
        (
            gettext_lazy("Facts"),
            {
                "fields": (
                    "event_name", "event_type", "event_id", "concerns", "ordering_key", "source",
                    "occurred", "published_at", "entry",
                )
            },
        ),
        (gettext_lazy("Change"), {"fields": ("changes",)}),
        (gettext_lazy("Data"), {"fields": ("content", "about")}),
        (
            gettext_lazy("Deliveries and executions"),
            {"fields": ("deliveries", "executions", "answered")},
        ),
    )  # fmt: skip
    export_fields = (
        "event_id", "event_type", "event_name", "ordering_key", "source", "occurred_at",
        "published_at",
        "payload", "metadata",
    )  # fmt: skip

    @admin.display(description=gettext_lazy("Occurred at"))
    def occurred(self, event: WorkflowEventRecord) -> str:
        return NONE if event.occurred_at is None else str(localize(in_zone(event.occurred_at)))

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return ("-event_type", "-pk") if request.GET.get("type") else ("-pk",)

    def complete(self, rows: list[Any], reader: Reader) -> list[Any]:
        """Look up entries and deliveries of all rows of this page at once.

        Only those that this user may see: each has a page of its own.
        """
        tables = reader.tables()
        found = tables.entries.filter(event__in=[event.pk for event in rows]).defer(
            "expected_registrations"
        )
        entries = {entry.event_id: entry for entry in tables.seen(found)}
        deliveries = tables.deliveries.filter(outbox__event__in=[event.pk for event in rows])
        each = deliveries.values_list("outbox__event", "status").annotate(count=Count("pk"))
        counts = {(event, status): count for event, status, count in each}
        for event in super().complete(rows, reader):
            event.reader = reader
            event.entry_seen = entries.get(event.pk)
            event.delivered = counts.get((event.pk, DeliveryStatus.COMPLETED), 0)
            event.dead = counts.get((event.pk, DeliveryStatus.DEAD_LETTER), 0)
        return rows

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> tuple["QuerySet[Any]", bool]:
        if not search_term.strip():
            return queryset, False
        found, is_beginning = events_like(queryset, search_term)
        if is_beginning and request.method == "GET" and found.order_by().exists():
            text = _("No event has the exact id “%s”. These ids begin with it.")
            messages.info(request, text % visible(search_term.strip()[:100]))
        return found, False

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        by_id, name = view(self.by_id_view), "general_manager_event_by_id"
        own = [
            path("by-id/", by_id, name=name),
            path("by-id/<path:event_id>/", by_id, name=name),
            path(
                "<int:key>/deliver-again/",
                view(self.deliver_again_view),
                name="general_manager_event_deliver_again",
            ),
        ]
        return [*own, *super().get_urls()]

    def by_id_view(self, request: HttpRequest, event_id: str | None = None) -> HttpResponse:
        """By id: in the path, or as ``?id=``, which can carry any text."""
        known_id = request.GET.get("id", "") if event_id is None else event_id
        return HttpResponseRedirect(object_url(self, self.find_row(request, event_id=known_id)))

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return {
            "title": _("Event"),
            "event": row,
            "name": visible(row.event_name or row.event_type),
            "known_as": visible(row.event_id),
            "moments": timeline_lines(timeline_of_event(row, row.reader.tables()), row.links),
            "may_redeliver": may(request, "redeliver_event") and hasattr(row, "outbox"),
        }

    def deliver_again_view(self, request: HttpRequest, key: int) -> HttpResponse:
        event = self.find_row(request, joined=("outbox",), pk=key)
        if not may(request, "redeliver_event"):
            raise PermissionDenied
        if not hasattr(event, "outbox"):
            raise Http404
        known = recipients(event)
        form = RedeliverForm(request.POST or None, known=known)
        if request.method == "POST" and form.is_valid():
            chosen = list(dict.fromkeys(form.cleaned_data["to"]))
            seen = seen_of(request.POST)
            perform_one(
                self,
                request,
                event,
                _queued,
                lambda: deliver_again(event, chosen, seen=seen),
            )
            drain_soon(event._state.db or "default")
            return HttpResponseRedirect(object_url(self, event))
        matched = ngettext(
            "%d handler matches this event. It is preselected if it failed.",
            "%d handlers match this event. Those that failed are preselected.",
            len(known),
        )
        return confirm_page(
            self,
            request,
            title=_("Deliver again"),
            sentence=_(
                "The chosen handlers run again with this event. A handler that completed before "
                "repeats its effects outside the database, such as sending a mail."
            ),
            form=form if known else None,
            obj=event,
            seen=request.POST.get(SEEN) or sign(statuses(known)),
            why_not=None
            if known
            else _("No handler registered in this process matches this event."),
            preview=matched % len(known),
        )


def _queued(handlers: int) -> str:
    text = ngettext(
        "Queued for redelivery to %d handler.", "Queued for redelivery to %d handlers.", handlers
    )
    return text % handlers


def _status(recipient: Recipient) -> str:
    status = recipient.status
    return str(STATE_NAMES.get(status, status)) if status else _("not delivered yet")
