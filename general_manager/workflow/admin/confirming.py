"""Ask before anything changes; then do it in the user's name, and write down that it was done."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from django import forms
from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import router, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from general_manager.workflow.actors import acting_as
from general_manager.workflow.admin.pages import Text, frame, way_to_object
from general_manager.workflow.exceptions import WorkflowError

MOST_AT_ONCE: Final = 1_000
CONFIRMED: Final = "confirmed"


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
    """The page between a wish and the act: on *obj*, or on rows of the list."""
    context_of_site = frame(page, request, title=title)
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
            **context,
        },
    )


def write_down(
    page: "ModelAdmin[Any]", request: HttpRequest, obj: Any, what: Text, detail: str = ""
) -> None:
    """The act in Django's own log, which is the object's "History" page."""
    page.log_change(request, obj, f"{what} {detail}".strip())


def write_down_for_all(page: "ModelAdmin[Any]", request: HttpRequest, what: Text) -> None:
    """An act that is about the whole table, and no one row, in the same log."""
    opts = page.model._meta
    who: Any = request.user
    LogEntry.objects.create(
        user=who,
        content_type=ContentType.objects.get_for_model(page.model, for_concrete_model=False),
        object_repr=str(capfirst(opts.verbose_name_plural)),
        action_flag=CHANGE,
        change_message=str(what),
    )


def perform_one(
    page: "ModelAdmin[Any]", request: HttpRequest, obj: Any, done: Text, act: Callable[[], Any]
) -> Any:
    """Act in the user's name; a lost race is told in words, and nothing else happens."""
    try:
        # The act and its entry in the log together, or neither.
        with transaction.atomic(using=_log_database()), acting_as(request.user):
            result = act()
            write_down(page, request, obj, done)
    except WorkflowError as error:
        messages.error(request, _("Nothing was done. %s") % error)
        return None
    messages.success(request, str(done))
    return result


def confirm_many(
    page: "ModelAdmin[Any]",
    request: HttpRequest,
    queryset: "QuerySet[Any]",
    *,
    action: str,
    title: Text,
    done: Text,
    sentence: Text,
    allows: Callable[[Any], Text | None],
    perform: Callable[[Any, dict[str, Any]], Any],
    form_class: type[forms.Form] | None = None,
    is_grave: bool = False,
) -> HttpResponse | None:
    """An action on selected rows: first how many it will touch and not touch, then the act."""
    rows = list(queryset[: MOST_AT_ONCE + 1])
    rows = [row for row in rows if page.has_view_permission(request, row)]
    if len(rows) > MOST_AT_ONCE:
        messages.error(request, _("Select at most %d at once.") % MOST_AT_ONCE)
        return None
    able = [row for row in rows if allows(row) is None]
    is_sent = CONFIRMED in request.POST
    form = form_class(request.POST if is_sent else None) if form_class is not None else None
    if is_sent and (form is None or form.is_valid()):
        values = form.cleaned_data if form is not None else {}
        _perform_each(page, request, able, done, lambda row: perform(row, values))
        return None
    reasons = sorted({str(allows(row)) for row in rows if allows(row) is not None})
    return confirm_page(
        page,
        request,
        title=title,
        sentence=sentence,
        form=form,
        is_grave=is_grave,
        action=action,
        action_checkbox_name=ACTION_CHECKBOX_NAME,
        selected=[str(row.pk) for row in rows],  # as text: no separators
        able=len(able),
        total=len(rows),
        reasons=reasons,
    )


def _log_database() -> str:
    return router.db_for_write(LogEntry)


def _perform_each(
    page: "ModelAdmin[Any]",
    request: HttpRequest,
    rows: Iterable[Any],
    done: Text,
    act: Callable[[Any], Any],
) -> None:
    count, lost = 0, []
    for row in rows:
        try:
            with transaction.atomic(using=_log_database()), acting_as(request.user):
                act(row)
                write_down(page, request, row, done)
        except WorkflowError as error:
            lost.append(str(error))
            continue
        count += 1
    if count:
        text = ngettext("%(count)d: %(done)s", "%(count)d: %(done)s", count)
        messages.success(request, text % {"count": count, "done": done})
    if lost:
        text = ngettext(
            "%(count)d had changed meanwhile, and nothing was done to it: %(first)s",
            "%(count)d had changed meanwhile, and nothing was done to them: %(first)s",
            len(lost),
        )
        messages.warning(request, text % {"count": len(lost), "first": lost[0]})
    if not count and not lost:
        messages.warning(request, _("Nothing was done: none of them can be."))
