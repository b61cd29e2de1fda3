"""A manager's change becomes an event: the only place where managers and workflows meet."""

import json
import sys
from types import SimpleNamespace
from typing import Any, Final, cast

from django.db.models import Field, Model

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.manager import Batch, DataChange
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
"""Characters kept of a value that had to be turned into text by its own class."""

OMITTED: Final = "omitted_bytes"
"""The one key of what stands for a value that is too large; its size is beside it."""

_DJANGOS_OWN: Any = Field.value_to_string
_warned: set[tuple[str, str]] = set()
"""Fields whose values were found not to be JSON: one warning for each is enough."""

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


def publish_change(
    sender: object,  # noqa: ARG001 - a receiver's signature
    *,
    change: DataChange,
    batch: Batch | None = None,
    **_: Any,
) -> None:
    """Publish *change* as part of its own transaction; one of a *batch* together with the others.

    With a registry that is not in the database, handlers run once that transaction commits.
    """
    if not (_forced or (_forced is None and get_workflow_settings().signal_bridge)):
        return
    if batch is None:
        registry = _registry or get_event_registry()
        registry.publish_with_change(event_of(change), using=change.using)
    else:
        batch.keep(_publish_all, event_of(change))


def _publish_all(events: list[WorkflowEvent], using: str) -> None:
    registry: Any = _registry or get_event_registry()
    if hasattr(registry, "publish_many_with_changes"):
        registry.publish_many_with_changes(events, using=using)
    else:  # a registry of the project's own, written to less
        for event in events:
            registry.publish_with_change(event, using=using)


def event_of(change: DataChange) -> WorkflowEvent:
    """The event that reports *change*, with every value encoded.

    A change that is valid to the database must not fail because of what listens to it: a value
    that cannot be JSON becomes what Django's serializers make of it, or else its text, and one that
    makes the event too large is left out; the log says so.
    """
    metadata: dict[str, Any] = {"action": change.action}
    if change.model is not None:
        metadata["model"] = change.model._meta.label
    for name in ("creator_id", "history_comment"):
        value = getattr(change, name)
        if value is not None:
            metadata[name] = _encode_or_text(value, f"metadata.{name}")
    about: dict[str, Any] = {
        "manager": change.manager,
        "identification": {
            name: _encode_both(change, name, None, value, f"payload.identification.{name}")[1]
            for name, value in change.identification.items()
        },
        "source": SOURCE,
        "metadata": metadata,
    }
    root = "payload.changes" if change.action == "update" else "payload.values"
    old_values: dict[str, Any] = {}
    new_values: dict[str, Any] = {}
    for name, (old, new) in change.changes.items():
        old_values[name], new_values[name] = _encode_both(change, name, old, new, f"{root}.{name}")
    leave_out_the_largest(change, old_values, new_values)
    if change.action == "create":
        return manager_created_event(values=new_values, **about)
    if change.action == "delete":
        return manager_deleted_event(values=old_values, **about)
    return manager_updated_event(changes=new_values, old_values=old_values, **about)


def leave_out_the_largest(change: DataChange, *values: dict[str, Any]) -> None:
    """Put markers in place of the largest of *values* while all of them are too many bytes."""
    limit = get_workflow_settings().event_max_bytes
    if sum(_upper_bound(value) for group in values for value in group.values()) <= limit:
        return
    sizes = [
        (len(json.dumps(value)), name, group) for group in values for name, value in group.items()
    ]
    total = sum(size for size, _, _ in sizes)
    for size, name, group in sorted(sizes, key=lambda one: one[0], reverse=True):
        marker = {OMITTED: size}
        total += len(json.dumps(marker)) - size
        group[name] = marker
        logger.warning(
            "%s.%s has %d bytes; its event leaves the value out, because WORKFLOW_EVENT_MAX_BYTES "
            "is %d",
            change.manager,
            name,
            size,
            limit,
        )
        if total <= limit:
            return


def _upper_bound(encoded: Any) -> int:
    """At least as many bytes as JSON takes; exact only where that is quickly found out."""
    if isinstance(encoded, str):
        return 6 * len(encoded) + 2
    if isinstance(encoded, dict | list):
        return len(json.dumps(encoded))
    return 32 if not isinstance(encoded, int) else 32 + encoded.bit_length() // 3


def _encode_both(change: DataChange, name: str, old: Any, new: Any, root: str) -> tuple[Any, Any]:
    """Both sides of a field's change in one form: where one cannot be JSON, neither is taken so."""
    try:
        return encode(old, root=root), encode(new, root=root)
    except Exception as error:  # noqa: BLE001 - a lazy value's code is the user's
        field = _field_of(change, name)
        about = (change.manager, name)
        if field is None or about not in _warned:
            _warned.add(about)
            logger.warning("%s cannot become JSON (%s); events have it as text", root, error)
    return _serialized(old, field, root), _serialized(new, field, root)


def _field_of(change: DataChange, name: str) -> "Field[Any, Any] | None":
    for one in change.model._meta.concrete_fields if change.model is not None else ():
        if name in {one.name, one.attname}:
            return one
    return None


def _serialized(value: Any, field: "Field[Any, Any] | None", root: str) -> Any:
    """What Django's serializers write for *value*, or what *field* stores, or its text."""
    if value is None:
        return None
    try:
        if field is None:
            return _text(value)
        written: Any
        if type(field).value_to_string is not _DJANGOS_OWN:
            written = field.value_to_string(cast(Model, SimpleNamespace(**{field.attname: value})))
        else:  # Django's own is str(), which need not say everything
            written = field.get_prep_value(value)
        if isinstance(written, str):
            return storable_text(written, limit=sys.maxsize)
        return encode(written, root=root)
    except Exception:  # noqa: BLE001 - the field is the user's code
        return _text(value)


def _encode_or_text(value: Any, root: str) -> Any:
    try:
        return encode(value, root=root)
    except Exception as error:  # noqa: BLE001 - a lazy value's code is the user's
        logger.warning("%s cannot become JSON (%s); the event has it as text", root, error)
        return _text(value)


def _text(value: Any) -> str:
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a value's __str__ is the user's code
        text = f"<{type(value).__name__}>"
    return storable_text(text, limit=TEXT_LIMIT)
