"""Shared by all pages: rows are read-only, counts are capped, acts need a confirmation."""

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any, Final

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse

from general_manager.escaping import is_storable
from general_manager.names import APP_LABEL
from general_manager.workflow.admin.bounds import Bounded, get_bounded, with_visible_texts
from general_manager.workflow.admin.export import export_as_csv
from general_manager.workflow.admin.fields.formats import NONE
from general_manager.workflow.admin.fields.links import Links
from general_manager.workflow.admin.scope import Reader, to_act_on
from general_manager.workflow.models.sql.counting import MOST

OFFERED: Final = ("exact", "in", "isnull", "gte", "gt", "lt", "lte", "isempty")
"""The lookups that Django's own field filters use."""
LARGEST_KEY: Final = 2**63 - 1


class CappedPaginator(Paginator):  # type: ignore[type-arg]  # generic for type checkers only
    """Counts up to a cap: a full count of a large table is slow, and nobody pages that far."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        # Keep the list's ordering: without it a planner may scan the table up to the first match.
        return int(rows.values("pk")[: MOST + 1].count())


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic for type checkers only
    """Shows rows. Each change to them is a verb of its own, with its own permission.

    `get_queryset` and `has_view_permission` decide who sees which rows. If a subclass narrows
    them, every page that shows these rows follows.
    """

    ordering = ("-pk",)
    list_per_page = 50
    list_max_show_all = 0
    empty_value_display = NONE
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count the whole table once per choice
    paginator = CappedPaginator
    actions: tuple[Any, ...] = (export_as_csv,)
    list_defer: tuple[str, ...] = ()
    """Columns that may be large and are not shown in the list."""
    view_permission = ""
    """The view permission's codename, if it belongs to another model."""

    class Media:
        css = {"all": (f"{APP_LABEL}/admin.css",)}  # noqa: RUF012 - the form that Django documents

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
        """Allow only the lookups of the page's filters: Django allows a comparison of any column.

        Otherwise anyone who may see a row could extract its secrets letter by letter.
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
        """The row for its own page, with bounded values; `None` if missing or hidden."""
        rows = self.get_queryset(request)
        meta = rows.model._meta
        field: Any = meta.pk if not from_field else meta.get_field(from_field)
        try:
            found = get_bounded(rows, **{field.name: field.to_python(object_id)})
        except (rows.model.DoesNotExist, ValidationError, ValueError, OverflowError):
            return None
        if not self.has_view_permission(request, found):
            return None
        self.complete([found], self.reader(request))
        return found

    def find_row(self, request: HttpRequest, *, joined: Sequence[str] = (), **which: Any) -> Any:
        """The row, unbounded, that an act or a link is about, with the rows that it is *joined* to.

        Raises `Http404` alike for a row that is missing and for one that is hidden from this
        user. Raises `PermissionDenied` for users without the permission, whatever they ask for.
        """
        self.require_view(request)
        if not all(is_storable(one) for one in which.values() if isinstance(one, str)):
            raise Http404
        listed = self.get_queryset(request)
        rows = to_act_on(listed)
        if rows.db == listed.db:  # else Django would read them from the replica, and act there
            rows = rows.defer(*self.list_defer)
        found = (rows.select_related(*joined) if joined else rows).filter(**which).first()
        if found is None or not self.has_view_permission(request, found):
            raise Http404
        return found

    def is_narrowed(self) -> bool:
        """Whether a subclass decides which rows users see."""
        ours = (admin.ModelAdmin.get_queryset, ReadOnlyAdmin.has_view_permission)
        return (type(self).get_queryset, type(self).has_view_permission) != ours

    def keys_in_scope(self, request: HttpRequest, keys: Collection[Any]) -> list[Any]:
        """The *keys* that are in this user's queryset."""
        rows = to_act_on(self.get_queryset(request))
        return list(rows.filter(pk__in=keys).values_list("pk", flat=True))

    def keys_seen(self, request: HttpRequest, keys: Collection[Any]) -> set[Any]:
        """The *keys* of this user's queryset whose rows the page may show to them.

        Reads no row, unless a subclass decides row by row.
        """
        if type(self).has_view_permission is ReadOnlyAdmin.has_view_permission:
            return set(keys)
        rows = to_act_on(self.get_queryset(request)).defer(*self.list_defer).filter(pk__in=keys)
        return {row.pk for row in rows if self.has_view_permission(request, row)}

    def require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def reader(self, request: HttpRequest) -> Reader:
        return Reader(self.admin_site, request)

    def complete(self, rows: list[Any], reader: Reader) -> list[Any]:
        """The rows of one page of the list, with the values that are looked up for all at once."""
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

    # Without the permission, every id gets the same answer.

    def change_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.require_view(request)
        return super().change_view(request, *args, **kwargs)

    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.require_view(request)
        return super().history_view(request, *args, **kwargs)

    def response_action(
        self, request: HttpRequest, queryset: "QuerySet[Any]", *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Django's own, with invalid keys dropped first."""
        post: Any = request.POST.copy()
        keys = post.getlist(ACTION_CHECKBOX_NAME)
        post.setlist(ACTION_CHECKBOX_NAME, [one for one in keys if _is_key(one)])
        request.POST = post
        return super().response_action(request, queryset, *args, **kwargs)


class CalmChangeList(ChangeList):
    """Sorts only by what the index provides: Django would append the model's whole ordering."""

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
    """The *rows* that this user may view: a page may decide row by row."""
    return [row for row in rows if page.has_view_permission(request, row)]


def _is_key(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= LARGEST_KEY


class DetailAdmin(ReadOnlyAdmin):
    """Also shows more than the fields on the page of one row, in a template of its own."""

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        self.require_view(request)
        row = self.get_object(request, unquote(object_id))
        extra = dict(extra_context or {})
        if row is not None:
            # The head of the page shows the row already, so it needs no subtitle.
            extra |= {**self.details(request, row), "subtitle": None}
        return super().change_view(request, object_id, form_url, extra)

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """The page's title, and the context of its template."""
        raise NotImplementedError


def may(request: HttpRequest, codename: str) -> bool:
    """Whether the user has this permission of ours."""
    return bool(request.user.has_perm(f"{APP_LABEL}.{codename}"))
