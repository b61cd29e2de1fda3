"""From page to page: events, executions, and the business objects that they are about."""

from collections.abc import Collection
from functools import cache
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from general_manager.manager import GeneralManager
from general_manager.workflow.admin.formats import NONE, shortened
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from general_manager.workflow.redaction import redact


def event_link(event_id: str | None) -> SafeString | str:
    if not event_id:
        return NONE
    url = reverse("admin:general_manager_event_by_id", args=[event_id])
    return format_html('<a href="{}" title="{}">{}</a>', url, event_id, shortened(event_id))


def find_subjects(records: Collection[WorkflowExecutionRecord]) -> None:
    """Tell each of *records* what its event was about; one statement for all of them.

    As columns of the list's own query they would be looked up for skipped pages too.
    """
    causes = {record.caused_by for record in records if record.caused_by}
    events = WorkflowEventRecord.objects.filter(event_id__in=causes)
    columns = ("payload__manager", "payload__identification")
    found = {key: about for key, *about in events.values_list("event_id", *columns)}
    for record in records:
        about = found.get(record.caused_by or "", [None, None])
        record.__dict__.update(zip(("subject_manager", "subject_id"), about, strict=True))


def subject_link(record: Any) -> SafeString | str:
    """What its event was about, for an execution that was given to `find_subjects`."""
    name = getattr(record, "subject_manager", None)
    if not isinstance(name, str) or not name:
        return ""
    return subject_of(name, getattr(record, "subject_id", None))


def subject_of(manager: str, identification: Any) -> SafeString | str:
    """``Project 42``, linked to the model's own admin page where there is one."""
    shown = redact(identification)
    text = f"{manager} {_short(shown)}" if shown else manager
    model = _model_of(manager)
    key = identification.get("id") if isinstance(identification, dict) else None
    if model is None or key is None or not admin.site.is_registered(model):
        return text
    try:
        opts = model._meta
        url = reverse(f"admin:{opts.app_label}_{opts.model_name}_change", args=[key])
    except NoReverseMatch:
        return text
    return format_html('<a href="{}">{}</a>', url, text)


def _short(identification: Any) -> str:
    if isinstance(identification, dict) and set(identification) == {"id"}:
        identification = identification["id"]
    return str(identification)[:60]


@cache
def _model_of(manager: str) -> Any:
    """The model behind a manager, or a tracked model, by the name that events carry."""
    found = [one for one in _managers(GeneralManager) if one.__name__ == manager]
    for one in found:
        model = getattr(getattr(one, "Interface", None), "model", None)
        if isinstance(model, str):
            return apps.get_model(model)
        if model is not None:
            return model
    named = [one for one in apps.get_models() if one.__name__ == manager]
    return named[0] if len(named) == 1 else None


def _managers(base: type) -> list[type]:
    below: list[type] = base.__subclasses__()
    return below + [one for child in below for one in _managers(child)]
