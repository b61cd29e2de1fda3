"""Confirm an act, perform it in the user's name, and log it."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import ModelAdmin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from general_manager.escaping import cut, visible
from general_manager.workflow.admin.acts.log import write_down
from general_manager.workflow.admin.acts.seen import SEEN, sign, unsign
from general_manager.workflow.admin.acts.together import committed_together
from general_manager.workflow.admin.pages import Text, frame, way_to_object
from general_manager.workflow.admin.scope import to_act_on
from general_manager.workflow.core.actors import acting_as
from general_manager.workflow.exceptions import WorkflowError

MOST_SELECTED: Final = 1_000
MOST_REASONS: Final = 100
"""Skipped rows that the confirmation page lists with their reasons."""
MOST_LOST: Final = 10
"""Rows named in the message after the act."""
CONFIRMED: Final = "confirmed"
NAMES_STORED_TEXT: Final = {"why_not", "question", "preview", "before"}
"""Context values that may contain the name of a step, wait or handler, or an id."""
MOST_SAID: Final = 1_000
"""Characters of such a sentence."""


Done: TypeAlias = Text | Callable[[Any], Text]
"""What an act has done, in words; or how to say it of what the act returned."""


def in_sight(text: Text | None) -> str | None:
    """A sentence that contains stored text: bounded, every character visible."""
    return None if text is None else visible(cut(str(text), MOST_SAID), lines=True)


def confirm_page(
    page: "ModelAdmin[Any]",
    request: HttpRequest,
    *,
    title: Text,
    sentence: Text,
    form: forms.Form | None = None,
    obj: Any = None,
    **context: Any,
) -> TemplateResponse:
    """The confirmation page of an act on *obj*, or on rows of the list."""
    context_of_site = frame(page, request, title=title)
    for name in NAMES_STORED_TEXT & set(context):
        context[name] = in_sight(context[name])
    crumbs = [*context_of_site["crumbs"], *way_to_object(page, obj)]
    return TemplateResponse(
        request,
        "admin/general_manager/confirm.html",
        {
            **context_of_site,
            "crumbs": crumbs,
            "original": obj,
            "back": crumbs[-1][0],
            "sentence": sentence,
            "form": form,
            "confirmed_name": CONFIRMED,
            "seen_name": SEEN,
            "button": str(title).rstrip("…"),
            "why_not": None,
            **context,
        },
    )


def perform_one(
    page: "ModelAdmin[Any]", request: HttpRequest, obj: Any, done: Done, act: Callable[[], Any]
) -> Any:
    """Act in the user's name. A lost race is reported in a message; nothing is changed."""
    try:
        with committed_together(obj), acting_as(request.user):
            result = act()
            said = done_by(done, result)
            write_down(page, request, obj, said)
    except WorkflowError as error:
        messages.error(request, _("Nothing was done. %s") % in_sight(str(error)))
        return None
    messages.success(request, str(said))
    return result


def done_by(done: Done, result: Any) -> Text:
    """What an act that returned *result* has done, in words."""
    return done(result) if callable(done) else done


@dataclass(frozen=True, slots=True)
class ManyRows:
    """An action on rows of a list: its texts, and what it does to each row.

    *refusals* returns the rows that it must skip, with a reason for each, by key. *seen* returns
    the situation of a row. *perform* takes the row, the situation that was confirmed and the
    form's values; it raises a `WorkflowError`, with nothing done, if the situation has changed.
    """

    action: str
    title: Text
    done: Done
    sentence: Text
    refusals: Callable[[list[Any]], Mapping[Any, Text]]
    seen: Callable[[Any], Any]
    perform: Callable[[Any, Any, dict[str, Any]], Any]
    counted: Text
    """A sentence with the numbers *able* and *total*."""
    form_class: type[forms.Form] | None = None
    is_grave: bool = False


class RowAct(Protocol):
    """An act with its permission, form and texts."""

    @property
    def label(self) -> Promise: ...
    @property
    def done(self) -> Done: ...
    @property
    def permission(self) -> str: ...
    @property
    def form(self) -> type[forms.Form]: ...
    @property
    def sentence(self) -> Promise: ...
    @property
    def is_grave(self) -> bool: ...
    def perform_as_seen(self, row: Any, seen: Any, values: dict[str, Any], /) -> Any: ...


class SingleAct(RowAct, Protocol):
    """An act on one row that the list offers for selected rows too."""

    @property
    def name(self) -> str: ...
    @property
    def counted(self) -> Text: ...


