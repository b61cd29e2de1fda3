"""Loads the entries of a chunk with their events: one statement, which is compiled once."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from django.db import connections, models
from django.db.models import QuerySet
from django.db.models.expressions import Expression

from general_manager.workflow.models import WorkflowEventRecord, WorkflowOutbox
from general_manager.workflow.models.pause import is_any_registration_paused
from general_manager.workflow.models.sql.addresses import EVENT_FIELDS
from general_manager.workflow.models.sql.claims import OutboxStatus
from general_manager.workflow.models.sql.compiled import CompiledSelect, Slot


def _in_order(model: type[models.Model], *names: str) -> tuple[str, ...]:
    """Names of columns in the order in which `Model.from_db` takes them."""
    return tuple(one.attname for one in model._meta.concrete_fields if one.name in names)


_OF_ENTRY: Final = _in_order(
    WorkflowOutbox,
    "id", "event", "expected_registrations", "visits", "deliver_alone", "unwanted_by", "queue",
    "lanes",
)  # fmt: skip
_OF_EVENT: Final = _in_order(WorkflowEventRecord, "id", *EVENT_FIELDS, "published_at")


class Loaded(NamedTuple):
    """The entries of a chunk, each with its event, and what was read in the same statement."""

    entries: list[WorkflowOutbox]
    are_some_paused: bool
    """Whether the registrations that are paused are worth a query."""


class _Among(Expression):
    """A condition: the key is one of *keys*, an array; for PostgreSQL."""

    def __init__(self) -> None:
        super().__init__(output_field=models.BooleanField())

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        table = connection.ops.quote_name(compiler.query.model._meta.db_table)
        return f"{table}.id = ANY(%s)", [Slot("keys", models.Field())]


def _held(rows: "QuerySet[WorkflowOutbox]", number: int) -> "QuerySet[WorkflowOutbox, Any]":
    """*number*: how many keys there are, where there are no arrays."""
    keys: list[Any] = [Slot(f"key {place}", models.BigIntegerField()) for place in range(number)]
    among = rows.filter(pk__in=keys) if keys else rows.filter(_Among())
    held = among.filter(claim_token=Slot("token"), status=OutboxStatus.CLAIMED).order_by("pk")
    of_event = (f"event__{name}" for name in _OF_EVENT)
    return held.values_list(*_OF_ENTRY, *of_event, is_any_registration_paused())


_HELD: CompiledSelect[Any] = CompiledSelect(_held)


def load_held(using: str, token: str, keys: Sequence[int]) -> Loaded:
    """Those of the entries *keys* that the claim *token* holds, in the order of keys."""
    table = WorkflowOutbox.objects.using(using)
    if connections[using].vendor == "postgresql":
        rows = _HELD.rows(table, 0, token=token, keys=list(keys))
    else:
        places = {f"key {place}": key for place, key in enumerate(keys)}
        rows = _HELD.rows(table, len(places), token=token, **places)
    reference: Any = WorkflowOutbox._meta.get_field("event")
    entries: list[WorkflowOutbox] = []
    for row in rows:
        entry = WorkflowOutbox.from_db(using, _OF_ENTRY, row[: len(_OF_ENTRY)])
        event = WorkflowEventRecord.from_db(using, _OF_EVENT, row[len(_OF_ENTRY) : -1])
        reference.set_cached_value(entry, event)
        entries.append(entry)
    return Loaded(entries, any(row[-1] for row in rows))
