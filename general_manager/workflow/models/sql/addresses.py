"""What the outbox is given: events with their registrations, and where an entry goes on."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from django.db import connections
from django.db.models import Model

from general_manager.workflow.events import WorkflowEvent, subject_of
from general_manager.workflow.models.sql.inserts import new_keys

EVENT_FIELDS: Final = (
    "event_id", "event_type", "event_name", "source", "payload", "metadata", "occurred_at",
    "ordering_key",
)  # fmt: skip
STORED_FIELDS: Final = (*EVENT_FIELDS, "subject")
ENTRY_FIELDS: Final = ("event", "expected_registrations", "queue", "lanes")


class Addressed(NamedTuple):
    """An event and its registrations."""

    event: WorkflowEvent
    registrations: list[str]
    """Ids of those that match."""
    queue: str = ""
    """Queue of the first."""
    lanes: dict[str, str] | None = None
    """Ids of those that get it in order, each with its queue; `None` for none."""


def values_of(event: WorkflowEvent) -> list[Any]:
    return [*(getattr(event, name) for name in EVENT_FIELDS), subject_of(event.payload)]


def rows_in_turn(
    model: type[Model], events: Sequence[WorkflowEvent], using: str
) -> tuple[tuple[str, ...], list[list[Any]]]:
    """Fields and rows of *events*, in the order of their ids.

    Two transactions with the same events then wait for each other instead of deadlocking. The
    primary keys are in the order of *events*, in which waits take them; where there is no sequence
    to ask, as on MariaDB, they follow the ids. On SQLite one transaction writes at a time.
    """
    fields: tuple[str, ...] = STORED_FIELDS
    rows = [values_of(one) for one in events]
    vendor = connections[using].vendor
    if vendor == "sqlite":
        return fields, rows
    keys = new_keys(model, len(rows), using) if vendor == "postgresql" else []
    if keys:
        fields = (*fields, "id")
        rows = [[*row, key] for row, key in zip(rows, keys, strict=True)]
    return fields, sorted(rows, key=lambda row: str(row[0]))


class Elsewhere(NamedTuple):
    """Where an entry goes on."""

    queue: str
    delay: timedelta
    unwanted_by: Sequence[str]
    """Ids of registrations that did not want the event."""
