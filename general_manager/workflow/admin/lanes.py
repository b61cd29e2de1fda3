"""Lanes: the keys whose events are delivered in order, with what waits and what blocks them."""

from typing import Any, Final

from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.escaping import visible
from general_manager.workflow.admin.acts.dead_letters import LANE_ACTS, LetterAct, why_not
from general_manager.workflow.admin.acts.seen import SEEN, dead_since, sign
from general_manager.workflow.admin.acts.single import confirm_act, permitted_act
from general_manager.workflow.admin.base import DetailAdmin, may
from general_manager.workflow.admin.bounds import Bounded, get_bounded
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
from general_manager.workflow.admin.fields.links import event_cell, find_events
from general_manager.workflow.admin.fields.timelines import moments_of, timeline_lines
from general_manager.workflow.admin.pages import list_url
from general_manager.workflow.admin.scope import Reader
from general_manager.workflow.models import (
    DeadLetter,
    DeliveryStatus,
    WorkflowDeliveryAttempt,
    WorkflowHistory,
    WorkflowLane,
)
from general_manager.workflow.models.sql.counting import MOST, count_capped

MOST_QUEUED: Final = 50
"""Events of a lane that its page lists, from the first."""
MOST_ATTEMPTS_OF_HEAD: Final = 100
NOT_LISTED: Final = (
    "traceback", "outbox__expected_registrations", "outbox__event__payload",
    "outbox__event__metadata",
)  # fmt: skip


