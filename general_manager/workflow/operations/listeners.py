"""The registrations of this process in a form to print or serialise."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from general_manager.workflow.core.importing import describe, is_importable
from general_manager.workflow.event_registry import Registration, get_event_registry


@dataclass(frozen=True, slots=True)
class Listener:
    """One registration, its functions as dotted paths."""

    key: str
    handler: str
    is_importable: bool
    """Whether another process can import the handler by that path."""
    id: str
    is_fragile: bool
    """Whether its id may change in another release."""
    options: dict[str, Any]
    """The options that differ from the defaults."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def listeners() -> list[Listener]:
    """All registrations, sorted by key, then in the order of their calls."""
    registrations = get_event_registry().registrations()
    return sorted((_listener(one) for one in registrations), key=lambda one: one.key)


def _listener(registration: Registration) -> Listener:
    named: dict[str, Callable[..., Any] | None] = {
        "when": registration.when,
        "validator": registration.validator,
        "retry_on": registration.retry_on,
        "dead_letter_handler": registration.dead_letter_handler,
    }
    options: dict[str, Any] = {name: describe(one) for name, one in named.items() if one}
    if registration.retries:
        options["retries"] = registration.retries
    if not registration.atomic:
        options["atomic"] = False
    if registration.queue:
        options["queue"] = registration.queue
    if registration.in_order:
        options |= {"in_order": True, "on_dead": registration.on_dead}
    if registration.grouped:
        options["grouped"] = True
    return Listener(
        key=registration.key,
        handler=describe(registration.handler),
        is_importable=is_importable(registration.handler),
        id=registration.id,
        is_fragile=registration.is_fragile,
        options=options,
    )
