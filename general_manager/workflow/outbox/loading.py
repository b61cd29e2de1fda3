"""Loads the entries of a chunk with their events: one statement, compiled once."""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from django.db import models
from django.db.models import QuerySet

from general_manager.workflow.models import WorkflowEventRecord, WorkflowOutbox
from general_manager.workflow.models.pause import is_any_registration_paused
from general_manager.workflow.models.sql.addresses import EVENT_FIELDS
from general_manager.workflow.models.sql.claims import OutboxStatus
from general_manager.workflow.models.sql.compiled import CompiledSelect, Slot


def _in_order(model: type[models.Model], *names: str) -> tuple[str, ...]:
    """Names of columns in the order in which `Model.from_db` takes them."""
    return tuple(one.attname for one in model._meta.concrete_fields if one.name in names)


_ENTRY: Final = _in_order(
    WorkflowOutbox,
    "id", "event", "expected_registrations", "visits", "deliver_alone", "unwanted_by", "queue",
    "lanes",
)  # fmt: skip
_EVENT: Final = _in_order(WorkflowEventRecord, "id", *EVENT_FIELDS, "published_at")


class Loaded(NamedTuple):
    entries: list[WorkflowOutbox]
    are_some_paused: bool
    """Whether the registrations that are paused are worth a query."""


def _held(rows: "QuerySet[WorkflowOutbox]") -> "QuerySet[WorkflowOutbox, Any]":
    key = models.BigIntegerField()
    held = rows.filter(claim_token=Slot("token"), status=OutboxStatus.CLAIMED)
    held = held.filter(pk__gte=Slot("first", key), pk__lte=Slot("last", key)).order_by("pk")
    of_event = (f"event__{name}" for name in _EVENT)
    return held.values_list(*_ENTRY, *of_event, is_any_registration_paused())


_HELD: CompiledSelect[Any] = CompiledSelect(_held)


def load_held(using: str, token: str, keys: Collection[int]) -> Loaded:
    """Those of the entries *keys* that the claim *token* holds, in the order of keys."""
    table = WorkflowOutbox.objects.using(using)
    rows = _HELD.rows(table, token=token, first=min(keys), last=max(keys))
    wanted, entries = frozenset(keys), list[WorkflowOutbox]()
    reference: Any = WorkflowOutbox._meta.get_field("event")
    for row in rows:
        if row[0] in wanted:
            entry = WorkflowOutbox.from_db(using, _ENTRY, row[: len(_ENTRY)])
            event = WorkflowEventRecord.from_db(using, _EVENT, row[len(_ENTRY) : -1])
            reference.set_cached_value(entry, event)
            entries.append(entry)
    return Loaded(entries, any(row[-1] for row in rows))