@admin.register(WorkflowLane)
class LaneAdmin(DetailAdmin):
    list_display = ("state", "key", "length", "head", "blocked", "due")
    list_display_links = ("key",)
    search_fields = ("ordering_key",)
    search_help_text = gettext_lazy("Ordering key, such as order:7 or Invoice 7")
    actions = (export_as_csv,)
    change_form_template = "admin/general_manager/schedule.html"
    fieldsets = (
        (
            gettext_lazy("Facts"),
            {
                "fields": (
                    "state", "ordering_key", "registration_id", "queue", "length", "blocked",
                    "due", "held_by", "undelivered_since",
                )
            },
        ),
        (gettext_lazy("Next event"), {"fields": ("head", "error")}),
        (gettext_lazy("Queued"), {"fields": ("queued",)}),
    )  # fmt: skip
    export_fields = (
        "ordering_key", "registration_id", "queue", "available_at", "blocked_since", "claimed_by",
        "undelivered_since",
    )  # fmt: skip

    def complete(self, rows: list[Any], reader: Reader) -> list[Any]:
        """Set on each row its length and its head, with a few statements for all."""
        super().complete(rows, reader)
        if not rows:
            return rows
        alias = rows[0]._state.db or "default"
        items = reader.rows(DeadLetter).using(alias).filter(in_lane=True)
        counts = count_capped([items.filter(lane=row.lane) for row in rows], alias)
        lanes = WorkflowLane.objects.using(alias).filter(pk__in=[row.pk for row in rows])
        asked: Any = WorkflowDeliveryAttempt.objects.using(alias).first_in(lanes)
        heads = dict(asked.values_list("pk", "head"))
        letters = reader.rows(DeadLetter).using(alias).filter(pk__in=set(heads.values()) - {None})
        read = letters.select_related("outbox__event").defer(*NOT_LISTED)
        bounded = Bounded(DeadLetter, ("outbox__event",)).read(read)
        shown = {one.pk: one for one in reader.seen(bounded)}
        for row, count in zip(rows, counts, strict=True):
            row.first = shown.get(heads.get(row.pk))
            row.reader, row.count = reader, count
        found = [row for row in rows if row.first is not None]
        find_events(found, reader, lambda row: row.first.outbox.event_id)
        return rows

    @admin.display(description=gettext_lazy("State"))
    def state(self, row: Any) -> SafeString:
        return badge(_condition(row))

    @admin.display(description=gettext_lazy("Key"))
    def key(self, row: WorkflowLane) -> SafeString:
        return format_html(
            '{}<br><span class="gm-quiet">{}</span>',
            isolated(row.ordering_key), isolated(row.registration_id),
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Undelivered events"))
    def length(self, row: Any) -> str:
        return f"{MOST:,}+" if row.count > MOST else f"{row.count:,}"

    @admin.display(description=gettext_lazy("Next event"))
    def head(self, row: Any) -> SafeString | str:
        if row.first is None:
            return NONE
        status = badge(row.first.status)
        return format_html("{} {}", status, event_cell(row.event_seen, row.links))

    @admin.display(description=gettext_lazy("Blocked since"))
    def blocked(self, row: WorkflowLane) -> SafeString | str:
        return ago(row.blocked_since) if row.blocked_since else NONE

    @admin.display(description=gettext_lazy("Due"))
    def due(self, row: WorkflowLane) -> SafeString | str:
        return ahead(row.available_at) if row.available_at and not row.claim_token else NONE

    @admin.display(description=gettext_lazy("Held by"))
    def held_by(self, row: WorkflowLane) -> SafeString | str:
        return isolated(row.claimed_by) if row.claim_token else NONE

    @admin.display(description=gettext_lazy("Error"))
    def error(self, row: Any) -> SafeString | str:
        if row.first is None:
            return NONE
        letter = get_bounded(row.reader.rows(DeadLetter), pk=row.first.pk)
        return text_block(letter.error, _("Error"))

    @admin.display(description=gettext_lazy("In this order"))
    def queued(self, row: Any) -> SafeString | str:
        items = row.reader.rows(DeadLetter).filter(lane=row.lane, in_lane=True)
        read = items.select_related("outbox").defer("traceback", "outbox__expected_registrations")
        found = read.order_by("in_lane", "pk")[:MOST_QUEUED]
        listed = row.reader.seen(Bounded(DeadLetter, ("outbox",)).read(found))
        find_events(listed, row.reader, lambda item: item.outbox.event_id)
        lines = ((badge(one.status), event_cell(one.event_seen, row.links)) for one in listed)
        more = _("… and more") if row.count > MOST_QUEUED else ""
        return format_html("{}<br>{}", format_html_join(BREAK, "{} {}", lines) or NONE, more)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.act_view)
        own = path("<int:key>/act/<slug:name>/", view, name="general_manager_lane_act")
        return [own, *super().get_urls()]

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        head = row.first
        notes = WorkflowHistory.objects.using(row._state.db).filter(delivery_id=head and head.pk)
        moments = moments_of(notes.order_by("pk")[:MOST_ATTEMPTS_OF_HEAD])
        return {
            "title": _("Lane"),
            "name": visible(row.ordering_key),
            "badge": badge(_condition(row)),
            "acts": [
                {"label": act.label, "is_grave": act.is_grave, "url": self._act_url(row, act)}
                for act in LANE_ACTS.values()
                if may(request, act.permission) and _is_dead(head)
            ],
            "moments": timeline_lines(moments, row.links),
        }

    def _act_url(self, row: Any, act: LetterAct) -> str:
        name, site = "admin:general_manager_lane_act", self.admin_site.name
        seen = sign(dead_since(row.first))
        return f"{reverse(name, args=[row.pk, act.name], current_app=site)}?{SEEN}={seen}"

    def act_view(self, request: HttpRequest, key: int, name: str) -> HttpResponse:
        """An act on the dead letter at the head of the lane."""
        row = self.find_row(request, pk=key)
        act = permitted_act(LANE_ACTS, name, request)
        self.complete([row], self.reader(request))
        if row.first is None:
            raise Http404
        return confirm_act(
            self,
            request,
            row,
            act,
            on=row.first,
            now=dead_since(row.first),
            why_not=why_not(row.first),
            after=lambda _result: list_url(self),
        )


def _is_dead(head: Any) -> bool:
    return head is not None and head.status == DeliveryStatus.DEAD_LETTER


def _condition(row: Any) -> str:
    if row.blocked_since is not None:
        return "blocked"
    if row.claim_token is not None:
        return "claimed"
    is_delayed = row.available_at is not None and row.available_at > timezone.now()
    return "delayed" if is_delayed else "pending"
