"""A manager's change becomes an event: the only place where managers and workflows meet."""

from collections.abc import Mapping
from typing import Any

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.manager import DataChange
from general_manager.manager.signals import post_data_change
from general_manager.workflow.encoding import encode, storable_text
from general_manager.workflow.event_registry import EventRegistry, get_event_registry
from general_manager.workflow.events import (
    WorkflowEvent,
    manager_created_event,
    manager_deleted_event,
    manager_updated_event,
)

__all__ = ["connect_workflow_signal_bridge", "disconnect_workflow_signal_bridge"]

logger = get_logger(__name__)

SOURCE = "general_manager.manager.signals.post_data_change"
TEXT_LIMIT = 2_000
"""Characters kept of a value that had to be turned into text."""

_UID = "general_manager.workflow.signal_bridge"
_forced: bool | None = None
_registry: EventRegistry | None = None


def listen() -> None:
    """Hear of changes; called at start-up. Whether they are published is asked each time."""
    post_data_change.connect(publish_change, dispatch_uid=_UID)


def follow_the_setting() -> None:
    """Forget `connect_...` and `disconnect_...`: `WORKFLOW_SIGNAL_BRIDGE` decides again."""
    global _forced, _registry
    _forced = _registry = None


def connect_workflow_signal_bridge(registry: EventRegistry | None = None) -> None:
    """Publish managers' changes from now on, whatever the setting says.

    To *registry*, or to the one in force.
    """
    global _forced, _registry
    if registry is not None and not isinstance(registry, EventRegistry):
        raise TypeError(f"registry must be an EventRegistry or None, not {registry!r}")
    _forced, _registry = True, registry
    listen()


def disconnect_workflow_signal_bridge() -> None:
    """Publish no managers' changes from now on, whatever the setting says."""
    global _forced, _registry
    _forced, _registry = False, None


def publish_change(sender: object, *, change: DataChange, **_: Any) -> None:  # noqa: ARG001 - a receiver's signature
    """Publish *change* as part of its own transaction.

    With a registry that is not in the database, handlers run once that transaction commits.
    """
    if _forced or (_forced is None and get_workflow_settings().signal_bridge):
        registry = _registry or get_event_registry()
        registry.publish_with_change(event_of(change), using=change.using)


def event_of(change: DataChange) -> WorkflowEvent:
    """The event that tells of *change*, with every value encoded.

    A value that cannot be JSON becomes text, and a warning in the log: a change that is valid to
    the database must not fail because of what listens to it.
    """
    metadata: dict[str, Any] = {"action": change.action}
    for name in ("creator_id", "history_comment"):
        value = getattr(change, name)
        if value is not None:
            metadata[name] = _encode_or_text(value, f"metadata.{name}")
    about: dict[str, Any] = {
        "manager": change.manager,
        "identification": _encode_values(change.identification, "payload.identification"),
        "source": SOURCE,
        "metadata": metadata,
    }
    if change.action == "create":
        return manager_created_event(
            values=_encode_values(change.new_values, "payload.values"), **about
        )
    if change.action == "delete":
        return manager_deleted_event(**about)
    return manager_updated_event(
        changes=_encode_values(change.new_values, "payload.changes"),
        old_values=_encode_values(change.old_values, "payload.changes"),
        **about,
    )


def _encode_values(values: Mapping[str, Any], root: str) -> dict[str, Any]:
    return {name: _encode_or_text(value, f"{root}.{name}") for name, value in values.items()}


def _encode_or_text(value: Any, root: str) -> Any:
    try:
        return encode(value, root=root)
    except Exception as error:  # noqa: BLE001 - a lazy value's code is the user's
        try:
            text = str(value)
        except Exception:  # noqa: BLE001 - a value's __str__ is the user's code
            text = f"<{type(value).__name__}>"
        logger.warning("%s cannot become JSON (%s); the event has it as text", root, error)
        return storable_text(text, limit=TEXT_LIMIT)
