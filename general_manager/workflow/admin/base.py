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
        return int(rows.order_by()[: MOST + 1].count())


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows rows; what changes them is a verb of its own, with a permission of its own."""

    ordering = ("-pk",)
    list_per_page = 50
    list_max_show_all = 0
    empty_value_display = NONE
    show_full_result_count = False
    paginator = CappedPaginator
    actions: tuple[Any, ...] = (export_as_csv,)
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

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return CalmChangeList


class CalmChangeList(ChangeList):
    """Never sorts by more than the index gives: Django would add every model's whole ordering."""

    def get_ordering(self, request: HttpRequest, queryset: "QuerySet[Any]") -> list[Any]:
        return ["-pk"]


def may(request: HttpRequest, codename: str) -> bool:
    """Whether the user has one of our permissions."""
    return bool(request.user.has_perm(f"{APP}.{codename}"))
