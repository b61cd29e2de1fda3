"""What the pages share: nothing is edited by hand, counts are capped, acts are asked first."""

from functools import cached_property
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.formats import NONE
from general_manager.workflow.models.counting import MOST

APP: str = "general_manager"


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no further than somebody turns pages: a full count of a large table takes long."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        # In the list's own order: else a planner may read a table up to where the first rows are.
        return int(rows.values("pk")[: MOST + 1].count())


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows rows; what changes them is a verb of its own, with a permission of its own."""

    ordering = ("-pk",)
    list_per_page = 50
    list_max_show_all = 0
    empty_value_display = NONE
    show_full_result_count = False
    paginator = CappedPaginator
    actions: tuple[Any, ...] = (export_as_csv,)
    list_defer: tuple[str, ...] = ()
    """Columns that may be large, and that the list does not show."""
    view_permission = ""
    """The permission to view, where it is another model's."""

    class Media:
        css = {"all": (f"{APP}/admin.css",)}  # noqa: RUF012 - Django's own form

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        if not self.view_permission:
            return super().has_view_permission(request, obj)
        return may(request, self.view_permission)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def complete(self, rows: list[Any]) -> list[Any]:
        """The rows of one page of the list, with what is looked up for all of them together."""
        return rows

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return CalmChangeList


class CalmChangeList(ChangeList):
    """Never sorts by more than the index gives: Django would add every model's whole ordering."""

    def get_ordering(self, request: HttpRequest, queryset: "QuerySet[Any]") -> list[Any]:
        return list(self.model_admin.get_ordering(request))

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> "QuerySet[Any]":
        page: Any = self.model_admin
        return super().get_queryset(request, *args, **kwargs).defer(*page.list_defer)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        page: Any = self.model_admin
        self.result_list: Any = page.complete(list(self.result_list))


def may(request: HttpRequest, codename: str) -> bool:
    """Whether the user has one of our permissions."""
    return bool(request.user.has_perm(f"{APP}.{codename}"))
