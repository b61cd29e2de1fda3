"""Django's own log of what users did."""

from typing import Any

from django.contrib.admin import ModelAdmin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.http import HttpRequest
from django.utils.text import capfirst

from general_manager.workflow.admin.pages import Text


def write_down(
    page: "ModelAdmin[Any]", request: HttpRequest, obj: Any, what: Text, detail: str = ""
) -> None:
    """Log the act in Django's own log, which the object's "History" page shows."""
    page.log_change(request, obj, f"{what} {detail}".strip())


def write_down_for_all(page: "ModelAdmin[Any]", request: HttpRequest, what: Text) -> None:
    """Log an act on the whole table in the same log."""
    opts = page.model._meta
    who: Any = request.user
    LogEntry.objects.create(
        user_id=who.pk,
        content_type_id=ContentType.objects.get_for_model(page.model, for_concrete_model=False).pk,
        object_repr=str(capfirst(opts.verbose_name_plural)),
        action_flag=CHANGE,
        change_message=str(what),
    )
