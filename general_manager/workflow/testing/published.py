"""What was published during a test."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.utils.translation import ngettext

from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.signals import event_published


@contextmanager
def published() -> Iterator[list[WorkflowEvent]]:
    """The events that a registry accepts in the block, in order; grows as they come."""
    events: list[WorkflowEvent] = []

    def keep(event: WorkflowEvent, **_: Any) -> None:
        events.append(event)

    event_published.connect(keep, weak=False)
    try:
        yield events
    finally:
        event_published.disconnect(keep)


@contextmanager
def assert_published(
    event: str, *, count: int | None = None, payload: Mapping[str, Any] | None = None
) -> Iterator[list[WorkflowEvent]]:
    """Raise `AssertionError` unless an event of that type or name is published in the block.

    *count* is how many must be, exactly; without it at least one. *payload* is what each counted
    event's payload must hold, besides other things. Yields the counted events, filled at the end.
    """
    found: list[WorkflowEvent] = []
    with published() as events:
        yield found
    found += [
        one
        for one in events
        if event in (one.event_type, one.event_name) and _holds(one.payload, payload or {})
    ]
    if len(found) == count or (count is None and found):
        return
    words = "at least one event" if count is None else ngettext("%d event", "%d events", count)
    wanted = words if count is None else words % count
    about = f" with {dict(payload)!r} in the payload" if payload else ""
    listed = "\n".join(f"  {one.event_name or one.event_type}: {one.payload!r}" for one in events)
    raise AssertionError(
        f"Expected {wanted} {event!r}{about}, found {len(found)}. Published were:\n"
        f"{listed or '  nothing'}"
    )


def _holds(whole: Any, part: Any) -> bool:
    """Whether *whole* has what *part* has, at any depth of mappings."""
    if isinstance(part, Mapping) and isinstance(whole, Mapping):
        return all(key in whole and _holds(whole[key], value) for key, value in part.items())
    return bool(whole == part)
