"""Filters whose choices cost nothing: no DISTINCT over a table, no range without an index."""

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

from django.contrib.admin import ModelAdmin, SimpleListFilter
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import is_storable, visible
from general_manager.workflow.admin.formats import STATE_NAMES
from general_manager.workflow.engine import TERMINAL_STATES, WorkflowState
from general_manager.workflow.ids import MAX_ID_LENGTH, first_id_at
from general_manager.workflow.overview import LATE

RECENT: Final = 500
"""Rows that a filter looks at for its choices."""
MOST_CHOICES: Final = 100
"""Choices that it offers, the most frequent ones."""

SPANS: Final = {
    "hour": (_("the last hour"), timedelta(hours=1)),
    "day": (_("the last day"), timedelta(days=1)),
    "week": (_("the last week"), timedelta(days=7)),
}


class StateFilter(SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> Iterable[Any]:
        return [(state.value, STATE_NAMES[state]) for state in WorkflowState]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        if not self.value():
            return queryset
        is_known = self.value() in list(WorkflowState)
        return queryset.filter(state=self.value()) if is_known else queryset.none()


class RecentValuesFilter(SimpleListFilter):
    """The values of one column among the latest rows, and the one that was asked for.

    It asks for a range of one value. Where a column equals a constant, PostgreSQL drops it from the
    ordering, takes the primary key's index for the rest, and looks for what is rare or old among
    all the latest rows. A range that is ordered by the column leads it to the column's own index.
    """

    column = ""

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> Iterable[Any]:
        rows = model_admin.get_queryset(request).order_by("-pk")
        values = rows.values_list("pk", Left(self.column, MAX_ID_LENGTH + 1))[:RECENT]
        page: Any = model_admin
        seen = page.keys_seen(request, [key for key, _ in values])
        found = Counter(value for key, value in values if key in seen)
        known = [one for one, _ in found.most_common(MOST_CHOICES) if one and _is_an_id(one)]
        asked = request.GET.get(str(self.parameter_name))
        chosen = [asked] if asked and _is_an_id(asked) else []
        return [(one, visible(one)) for one in sorted({*known, *chosen})]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        value = self.value()
        if value and not _is_an_id(value):
            return queryset.none()
        one = {f"{self.column}__gte": value, f"{self.column}__lte": value}
        return queryset.filter(**one) if value else queryset


def _is_an_id(text: str) -> bool:
    return len(text) <= MAX_ID_LENGTH and is_storable(text)


class WorkflowFilter(RecentValuesFilter):
    title = _("workflow")
    parameter_name = "workflow"
    column = "workflow_id"


class EventTypeFilter(RecentValuesFilter):
    title = _("type")
    parameter_name = "type"
    column = "event_type"


class HandlerFilter(RecentValuesFilter):
    title = _("handler")
    parameter_name = "handler"
    column = "registration_id"


class StartedFilter(SimpleListFilter):
    """By the id, which begins with the time: that needs no index of its own."""

    title = _("started")
    parameter_name = "started"

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> Iterable[Any]:
        return [(key, name) for key, (name, _span) in SPANS.items()]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        if self.value() not in SPANS:
            return queryset
        _name, span = SPANS[str(self.value())]
        return queryset.filter(execution_id__gte=first_id_at(timezone.now() - span))


class EndedFilter(SimpleListFilter):
    title = _("ended")
    parameter_name = "ended"

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> Iterable[Any]:
        return [(key, name) for key, (name, _span) in SPANS.items()]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        if self.value() not in SPANS:
            return queryset
        _name, span = SPANS[str(self.value())]
        # The states too, because that is what the index on the time of the end begins with.
        return queryset.filter(state__in=TERMINAL_STATES, ended_at__gte=timezone.now() - span)


class OverdueFilter(SimpleListFilter):
    title = _("overdue")
    parameter_name = "overdue"

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> Iterable[Any]:
        return [("yes", _("due, and not taken up"))]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        return queryset.filter(wake_at__lt=timezone.now() - LATE) if self.value() else queryset
