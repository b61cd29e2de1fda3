"""Warn once about types, names and keys that can never match, and suggest a correction."""

from threading import Lock
from typing import Final

from general_manager.escaping import get_logger
from general_manager.parsing import did_you_mean
from general_manager.workflow.events import (
    EXECUTION_CANCELLED,
    EXECUTION_COMPLETED,
    EXECUTION_FAILED,
    MANAGER_CREATED,
    MANAGER_DELETED,
    MANAGER_UPDATED,
    WorkflowEvent,
)

logger = get_logger(__name__)

OUR_PREFIX: Final = "general_manager."
OUR_TYPES: Final = (
    MANAGER_CREATED, MANAGER_UPDATED, MANAGER_DELETED,
    EXECUTION_COMPLETED, EXECUTION_FAILED, EXECUTION_CANCELLED,
)  # fmt: skip
MOST_REMEMBERED: Final = 1_000
"""Limits the warnings: types and names built from data would fill the log and memory."""

_logged: set[tuple[str, str]] = set()
_lock = Lock()


def warn_of_unmatched(event: WorkflowEvent) -> None:
    """Warn about a type without a dot or a name with one: no registered key can match."""
    kind, name = event.event_type, event.event_name
    if "." not in kind and _is_new("event_type", kind):
        logger.warning(
            "The event type %r has no dot, so no registration for it can match: keys without a dot "
            "are compared with names. Write a type with a dot, such as %r, or register for a name "
            "and publish the event with event_name=%r.",
            kind, f"shop.{kind}", name or kind,
        )  # fmt: skip
    if name is not None and "." in name and _is_new("event_name", name):
        logger.warning(
            "The event name %r has a dot, so no registration for it can match: keys with a dot are "
            "compared with types. Write a name without one, such as %r, or make it the type.",
            name, name.replace(".", "_"),
        )  # fmt: skip


def warn_of_unpublished(key: object) -> None:
    """Warn about a key that no event can have: an unknown type of ours, or outer spaces."""
    if not isinstance(key, str):
        return
    if key.startswith(OUR_PREFIX) and key not in OUR_TYPES and _is_new("key", key):
        logger.warning(
            "A handler is registered for %r%s, but no such event is ever published. The types that "
            "begin with %r are: %s.",
            key, did_you_mean(key, OUR_TYPES), OUR_PREFIX, ", ".join(OUR_TYPES),
        )  # fmt: skip
    if key != key.strip() and key.strip() and _is_new("key", key):
        logger.warning(
            "A handler is registered for %r, with outer spaces; keys match exactly. Write %r.",
            key, key.strip(),
        )  # fmt: skip


def _is_new(kind: str, text: str) -> bool:
    with _lock:
        if (kind, text) in _logged or len(_logged) >= MOST_REMEMBERED:
            return False
        _logged.add((kind, text))
        return True