def bulk_action(
    act: SingleAct,
    *,
    refusals: Callable[[list[Any]], Mapping[Any, Text]],
    seen: Callable[[Any], Any],
) -> Any:
    """The admin action that asks, and then performs *act* on each selected row."""
    many = ManyRows(
        action=f"{act.name}_selected",
        title=act.label,
        done=act.done,
        sentence=act.sentence,
        refusals=refusals,
        seen=seen,
        perform=act.perform_as_seen,
        counted=act.counted,
        form_class=act.form,
        is_grave=act.is_grave,
    )

    def selected(
        page: "ModelAdmin[Any]", request: HttpRequest, queryset: "QuerySet[Any]"
    ) -> HttpResponse | None:
        return confirm_many(page, request, queryset, many)

    selected.__name__ = many.action
    return admin.action(selected, permissions=(act.permission,), description=cast(str, act.label))


def confirm_many(
    page: "ModelAdmin[Any]", request: HttpRequest, queryset: "QuerySet[Any]", act: ManyRows
) -> HttpResponse | None:
    """Ask with the number of rows it will change and reasons for the others; then act.

    Acts only on the rows that were confirmed, and only if they are unchanged.
    """
    if CONFIRMED in request.POST:
        form = act.form_class(request.POST) if act.form_class is not None else None
        signed = unsign(request.POST[CONFIRMED])
        # A mapping, so that a value signed by another page is not accepted.
        confirmed = signed.get(act.action) if isinstance(signed, dict) else None
        if confirmed is None:
            messages.error(request, _("Nothing was done: select the rows and confirm again."))
            return None
        rows = _rows_of(page, request, [key for key, _seen in confirmed])
        if form is None or form.is_valid():
            values = form.cleaned_data if form is not None else {}
            _perform_each(page, request, act, confirmed, rows=rows, values=values)
            return None
        selected = [rows[key] for key, _seen in confirmed if key in rows]
        return _ask(page, request, act, selected, form)
    selected = list(to_act_on(queryset)[: MOST_SELECTED + 1])
    if len(selected) > MOST_SELECTED:
        messages.error(request, _("Too many rows: select at most %d at once.") % MOST_SELECTED)
        return None
    selected = [row for row in selected if page.has_view_permission(request, row)]
    form = act.form_class() if act.form_class is not None else None
    return _ask(page, request, act, selected, form)


def _rows_of(page: "ModelAdmin[Any]", request: HttpRequest, keys: list[Any]) -> dict[Any, Any]:
    """Rows of the page's scope. Not of the list's filters: a changed row may not match them."""
    heavy = getattr(page, "list_defer", ())
    rows = to_act_on(page.get_queryset(request)).defer(*heavy).filter(pk__in=keys)
    return {row.pk: row for row in rows if page.has_view_permission(request, row)}


def _ask(
    page: "ModelAdmin[Any]",
    request: HttpRequest,
    act: ManyRows,
    rows: list[Any],
    form: forms.Form | None,
) -> TemplateResponse:
    refusals = act.refusals(rows)
    able = [row for row in rows if row.pk not in refusals]
    refused = [(str(row), in_sight(refusals[row.pk])) for row in rows if row.pk in refusals]
    return confirm_page(
        page,
        request,
        title=act.title,
        sentence=act.sentence,
        form=form if able else None,
        is_grave=act.is_grave,
        action=act.action,
        action_checkbox_name=ACTION_CHECKBOX_NAME,
        selected=str(rows[0].pk) if rows else "",
        confirmed=sign({act.action: [[row.pk, act.seen(row)] for row in able]}),
        counted=str(act.counted) % {"able": len(able), "total": len(rows)},
        total=len(rows),
        refused=refused[:MOST_REASONS],
        refused_more=max(0, len(refused) - MOST_REASONS),
        why_not=None if able else _("None of the selected rows can be changed."),
    )


def _perform_each(
    page: "ModelAdmin[Any]",
    request: HttpRequest,
    act: ManyRows,
    confirmed: list[list[Any]],
    *,
    rows: Mapping[Any, Any],
    values: dict[str, Any],
) -> None:
    done, lost = Counter[str](), list[str]()
    for key, seen in confirmed:
        row = rows.get(key)
        if row is None:
            lost.append(_("%s is no longer in this list.") % key)
            continue
        try:
            with committed_together(row), acting_as(request.user):
                said = done_by(act.done, act.perform(row, seen, values))
                write_down(page, request, row, said)
        except WorkflowError as error:
            lost.append(f"{row}: {error}")
            continue
        done[str(said)] += 1
    for what, count in done.items():
        text = ngettext("%(count)d: %(done)s", "%(count)d: %(done)s", count)
        messages.success(request, text % {"count": count, "done": what})
    if lost:
        text = ngettext(
            "%(count)d skipped: %(reasons)s",
            "%(count)d skipped: %(reasons)s",
            len(lost),
        )
        reasons = " ".join(lost[:MOST_LOST])
        if len(lost) > MOST_LOST:
            more = len(lost) - MOST_LOST
            reasons += " " + ngettext("And %d more.", "And %d more.", more) % more
        messages.warning(request, text % {"count": len(lost), "reasons": in_sight(reasons)})
