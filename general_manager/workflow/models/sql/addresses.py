"""What the outbox is given: events with their registrations, and where an entry goes on."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from general_manager.workflow.events import WorkflowEvent, subject_of

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


class Elsewhere(NamedTuple):
    """Where an entry goes on."""

    queue: str
    delay: timedelta
    unwanted_by: Sequence[str]
    """Ids of registrations that did not want the event."""
