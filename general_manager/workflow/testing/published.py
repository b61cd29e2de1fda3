"""The events published during a test."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.utils.translation import ngettext

from general_manager.workflow.event_registry.memory import HeldEvent
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.signals import event_held, event_published


@contextmanager
def published() -> Iterator[list[WorkflowEvent]]:
    """The events that a registry accepts in the block, in order; a list that grows.

    Includes events that are kept in memory until an open transaction commits, since a test case
    never commits. At the end of the block, rolled-back events are removed.
    """
    events: list[WorkflowEvent] = []
    held_ids: set[str] = set()
    before = {one.event.event_id for one in held_events()}

    def hold(event: WorkflowEvent, **_: Any) -> None:
        if event.event_id not in held_ids:
            held_ids.add(event.event_id)
            events.append(event)

    def keep(event: WorkflowEvent, **_: Any) -> None:
        if event.event_id in held_ids:
            held_ids.discard(event.event_id)  # already in the list, and committed since
        elif event.event_id not in before:
            events.append(event)

    event_held.connect(hold, weak=False)
    event_published.connect(keep, weak=False)
    try:
        yield events
    finally:
        event_held.disconnect(hold)
        event_published.disconnect(keep)
        gone = held_ids - {one.event.event_id for one in held_events()}
        events[:] = [one for one in events if one.event_id not in gone]


def held_events() -> list[HeldEvent]:
    """Events in memory that wait for a commit in this thread, in order."""
    return [
        hook
        for connection in connections.all(initialized_only=True)
        for _, hook, *_ in connection.run_on_commit
        if isinstance(hook, HeldEvent) and not hook.is_delivered
    ]


@contextmanager
def assert_published(
    event: str, *, count: int | None = None, payload: Mapping[str, Any] | None = None
) -> Iterator[list[WorkflowEvent]]:
    """Raise `AssertionError` unless an event of that type or name is published in the block.

    *count* is the exact number, by default at least one. Only events whose payload contains
    *payload* count. Yields the list of these events, which is filled at the end of the block.
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
    """Whether *whole* contains *part*, at any depth of mappings."""
    if isinstance(part, Mapping) and isinstance(whole, Mapping):
        return all(key in whole and _holds(whole[key], value) for key, value in part.items())
    return bool(whole == part)
