"""What one user may see: the scope that all pages share.

A project can narrow `get_queryset` or `has_view_permission` of our pages in a subclass, for example
to one tenant. Every other page shows those rows through that subclass.
"""

from collections.abc import Iterable
from typing import Any, Final

from django.contrib.admin import AdminSite, ModelAdmin
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from general_manager.workflow.models import (
    DeadLetter,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowLane,
    WorkflowOutbox,
    WorkflowPause,
    WorkflowSchedule,
)
from general_manager.workflow.operations.tables import Tables

_WHOLE: Final = "_general_manager_whole_table"


def is_whole_asked(request: HttpRequest) -> bool:
    """Whether a page that lists part of its table must return the scope of the whole table."""
    return getattr(request, _WHOLE, False)


def to_act_on(rows: "QuerySet[Any]") -> "QuerySet[Any]":
    """*rows* where they are written: a replica refuses writes, and lags behind what was written."""
    return rows.using(rows.select_for_update().db)


class Reader:
    """The user of a request on an admin site, and what that user may see."""

    def __init__(self, site: AdminSite, request: HttpRequest) -> None:
        self.site = site
        self.request = request

    def page(self, model: type[Model]) -> "ModelAdmin[Any] | None":
        return self.site._registry.get(model)

    def may_view(self, model: type[Model]) -> bool:
        """Whether *model* has a page that this user may view."""
        page = self.page(model)
        return page is not None and page.has_view_permission(self.request)

    def is_narrowed(self, model: type[Model]) -> bool:
        """Whether the project decides which rows of *model* users see."""
        page: Any = self.page(model)
        return page is None or page.is_narrowed()

    def rows(self, model: type[Model]) -> "QuerySet[Any]":
        """The rows of the model's table that this user may see: its page's scope, or none."""
        page = self.page(model)
        if page is None or not page.has_view_permission(self.request):
            return model._default_manager.none()
        setattr(self.request, _WHOLE, True)
        try:
            return page.get_queryset(self.request).order_by()
        finally:
            setattr(self.request, _WHOLE, False)

    def sees(self, row: Model) -> bool:
        """Whether this row of `rows` may be shown: a page may decide row by row."""
        page = self.page(type(row))
        return page is not None and page.has_view_permission(self.request, row)

    def seen(self, rows: Iterable[Any]) -> list[Any]:
        return [row for row in rows if self.sees(row)]

    def tables(self) -> Tables:
        return Tables(
            executions=self.rows(WorkflowExecutionRecord),
            events=self.rows(WorkflowEventRecord),
            entries=self.rows(WorkflowOutbox),
            deliveries=self.rows(DeadLetter),
            schedules=self.rows(WorkflowSchedule),
            lanes=self.rows(WorkflowLane),
            pauses=self.rows(WorkflowPause) if self.is_narrowed(WorkflowPause) else None,
            allows=self.sees,
        )
