"""What one person may see: the one scope that every door of the pages goes through.

A project narrows `get_queryset` or `has_view_permission` of our pages in a subclass, for example to
a tenant. Whatever another page shows of those rows, it shows through that subclass.
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
    WorkflowOutbox,
)
from general_manager.workflow.tables import Tables

_WHOLE: Final = "_general_manager_whole_table"


def is_whole_asked(request: HttpRequest) -> bool:
    """Whether a page that lists a part of its table is asked for the scope of the whole table."""
    return getattr(request, _WHOLE, False)


class Reader:
    """Who asks, on which site."""

    def __init__(self, site: AdminSite, request: HttpRequest) -> None:
        self.site = site
        self.request = request

    def page(self, model: type[Model]) -> "ModelAdmin[Any] | None":
        return self.site._registry.get(model)

    def may_view(self, model: type[Model]) -> bool:
        """Whether there is a page for *model*, and it is open to this person."""
        page = self.page(model)
        return page is not None and page.has_view_permission(self.request)

    def is_narrowed(self, model: type[Model]) -> bool:
        """Whether the project decides which rows of *model* people see."""
        page: Any = self.page(model)
        return page is None or page.is_narrowed()

    def rows(self, model: type[Model]) -> "QuerySet[Any]":
        """What this person may see of the model's table: its page's scope, or nothing."""
        page = self.page(model)
        if page is None or not page.has_view_permission(self.request):
            return model._default_manager.none()
        setattr(self.request, _WHOLE, True)
        try:
            return page.get_queryset(self.request).order_by()
        finally:
            setattr(self.request, _WHOLE, False)

    def sees(self, row: Model) -> bool:
        """Whether one row of `rows` may be shown: a page may decide row by row."""
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
            allows=self.sees,
        )
