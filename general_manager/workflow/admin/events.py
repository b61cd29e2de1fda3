"""Events: what was published, whom it reached, what it started; and to deliver one again."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.workflow.actors import acting_as
from general_manager.workflow.admin.base import ReadOnlyAdmin, may
from general_manager.workflow.admin.confirming import confirm_page, perform_one
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.filters import EventTypeFilter
from general_manager.workflow.admin.formats import (
    BREAK,
    NONE,
    STATE_NAMES,
    ago,
    badge,
    json_block,
    short_id,
)
from general_manager.workflow.admin.links import subject_of
from general_manager.workflow.admin.seen import SEEN, seen_of, sign
from general_manager.workflow.admin.telling import told
from general_manager.workflow.lookup import events_like
from general_manager.workflow.messages import drain_outbox_soon
from general_manager.workflow.models import (
    DeliveryStatus,
    OutboxStatus,
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
)
from general_manager.workflow.redaction import BLOT, readable, redact
from general_manager.workflow.replaying import Recipient, recipients, replay, statuses
from general_manager.workflow.timeline import timeline_of_event

MOST = 50


class ReplayForm(forms.Form):
    """To whom: by default only those that failed."""

    to = forms.MultipleChoiceField(
        label=gettext_lazy("Deliver again to"), widget=forms.CheckboxSelectMultiple
    )

    def __init__(self, *args: Any, known: list[Recipient], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        to: Any = self.fields["to"]
        to.choices = [(one.id, f"{one.id} ({_status(one)})") for one in known]
        to.initial = [one.id for one in known if one.has_failed]


@admin.register(WorkflowEventRecord)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("name", "which", "source", "when", "reached")
    list_display_links = ("name",)
    list_filter = (EventTypeFilter,)
    list_select_related = ("outbox",)
    list_defer = ("payload", "metadata")
    search_fields = ("event_id",)
    search_help_text = gettext_lazy(
        "An event id, or the beginning of one; or a business object, such as Invoice 7"
    )
    actions = (export_as_csv,)
    change_form_template = "admin/general_manager/event.html"
    fieldsets = (
        (
            gettext_lazy("Facts"),
            {
                "fields": (
                    "event_name", "event_type", "event_id", "subject", "source", "occurred_at",
                    "published_at", "entry",
                )
            },
        ),
        (gettext_lazy("Change"), {"fields": ("changes",)}),
        (gettext_lazy("Data"), {"fields": ("content", "about")}),
        (gettext_lazy("Deliveries and executions"), {"fields": ("deliveries", "executions")}),
    )  # fmt: skip
    export_fields = (
        "event_id", "event_type", "event_name", "source", "occurred_at", "published_at",
        "payload", "metadata",
    )  # fmt: skip

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return ("-event_type", "-pk") if request.GET.get("type") else ("-pk",)

    def complete(self, rows: list[Any]) -> list[Any]:
        """Count the deliveries of all rows at once, and not those of skipped pages too."""
        entries = {event.outbox.pk: event for event in rows if hasattr(event, "outbox")}
        for event in rows:
            event.delivered = event.dead = 0
        deliveries = WorkflowDeliveryAttempt.objects.filter(outbox__in=entries)
        each = deliveries.order_by().values_list("outbox", "status").annotate(count=Count("pk"))
        for entry, status, count in each:
            if status == DeliveryStatus.COMPLETED:
                entries[entry].delivered = count
            elif status == DeliveryStatus.DEAD_LETTER:
                entries[entry].dead = count
        return rows

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> tuple["QuerySet[Any]", bool]:
        if not search_term.strip():
            return queryset, False
        found, is_beginning = events_like(queryset, search_term)
        if is_beginning and request.method == "GET" and found.order_by().exists():
            text = _("No event has exactly the id “%s”: the ids of these begin with it.")
            messages.info(request, text % search_term.strip()[:100])
        return found, False

    @admin.display(description=gettext_lazy("Event"))
    def name(self, event: WorkflowEventRecord) -> SafeString:
        return format_html(
            '{}<br><span class="gm-quiet">{}</span>',
            event.event_name or event.event_type, event.event_type if event.event_name else "",
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Id"))
    def which(self, event: WorkflowEventRecord) -> SafeString:
        return short_id(event.event_id)

    @admin.display(description=gettext_lazy("Published"))
    def when(self, event: WorkflowEventRecord) -> SafeString:
        return ago(event.published_at)

    @admin.display(description=gettext_lazy("Reached"))
    def reached(self, event: Any) -> SafeString | str:
        outbox = getattr(event, "outbox", None)
        parts = [_("%d delivered") % event.delivered] if event.delivered else []
        parts += [_("%d dead") % event.dead] if event.dead else []
        text = " / ".join(parts) or _("nobody yet")
        if outbox is not None and outbox.status not in (OutboxStatus.PROCESSED,):
            return format_html("{} {}", badge(outbox.status), text)
        return text if parts else _("nobody wanted it")

    @admin.display(description=gettext_lazy("Outbox"))
    def entry(self, event: WorkflowEventRecord) -> SafeString | str:
        outbox = getattr(event, "outbox", None)
        return badge(outbox.status) if outbox is not None else NONE

    @admin.display(description=gettext_lazy("About"))
    def subject(self, event: WorkflowEventRecord) -> SafeString | str:
        payload = event.payload if isinstance(event.payload, dict) else {}
        manager = payload.get("manager")
        if not isinstance(manager, str):
            return NONE
        return subject_of(manager, payload.get("identification"))

    @admin.display(description=gettext_lazy("Fields"))
    def changes(self, event: WorkflowEventRecord) -> SafeString | str:
        """A manager's change as people compare it: field, old, new."""
        payload = event.payload if isinstance(event.payload, dict) else {}
        changes = redact(payload.get("changes"))
        if not isinstance(changes, dict) or not changes:
            return _values(redact(payload.get("values")))
        head = format_html(
            "<thead><tr><th>{}</th><th>{}</th><th>{}</th></tr></thead>",
            _("Field"), _("Old"), _("New"),
        )  # fmt: skip
        rows = format_html_join(
            "", "<tr><th>{}</th><td>{}</td><td>{}</td></tr>",
            ((name, _side(one, "old"), _side(one, "new")) for name, one in changes.items()),
        )  # fmt: skip
        table = '<table class="gm-table gm-changes">{}<tbody>{}</tbody></table>'
        return format_html(table, head, rows)

    @admin.display(description=gettext_lazy("Payload"))
    def content(self, event: WorkflowEventRecord) -> SafeString:
        return json_block(event.payload)

    @admin.display(description=gettext_lazy("Metadata"))
    def about(self, event: WorkflowEventRecord) -> SafeString:
        return json_block(event.metadata)

    @admin.display(description=gettext_lazy("Deliveries"))
    def deliveries(self, event: WorkflowEventRecord) -> SafeString | str:
        rows = WorkflowDeliveryAttempt.objects.filter(outbox__event=event).defer("traceback")
        lines = [
            (badge(row.status), row.registration_id, f"{row.error_class} {row.error[:200]}")
            for row in rows.order_by("pk")[:MOST]
        ]
        return format_html_join(BREAK, "{} <code>{}</code> {}", lines) or NONE

    @admin.display(description=gettext_lazy("Executions"))
    def executions(self, event: WorkflowEventRecord) -> SafeString | str:
        rows = WorkflowExecutionRecord.objects.filter(caused_by=event.event_id)
        rows = rows.only("pk", "execution_id", "workflow_id", "state").order_by("pk")
        name = "admin:general_manager_workflowexecutionrecord_change"
        lines = [(badge(row.state), reverse(name, args=[row.pk]), row) for row in rows[:MOST]]
        return format_html_join(BREAK, '{} <a href="{}">{}</a>', lines) or NONE

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        own = [
            path(
                "by-id/<path:event_id>/", view(self.by_id_view), name="general_manager_event_by_id"
            ),
            path("<int:key>/replay/", view(self.replay_view), name="general_manager_event_replay"),
        ]
        return [*own, *super().get_urls()]

    def by_id_view(self, request: HttpRequest, event_id: str) -> HttpResponse:
        found = WorkflowEventRecord.objects.filter(event_id=event_id).only("pk").first()
        if found is None:
            raise Http404(_("There is no event %s.") % event_id)
        return HttpResponseRedirect(
            reverse("admin:general_manager_workfloweventrecord_change", args=[found.pk])
        )

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        event = self.get_object(request, object_id)
        extra: dict[str, Any] = dict(extra_context or {})
        if event is not None and self.has_view_permission(request, event):
            extra["event"] = event
            extra["moments"] = told(timeline_of_event(event))
            extra["may_replay"] = may(request, "replay_event") and hasattr(event, "outbox")
            extra["title"] = _("Event")
            extra["subtitle"] = None  # the head says it, and more
        return super().change_view(request, object_id, form_url, extra)

    def replay_view(self, request: HttpRequest, key: int) -> HttpResponse:
        event = WorkflowEventRecord.objects.select_related("outbox").filter(pk=key).first()
        if event is None or not hasattr(event, "outbox"):
            raise Http404
        if not (self.has_view_permission(request, event) and may(request, "replay_event")):
            raise PermissionDenied
        known = recipients(event)
        form = ReplayForm(request.POST or None, known=known)
        back = reverse("admin:general_manager_workfloweventrecord_change", args=[event.pk])
        if request.method == "POST" and form.is_valid():
            chosen = form.cleaned_data["to"]
            seen = seen_of(request.POST)
            done = _("Owed again to %d handler(s).") % len(chosen)
            with acting_as(request.user):
                perform_one(self, request, event, done, lambda: replay(event, chosen, seen=seen))
            drain_outbox_soon(event._state.db or "default")
            return HttpResponseRedirect(back)
        return confirm_page(
            self,
            request,
            title=_("Deliver again"),
            sentence=_(
                "The chosen handlers run again with this event. A handler that completed before "
                "repeats what it does outside of the database, such as sending a mail."
            ),
            form=form if known else None,
            obj=event,
            seen=request.POST.get(SEEN) or sign(statuses(known)),
            why_not=None if known else _("No handler of this process wants this event."),
            preview=_("%d handler(s) want this event; those that failed are chosen.") % len(known),
        )


def _status(recipient: Recipient) -> str:
    status = recipient.status
    return str(STATE_NAMES.get(status, status)) if status else _("not had it yet")


def _values(values: Any) -> SafeString | str:
    """What a creation or a deletion carries: field, value."""
    if not isinstance(values, dict) or not values:
        return NONE
    head = format_html("<thead><tr><th>{}</th><th>{}</th></tr></thead>", _("Field"), _("Value"))
    rows = format_html_join(
        "", "<tr><th>{}</th><td>{}</td></tr>",
        ((name, _side({"new": value}, "new")) for name, value in values.items()),
    )  # fmt: skip
    table = '<table class="gm-table gm-changes">{}<tbody>{}</tbody></table>'
    return format_html(table, head, rows)


def _side(change: Any, side: str) -> str:
    value = change.get(side) if isinstance(change, dict) else change
    if value == BLOT or isinstance(value, str):
        return str(value)
    return NONE if value is None else readable(value, most=2_000)
