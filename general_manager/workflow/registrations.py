"""Who listens to what in this process, as it can be shown to people and machines."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from general_manager.workflow.event_registry import Registration, get_event_registry
from general_manager.workflow.importing import describe, is_importable


@dataclass(frozen=True, slots=True)
class Listener:
    """One registration; functions as people write them."""

    key: str
    handler: str
    is_importable: bool
    """Whether another process finds the handler by that path."""
    id: str
    is_fragile: bool
    """Whether another release may take its deliveries for another's."""
    options: dict[str, Any]
    """What differs from the defaults."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def listeners() -> list[Listener]:
    """In order of keys, and for each in the order in which its handlers are called."""
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
    return Listener(
        key=registration.key,
        handler=describe(registration.handler),
        is_importable=is_importable(registration.handler),
        id=registration.id,
        is_fragile=registration.is_fragile,
        options=options,
    )
