"""The page of one act on one row: it asks for confirmation, then acts."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from django import forms
from django.contrib.admin import ModelAdmin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _

from general_manager.workflow.admin.acts.confirming import RowAct, confirm_page, perform_one
from general_manager.workflow.admin.acts.seen import SEEN, seen_of, sign
from general_manager.workflow.admin.base import may
from general_manager.workflow.admin.pages import Text

Known = TypeVar("Known", bound=RowAct)


def permitted_act(acts: Mapping[str, Known], name: str, request: HttpRequest) -> Known:
    """The act of this *name*; not found if there is none, denied without its permission."""
    act = acts.get(name)
    if act is None:
        raise Http404
    if not may(request, act.permission):
        raise PermissionDenied
    return act


def confirm_act(
    page: "ModelAdmin[Any]",
    request: HttpRequest,
    row: Any,
    act: RowAct,
    *,
    now: list[str],
    after: Callable[[Any], str],
    on: Any = None,
    why_not: Text | None = None,
    changed: Text | None = None,
) -> HttpResponse:
    """Ask on GET; on POST perform *act* as confirmed, and go to the page that *after* names.

    The act is on the page's *row*, or *on* another one whose situation is *now*. *changed* is said
    if that is another than on the page that the user came from.
    """
    form: forms.Form = act.form(request.POST or None)
    if request.method == "POST" and form.is_valid() and why_not is None:
        seen, values, subject = seen_of(request.POST), form.cleaned_data, row if on is None else on
        result = perform_one(
            page, request, row, act.done, lambda: act.perform_as_seen(subject, seen, values)
        )
        return HttpResponseRedirect(after(result))
    if why_not is None and seen_of(request.GET) not in (None, now):
        why_not = changed or _(
            "It has changed since you opened the page. Go back and check it first."
        )
    return confirm_page(
        page,
        request,
        title=act.label,
        sentence=act.sentence,
        form=form,
        obj=row,
        seen=request.POST.get(SEEN) or sign(now),
        why_not=why_not,
        is_grave=act.is_grave,
    )
