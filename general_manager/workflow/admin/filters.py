"""Cheap filters: no DISTINCT over a whole table, no range without an index."""

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
from general_manager.workflow.admin.fields.formats import STATE_NAMES
from general_manager.workflow.core.ids import MAX_ID_LENGTH, first_id_at
from general_manager.workflow.engine import TERMINAL_STATES, WorkflowState
from general_manager.workflow.models.children.duties import ended_before
from general_manager.workflow.models.queue import are_late
from general_manager.workflow.models.sql.columns import from_now
from general_manager.workflow.operations.overview import LATE

RECENT: Final = 500
"""Latest rows from which a filter collects its choices."""
MOST_CHOICES: Final = 100
"""Choices offered: the most frequent ones."""

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
    """The values of one column among the latest rows, and the selected one.

    The condition is a range of one value. For a column that equals a constant, PostgreSQL drops
    it from the ordering, walks the primary key's index, and scans all the latest rows for a rare
    or old value. A range that is ordered by the column uses the column's own index.
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


class SpanFilter(SimpleListFilter):
    """Filters by a time that lies at most so long ago."""

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> Iterable[Any]:
        return [(key, name) for key, (name, _span) in SPANS.items()]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        if self.value() not in SPANS:
            return queryset
        _name, span = SPANS[str(self.value())]
        return self.within(queryset, span)

    def within(self, queryset: "QuerySet[Any]", span: timedelta) -> "QuerySet[Any]":
        raise NotImplementedError


class StartedFilter(SpanFilter):
    """By the id, which begins with the time: no further index is needed."""

    title = _("started")
    parameter_name = "started"

    def within(self, queryset: "QuerySet[Any]", span: timedelta) -> "QuerySet[Any]":
        return queryset.filter(execution_id__gte=first_id_at(timezone.now() - span))


class EndedFilter(SpanFilter):
    title = _("ended")
    parameter_name = "ended"

    def within(self, queryset: "QuerySet[Any]", span: timedelta) -> "QuerySet[Any]":
        # The states too: the index on the end time begins with them.
        return queryset.filter(state__in=TERMINAL_STATES, ended_at__gte=from_now(-span))


class OverdueFilter(SimpleListFilter):
    title = _("overdue")
    parameter_name = "overdue"

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> Iterable[Any]:
        return [("yes", _("due, not picked up")), ("ended", _("ended, children or parent late"))]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        if self.value() == "ended":
            return queryset.filter(ended_before(LATE))
        return queryset.filter(are_late(queryset.db, LATE)) if self.value() else queryset
