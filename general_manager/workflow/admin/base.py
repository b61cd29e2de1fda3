"""What the pages share: nothing is edited by hand, counts are capped, acts are asked first."""

from collections.abc import Collection
from functools import cached_property
from typing import Any, Final

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse

from general_manager.escaping import is_storable
from general_manager.workflow.admin.bounds import Bounded, get_bounded, with_visible_texts
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.formats import NONE
from general_manager.workflow.admin.links import Links
from general_manager.workflow.admin.scope import Reader
from general_manager.workflow.models.counting import MOST

APP: str = "general_manager"
OFFERED: Final = ("exact", "in", "isnull", "gte", "gt", "lt", "lte", "isempty")
"""What Django's own filters by a field ask for."""
LARGEST_KEY: Final = 2**63 - 1


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no further than somebody turns pages: a full count of a large table takes long."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        # In the list's own order: else a planner may read a table up to where the first rows are.
        return int(rows.values("pk")[: MOST + 1].count())


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows rows; what changes them is a verb of its own, with a permission of its own.

    Which rows, and to whom, is for `get_queryset` and `has_view_permission`: a subclass that
    narrows them is obeyed by every page that shows these rows.
    """

    ordering = ("-pk",)
    list_per_page = 50
    list_max_show_all = 0
    empty_value_display = NONE
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they count whole tables, once for each choice
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

    def lookup_allowed(self, lookup: str, value: Any, request: Any = None) -> bool:
        """Only what the page's filters ask for: Django lets everybody compare any column.

        With that, anybody who may see a row could ask its secrets out of it, letter by letter.
        """
        for one in self.get_list_filter(request) if request is not None else self.list_filter:
            if isinstance(one, str | tuple | list):
                path = one if isinstance(one, str) else str(one[0])
                kind = lookup.removeprefix(f"{path}__").rpartition("__")[2]
                if lookup == path or (lookup.startswith(f"{path}__") and kind in OFFERED):
                    return True
            elif lookup == getattr(one, "parameter_name", None):
                return True
        return False

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        """The row, bounded, for its own page; `None` also if this person may not see it."""
        rows = self.get_queryset(request)
        meta = rows.model._meta
        field: Any = meta.pk if from_field is None else meta.get_field(from_field)
        try:
            found = get_bounded(rows, **{field.name: field.to_python(object_id)})
        except (rows.model.DoesNotExist, ValidationError, ValueError, OverflowError):
            return None
        if not self.has_view_permission(request, found):
            return None
        self.complete([found], self.reader(request))
        return found

    def find_row(self, request: HttpRequest, **which: Any) -> Any:
        """The row, as it is, that an act or a link is about.

        The same answer for one that is not there and for one that is not theirs to see: `Http404`.
        Raises `PermissionDenied` for people without the permission, whatever they ask for.
        """
        self.require_view(request)
        if not all(is_storable(one) for one in which.values() if isinstance(one, str)):
            raise Http404
        found = self.get_queryset(request).defer(*self.list_defer).filter(**which).first()
        if found is None or not self.has_view_permission(request, found):
            raise Http404
        return found

    def is_narrowed(self) -> bool:
        """Whether a subclass decides which rows people see."""
        ours = (admin.ModelAdmin.get_queryset, ReadOnlyAdmin.has_view_permission)
        return (type(self).get_queryset, type(self).has_view_permission) != ours

    def keys_in_scope(self, request: HttpRequest, keys: Collection[Any]) -> list[Any]:
        """Those of *keys* that are in this person's queryset."""
        return list(self.get_queryset(request).filter(pk__in=keys).values_list("pk", flat=True))

    def keys_seen(self, request: HttpRequest, keys: Collection[Any]) -> set[Any]:
        """Those of *keys*, of this person's queryset, whose rows the page shows one by one.

        No row is read, unless a subclass decides row by row.
        """
        if type(self).has_view_permission is ReadOnlyAdmin.has_view_permission:
            return set(keys)
        rows = self.get_queryset(request).defer(*self.list_defer).filter(pk__in=keys)
        return {row.pk for row in rows if self.has_view_permission(request, row)}

    def require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def reader(self, request: HttpRequest) -> Reader:
        return Reader(self.admin_site, request)

    def complete(self, rows: list[Any], reader: Reader) -> list[Any]:
        """The rows of one page of the list, with what is looked up for all of them together."""
        for row in rows:
            row.links = Links(reader)
        return rows

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return [
            (name, {**options, "fields": list(with_visible_texts(options["fields"], self.model))})
            for name, options in super().get_fieldsets(request, obj)
        ]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return CalmChangeList

    # Without the permission, every id has the same answer.

    def change_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.require_view(request)
        return super().change_view(request, *args, **kwargs)

    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.require_view(request)
        return super().history_view(request, *args, **kwargs)

    def response_action(
        self, request: HttpRequest, queryset: "QuerySet[Any]", *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Django's, for keys that can be keys."""
        post: Any = request.POST.copy()
        keys = post.getlist(ACTION_CHECKBOX_NAME)
        post.setlist(ACTION_CHECKBOX_NAME, [one for one in keys if _is_key(one)])
        request.POST = post
        return super().response_action(request, queryset, *args, **kwargs)


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
        joined = self.list_select_related
        bounded = Bounded(self.model, joined if isinstance(joined, list | tuple) else ())
        rows = bounded.read(self.result_list)
        reader = page.reader(request)
        self.result_list: Any = page.complete(reader_sees(page, request, rows), reader)


def reader_sees(page: Any, request: HttpRequest, rows: Collection[Any]) -> list[Any]:
    """Those of *rows* that this person may view: a page may decide row by row."""
    return [row for row in rows if page.has_view_permission(request, row)]


def _is_key(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= LARGEST_KEY


def may(request: HttpRequest, codename: str) -> bool:
    """Whether the user has one of our permissions."""
    return bool(request.user.has_perm(f"{APP}.{codename}"))
