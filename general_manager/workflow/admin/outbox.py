"""The outbox: what is still owed. Usually empty, and it says so."""

from hashlib import sha256
from typing import Any, Final

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.workflow.actors import acting_as
from general_manager.workflow.admin.base import ReadOnlyAdmin, may
from general_manager.workflow.admin.confirming import ManyRows, confirm_many, confirm_page
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.formats import NONE, ago, ahead, badge, json_block
from general_manager.workflow.admin.links import event_link
from general_manager.workflow.exceptions import ChangedMeanwhileError
from general_manager.workflow.messages import drain_outbox_soon
from general_manager.workflow.models import OutboxStatus, WorkflowOutbox
from general_manager.workflow.outbox import drain

MOST_NOW = 100
"""Entries that a request delivers itself when no broker takes the work."""


@admin.action(description=gettext_lazy("Release claims…"), permissions=["drain_outbox"])
def release_selected(
    page: "OutboxAdmin", request: HttpRequest, queryset: "QuerySet[Any]"
) -> HttpResponse | None:
    return confirm_many(page, request, queryset, RELEASE)


def _claim(row: WorkflowOutbox) -> str:
    """Which claim it is, without the token that proves it."""
    return sha256((row.claim_token or "").encode()).hexdigest()[:16]


def _release(row: WorkflowOutbox, seen: Any, values: dict[str, Any]) -> None:
    """Take the claim that was confirmed, and no later one."""
    same = WorkflowOutbox.objects.using(row._state.db).filter(
        pk=row.pk, claim_token=row.claim_token
    )
    if _claim(row) != seen or not same.release_claims():
        raise ChangedMeanwhileError(_("Its claim is not the one that you saw."))


RELEASE: Final = ManyRows(
    action="release_selected",
    title=gettext_lazy("Release claims"),
    done=gettext_lazy("Released."),
    sentence=gettext_lazy(
        "The entries are taken from the workers that have them and are due at once. What those "
        "workers still write for them is rolled back."
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
    list_display = ("state", "event_name", "owed", "due", "held_by")
    list_display_links = ("state",)
    list_select_related = ("event",)
    list_defer = ("event__payload", "event__metadata")
    actions = (release_selected, export_as_csv)
    change_list_template = "admin/general_manager/outbox_list.html"
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "state", "event_name", "owed_since", "available_at", "passes", "claimed_by",
                    "claimed_at", "recipients",
                )
            },
        ),
    )  # fmt: skip
    export_fields = (
        "event__event_id", "event__event_type", "status", "owed_since", "available_at", "passes",
        "claimed_by", "claimed_at",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> "QuerySet[WorkflowOutbox]":
        return super().get_queryset(request).filter(available_at__isnull=False)

    @admin.display(description=gettext_lazy("State"))
    def state(self, entry: WorkflowOutbox) -> SafeString:
        return badge(entry.status)

    @admin.display(description=gettext_lazy("Event"))
    def event_name(self, entry: WorkflowOutbox) -> SafeString:
        stored = entry.event
        return format_html(
            "{}<br>{}", stored.event_name or stored.event_type, event_link(stored.event_id)
        )

    @admin.display(description=gettext_lazy("Owed since"))
    def owed(self, entry: WorkflowOutbox) -> SafeString:
        return ago(entry.owed_since)

    @admin.display(description=gettext_lazy("Due"))
    def due(self, entry: WorkflowOutbox) -> str:
        return ahead(entry.available_at) if entry.available_at else NONE

    @admin.display(description=gettext_lazy("Held by"))
    def held_by(self, entry: WorkflowOutbox) -> str:
        return entry.claimed_by if entry.status == OutboxStatus.CLAIMED else NONE

    @admin.display(description=gettext_lazy("Owed to"))
    def recipients(self, entry: WorkflowOutbox) -> SafeString:
        return json_block(entry.owed_to)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.drain_view)
        return [path("drain/", view, name="general_manager_outbox_drain"), *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        extra = {**(extra_context or {}), "may_drain": may(request, "drain_outbox")}
        return super().changelist_view(request, extra)

    def drain_view(self, request: HttpRequest) -> HttpResponse:
        if not (self.has_view_permission(request) and may(request, "drain_outbox")):
            raise PermissionDenied
        back = reverse("admin:general_manager_workflowoutbox_changelist")
        if request.method == "POST":
            with acting_as(request.user):
                count = drain(limit=MOST_NOW)
            drain_outbox_soon(self.get_queryset(request).db)
            messages.success(request, _("%d taken up; workers go on with the rest.") % count)
            return HttpResponseRedirect(back)
        return confirm_page(
            self,
            request,
            title=_("Deliver now"),
            sentence=_(
                "Up to %d entries that are due are delivered by this very request; workers are "
                "asked to go on with the rest."
            ) % MOST_NOW,
        )  # fmt: skip

    def has_drain_outbox_permission(self, request: HttpRequest) -> bool:
        return may(request, "drain_outbox")
