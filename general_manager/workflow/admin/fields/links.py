"""Links between pages: events, executions, and their business objects."""

import re
from collections.abc import Callable, Collection
from functools import lru_cache
from json import loads
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib.admin.utils import quote
from django.db.models import Model
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Left
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from general_manager.escaping import visible
from general_manager.workflow.admin.bounds import SHORT, Bounded
from general_manager.workflow.admin.fields.formats import NONE, isolated, shortened
from general_manager.workflow.admin.scope import Reader
from general_manager.workflow.core.ids import MAX_ID_LENGTH
from general_manager.workflow.core.redaction import redact
from general_manager.workflow.executions.subjects import model_of
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord

_PLAIN: Final = re.compile(r"(?!\.+$)[\w.:@+-]+", re.ASCII)
"""Ids that a path carries unchanged: browsers resolve dots, some servers change slashes."""


class Links:
    """URLs on one site for one user; empty if that user has no such page."""

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
        """The page of a row of *model*, ours or the project's; empty if it has none."""
        if not self._reader.may_view(model):
            return ""
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
        try:
            return reverse(name, args=[quote(str(key))], current_app=self._reader.site.name)
        except NoReverseMatch:
            return ""

    def to_list(self, model: type[Model], **filters: str) -> str:
        """The filtered list of *model*'s rows; empty if it has none."""
        if not self._reader.may_view(model):
            return ""
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"
        query = f"?{urlencode(filters, errors='replace')}" if filters else ""
        return f"{reverse(name, current_app=self._reader.site.name)}{query}"

    def _by_id(self, kind: str, known_id: str) -> str:
        """The id in the path if a path can carry it, else in a query string."""
        if len(known_id) > MAX_ID_LENGTH:
            return ""  # too long to be one of our ids
        name, site = f"admin:general_manager_{kind}_by_id", self._reader.site.name
        if _PLAIN.fullmatch(known_id):
            return reverse(name, args=[known_id], current_app=site)
        query = urlencode({"id": known_id}, errors="replace")
        return f"{reverse(name, current_app=site)}?{query}"


def anchor(url: str, text: str, title: str = "") -> SafeString | str:
    """A link, or only its text if *url* is empty."""
    shown, whole = visible(text), visible(title)
    if not url:
        return format_html('<bdi title="{}">{}</bdi>', whole, shown)
    return format_html('<a href="{}" title="{}"><bdi>{}</bdi></a>', url, whole, shown)


def event_cell(event: WorkflowEventRecord | None, links: Links) -> SafeString | str:
    """The event's name above its link, or nothing if it is hidden from the user."""
    if event is None:
        return NONE
    url = links.to(WorkflowEventRecord, event.pk)
    link = anchor(url, shortened(event.event_id), event.event_id)
    return format_html("{}<br>{}", isolated(event.event_name or event.event_type), link)


def cause_link(event_id: str | None, links: Links) -> SafeString | str:
    """The event that caused an execution. It may be hidden from the user, or pruned."""
    if not event_id:
        return NONE
    return anchor(links.to_event(event_id), shortened(event_id), event_id)


def find_events(rows: Collection[Any], reader: Reader, key: Callable[[Any], Any]) -> None:
    """Set `event_seen` on each of *rows*: its event if this user may see it. One statement."""
    events = reader.rows(WorkflowEventRecord).filter(pk__in={key(row) for row in rows})
    bounded = Bounded(WorkflowEventRecord)
    found = {one.pk: one for one in reader.seen(bounded.read(events.defer("payload", "metadata")))}
    for row in rows:
        row.event_seen = found.get(key(row))


def find_subjects(records: Collection[WorkflowExecutionRecord], reader: Reader) -> None:
    """Set on each of *records* the subject of its event, with one statement for all.

    As columns of the list's own query they would be read for skipped pages too.
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
    """*events* with the beginning of their subject's name and id, without the payloads."""
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
    """The subject of the execution's event, once `find_subjects` has set it; else its own."""
    name = getattr(record, "subject_manager", None)
    if isinstance(name, str) and name:
        return subject_of(name, getattr(record, "subject_id", None), links)
    return own_subject(record.subject, links)


def own_subject(subject: str | None, links: Links) -> SafeString | str:
    """The subject that an execution has itself, linked to the object's page if it has one."""
    if not subject:
        return ""
    name, _, key = subject.partition(" ")
    model = known_model(name) if key and len(name) < SHORT else None
    url = links.to(model, key) if model is not None and len(key) < SHORT else ""
    return anchor(url, subject[:SHORT])


def subject_of(manager: str, identification: Any, links: Links) -> SafeString | str:
    """``Project 42``, linked to the model's own admin page if it has one."""
    shown = redact(identification)
    text = f"{manager[:SHORT]} {_short(shown)}" if shown else manager[:SHORT]
    key = identification.get("id") if isinstance(identification, dict) else None
    model = known_model(manager) if len(manager) < SHORT else None
    url = links.to(model, key) if model is not None and isinstance(key, str | int) else ""
    return anchor(url, text)


def _short(identification: Any) -> str:
    if isinstance(identification, dict) and set(identification) == {"id"}:
        identification = identification["id"]
    return str(identification)[:60]


@lru_cache(maxsize=256)  # bounded: the names come from payloads
def known_model(name: str) -> Any:
    """The model of a manager or a tracked model, by the name in its events."""
    return model_of(name)
