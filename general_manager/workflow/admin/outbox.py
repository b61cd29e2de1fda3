"""The outbox: undelivered events. Usually empty, and the page says so."""

from hashlib import sha256
from typing import Any, Final

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from general_manager.escaping import get_logger
from general_manager.workflow.admin.acts.confirming import (
    ManyRows,
    confirm_many,
    confirm_page,
)
from general_manager.workflow.admin.acts.log import write_down_for_all
from general_manager.workflow.admin.base import ReadOnlyAdmin, may
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.fields.formats import (
    NONE,
    ago,
    ahead,
    badge,
    isolated,
    json_block,
)
from general_manager.workflow.admin.fields.links import event_cell, find_events
from general_manager.workflow.admin.pages import list_url
from general_manager.workflow.admin.scope import Reader, is_whole_asked, to_act_on
from general_manager.workflow.core.actors import acting_as
from general_manager.workflow.exceptions import ChangedMeanwhileError
from general_manager.workflow.models import OutboxStatus, WorkflowOutbox
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.outbox.drain import drain, drain_soon

logger = get_logger(__name__)

MOST_NOW = 100
"""Entries that a request delivers itself if no broker accepts the work."""


@admin.action(description=gettext_lazy("Release claims…"), permissions=["drain_outbox"])
def release_selected(
    page: "OutboxAdmin", request: HttpRequest, queryset: "QuerySet[Any]"
) -> HttpResponse | None:
    return confirm_many(page, request, queryset, RELEASE)


def _claim(row: WorkflowOutbox) -> str:
    """Identifies the claim without revealing its token."""
    return sha256((row.claim_token or "").encode()).hexdigest()[:16]


def _release(row: WorkflowOutbox, seen: Any, values: dict[str, Any]) -> None:
    """Release the claim that was confirmed, and no later one."""
    same = WorkflowOutbox.objects.using(row._state.db).filter(
        pk=row.pk, claim_token=row.claim_token
    )
    if _claim(row) != seen or not same.release_claims():
        raise ChangedMeanwhileError(_("Another claim has replaced the one that you confirmed."))


RELEASE: Final = ManyRows(
    action="release_selected",
    title=gettext_lazy("Release claims"),
    done=gettext_lazy("Released."),
    sentence=gettext_lazy(
        "The entries are taken from their workers and become due at once. What those workers "
        "still write for them is rolled back."
    ),
    refusals=lambda rows: {
        row.pk: _("It is not claimed.") for row in rows if row.status != OutboxStatus.CLAIMED
    },
    seen=_claim,
    perform=_release,
    counted=gettext_lazy("%(able)d of %(total)d can be released."),
    is_grave=True,
)


@admin.register(WorkflowOutbox)
class OutboxAdmin(ReadOnlyAdmin):
    list_display = ("state", "event_name", "undelivered", "due", "held_by")
    list_display_links = ("state",)
    list_defer = ("expected_registrations",)
    actions = (release_selected, export_as_csv)
    change_list_template = "admin/general_manager/outbox_list.html"
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "state", "event_name", "undelivered_since", "available_at", "visits",
                    "queue", "claimed_by", "claimed_at", "recipients",
                )
            },
        ),
    )  # fmt: skip
    export_fields = (
        "event__event_id", "event__event_type", "status", "undelivered_since", "available_at",
        "visits", "queue", "claimed_by", "claimed_at",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> "QuerySet[WorkflowOutbox]":
        rows = super().get_queryset(request)
        return rows if is_whole_asked(request) else rows.filter(available_at__isnull=False)

    def complete(self, rows: list[Any], reader: Reader) -> list[Any]:
        super().complete(rows, reader)
        find_events(rows, reader, lambda entry: entry.event_id)
        return rows

    @admin.display(description=gettext_lazy("State"))
    def state(self, entry: WorkflowOutbox) -> SafeString:
        return badge(entry.status)

    @admin.display(description=gettext_lazy("Event"))
    def event_name(self, entry: Any) -> SafeString | str:
        return event_cell(entry.event_seen, entry.links)

    @admin.display(description=gettext_lazy("Undelivered since"))
    def undelivered(self, entry: WorkflowOutbox) -> SafeString:
        return ago(entry.undelivered_since)

    @admin.display(description=gettext_lazy("Due"))
    def due(self, entry: WorkflowOutbox) -> str:
        return ahead(entry.available_at) if entry.available_at else NONE

    @admin.display(description=gettext_lazy("Held by"))
    def held_by(self, entry: WorkflowOutbox) -> str:
        return isolated(entry.claimed_by) if entry.status == OutboxStatus.CLAIMED else NONE

    @admin.display(description=gettext_lazy("Expected handlers"))
    def recipients(self, entry: WorkflowOutbox) -> SafeString:
        return json_block(entry.expected_registrations)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.drain_view)
        return [path("drain/", view, name="general_manager_outbox_drain"), *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        extra = {**(extra_context or {}), "may_drain": may(request, "drain_outbox")}
        return super().changelist_view(request, extra)

    def drain_view(self, request: HttpRequest) -> HttpResponse:
        self.require_view(request)
        if not may(request, "drain_outbox"):
            raise PermissionDenied
        why_not = None if self.sees_all_due(request) else _(
            "Some due entries are hidden from you, and this would deliver them too."
        )  # fmt: skip
        if request.method == "POST" and why_not is None:
            self._drain(request)
            return HttpResponseRedirect(list_url(self))
        return confirm_page(
            self,
            request,
            title=_("Deliver now"),
            why_not=why_not,
            sentence=ngettext(
                "This request delivers up to %d due entry itself; workers are "
                "asked to process the rest.",
                "This request delivers up to %d due entries itself; workers are "
                "asked to process the rest.",
                MOST_NOW,
            ) % MOST_NOW,
        )  # fmt: skip

    def is_narrowed(self) -> bool:
        return (type(self).get_queryset, type(self).has_view_permission) != _OURS

    def _drain(self, request: HttpRequest) -> None:
        """In all databases; for a user who does not see everything, in this page's own one."""
        own = to_act_on(self.get_queryset(request)).db
        count, away = 0, list[str]()
        for alias in [own] if self.is_narrowed() else outboxes():
            try:
                with acting_as(request.user):
                    count += drain(alias, limit=MOST_NOW - count)
                drain_soon(alias)
            except DatabaseError:
                logger.exception("The outbox of database %r could not be drained", alias)
                away.append(alias)
        done = ngettext(
            "%d event was processed. What failed is tried again, or is a dead letter now.",
            "%d events were processed. What failed is tried again, or is a dead letter now.",
            count,
        )
        write_down_for_all(self, request, done % count)
        if count or not away:
            messages.success(request, done % count)
        for alias in away:
            messages.error(request, _("Database “%s” could not be read: see the log.") % alias)

    def sees_all_due(self, request: HttpRequest) -> bool:
        """Whether this user may see all the entries that the drain would take."""
        due = to_act_on(WorkflowOutbox.objects.due()).order_by("available_at", "pk")
        keys = list(due.values_list("pk", flat=True)[:MOST_NOW])
        return len(self.keys_seen(request, self.keys_in_scope(request, keys))) == len(keys)

    def has_drain_outbox_permission(self, request: HttpRequest) -> bool:
        return may(request, "drain_outbox")


_OURS: Final = (OutboxAdmin.get_queryset, OutboxAdmin.has_view_permission)
