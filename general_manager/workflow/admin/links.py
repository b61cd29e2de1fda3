"""From page to page: events, executions, and the business objects that they are about."""

import re
from collections.abc import Callable, Collection
from functools import lru_cache
from json import loads
from typing import Any, Final
from urllib.parse import urlencode

from django.apps import apps
from django.contrib.admin.utils import quote
from django.db.models import Model
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Left
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from general_manager.escaping import visible
from general_manager.manager import GeneralManager
from general_manager.workflow.admin.bounds import SHORT, Bounded
from general_manager.workflow.admin.formats import NONE, shortened
from general_manager.workflow.admin.scope import Reader
from general_manager.workflow.ids import MAX_ID_LENGTH
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from general_manager.workflow.redaction import redact

_PLAIN: Final = re.compile(r"(?!\.+$)[\w.:@+-]+", re.ASCII)
"""What a path carries as it is: browsers resolve dots, and some servers touch slashes."""


class Links:
    """Urls on one site, for one person: empty where there is no page for them."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    @property
    def site_name(self) -> str:
        return self._reader.site.name

    def to_event(self, event_id: str) -> str:
        is_open = self._reader.may_view(WorkflowEventRecord)
        return self._by_id("event", event_id) if is_open else ""

    def to_execution(self, execution_id: str) -> str:
        is_open = self._reader.may_view(WorkflowExecutionRecord)
        return self._by_id("execution", execution_id) if is_open else ""

    def to(self, model: type[Model], key: Any) -> str:
        """The page of a row of *model*, ours or the project's; empty if there is none."""
        if not self._reader.may_view(model):
            return ""
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
        try:
            return reverse(name, args=[quote(str(key))], current_app=self._reader.site.name)
        except NoReverseMatch:
            return ""

    def to_list(self, model: type[Model], **filters: str) -> str:
        """The list of *model*'s rows, filtered; empty if there is none."""
        if not self._reader.may_view(model):
            return ""
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"
        query = f"?{urlencode(filters, errors='replace')}" if filters else ""
        return f"{reverse(name, current_app=self._reader.site.name)}{query}"

    def _by_id(self, kind: str, known_id: str) -> str:
        """A path where that carries the id, else a query string, which carries every text."""
        if len(known_id) > MAX_ID_LENGTH:
            return ""  # that is no id of ours
        name, site = f"admin:general_manager_{kind}_by_id", self._reader.site.name
        if _PLAIN.fullmatch(known_id):
            return reverse(name, args=[known_id], current_app=site)
        query = urlencode({"id": known_id}, errors="replace")
        return f"{reverse(name, current_app=site)}?{query}"


def anchor(url: str, text: str, title: str = "") -> SafeString | str:
    """A link, or its text alone if there is nowhere to go."""
    shown, whole = visible(text), visible(title)
    if not url:
        return format_html('<bdi title="{}">{}</bdi>', whole, shown)
    return format_html('<a href="{}" title="{}"><bdi>{}</bdi></a>', url, whole, shown)


def event_link(event: WorkflowEventRecord, links: Links) -> SafeString | str:
    url = links.to(WorkflowEventRecord, event.pk)
    return anchor(url, shortened(event.event_id), event.event_id)


def cause_link(event_id: str | None, links: Links) -> SafeString | str:
    """The event that an execution names, which may be out of reach, or pruned."""
    if not event_id:
        return NONE
    return anchor(links.to_event(event_id), shortened(event_id), event_id)


def find_events(rows: Collection[Any], reader: Reader, key: Callable[[Any], Any]) -> None:
    """Give each of *rows* as `event_seen` its event, if this person may see it; one statement."""
    events = reader.rows(WorkflowEventRecord).filter(pk__in={key(row) for row in rows})
    bounded = Bounded(WorkflowEventRecord)
    found = {one.pk: one for one in reader.seen(bounded.read(events.defer("payload", "metadata")))}
    for row in rows:
        row.event_seen = found.get(key(row))


def find_subjects(records: Collection[WorkflowExecutionRecord], reader: Reader) -> None:
    """Tell each of *records* what its event was about; one statement for all of them.

    As columns of the list's own query they would be looked up for skipped pages too.
    """
    found: dict[str, tuple[Any, Any]] = {}
    causes = {record.caused_by for record in records if record.caused_by}
    events = reader.rows(WorkflowEventRecord).filter(event_id__in=causes)
    for event in reader.seen(with_subjects(events)) if causes else ():
        found[event.event_id] = subject_read(event)
    for record in records:
        about = found.get(record.caused_by or "", (None, None))
        record.__dict__.update(zip(("subject_manager", "subject_id"), about, strict=True))


def with_subjects(events: Any) -> Any:
    """*events* with the beginning of what names their subject, and without the payloads."""
    return events.defer("payload", "metadata").annotate(
        subject_manager=Left(KeyTextTransform("manager", "payload"), SHORT),
        subject_id=Left(KeyTextTransform("identification", "payload"), SHORT * 10),
    )


def subject_read(event: Any) -> tuple[Any, Any]:
    manager, text = event.subject_manager, event.subject_id
    if not isinstance(text, str):
        return manager, text
    try:
        value = loads(text)
    except (ValueError, RecursionError):
        return manager, text
    return manager, value if isinstance(value, dict | list) else text


def subject_link(record: Any, links: Links) -> SafeString | str:
    """What its event was about, for an execution that was given to `find_subjects`."""
    name = getattr(record, "subject_manager", None)
    if not isinstance(name, str) or not name:
        return ""
    return subject_of(name, getattr(record, "subject_id", None), links)


def subject_of(manager: str, identification: Any, links: Links) -> SafeString | str:
    """``Project 42``, linked to the model's own admin page where there is one."""
    shown = redact(identification)
    text = f"{manager[:SHORT]} {_short(shown)}" if shown else manager[:SHORT]
    key = identification.get("id") if isinstance(identification, dict) else None
    model = _model_of(manager) if len(manager) < SHORT else None
    url = links.to(model, key) if model is not None and isinstance(key, str | int) else ""
    return anchor(url, text)


def _short(identification: Any) -> str:
    if isinstance(identification, dict) and set(identification) == {"id"}:
        identification = identification["id"]
    return str(identification)[:60]


@lru_cache(maxsize=256)  # by text from payloads: as many as anybody likes
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
