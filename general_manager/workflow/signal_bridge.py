"""Turns managers' changes into events; the only link between managers and workflows."""

import json
import sys
from types import SimpleNamespace
from typing import Any, Final, cast

from django.db.models import Field, Model

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.guarding import attempt
from general_manager.manager import Batch, DataChange
from general_manager.manager.signals import post_data_change
from general_manager.workflow.core.bridging import force, is_on
from general_manager.workflow.core.encoding import encode, storable_text
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
"""Characters kept of a value that its own class converts to text."""

OMITTED: Final = "omitted_bytes"
"""The key of the marker that replaces a value that is too large, beside its size."""

_DJANGOS_OWN: Any = Field.value_to_string
_warned: set[tuple[str, str]] = set()
"""Fields with values that are not JSON; each is logged once."""

_UID = "general_manager.workflow.signal_bridge"
_registry: EventRegistry | None = None


def listen() -> None:
    """Connect to changes at start-up. The setting is read at each change.

    It is the first receiver, so that changes that other receivers make to the row are published
    after the change that caused them.
    """
    post_data_change.connect(publish_change, dispatch_uid=_UID)
    with post_data_change.lock:  # keys are pairs of receiver and sender ids
        ours = [one for one in post_data_change.receivers if one[0][0] == _UID]
        others = [one for one in post_data_change.receivers if one[0][0] != _UID]
        post_data_change.receivers = ours + others


def follow_the_setting() -> None:
    """Undo `connect_...` and `disconnect_...`: `WORKFLOW_SIGNAL_BRIDGE` decides again."""
    global _registry
    _registry = None
    force(on=None)


def connect_workflow_signal_bridge(registry: EventRegistry | None = None) -> None:
    """Publish managers' changes from now on, regardless of the setting.

    Publishes to *registry*, by default to the current one.
    """
    global _registry
    if registry is not None and not isinstance(registry, EventRegistry):
        raise TypeError(f"registry must be an EventRegistry or None, not {registry!r}")
    _registry = registry
    force(on=True)
    listen()


def disconnect_workflow_signal_bridge() -> None:
    """Stop publishing managers' changes, regardless of the setting."""
    global _registry
    _registry = None
    force(on=False)


def publish_change(
    sender: object,
    *,
    change: DataChange,
    batch: Batch | None = None,
    **_: Any,
) -> None:
    """Publish *change* in its own transaction, or with the other changes of its *batch*.

    With a registry outside the database, handlers run once that transaction commits.
    """
    del sender  # a receiver has it
    if not is_on():
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
    else:  # a project's own registry with fewer methods
        for event in events:
            registry.publish_with_change(event, using=using)


def event_of(change: DataChange) -> WorkflowEvent:
    """The event for *change*, with every value encoded.

    A change that the database accepts must not fail because of its event. A value that is not JSON
    is converted by Django's serializers or else to text, and values that make the event too large
    are omitted; both are logged.
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
    """Replace the largest *values* by markers until all of them fit."""
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
            "%s.%s has %d bytes; its event omits the value, because WORKFLOW_EVENT_MAX_BYTES is %d",
            change.manager,
            name,
            size,
            limit,
        )
        if total <= limit:
            return


def _upper_bound(encoded: Any) -> int:
    """An upper bound of the bytes as JSON; exact only if that is cheap."""
    if isinstance(encoded, str):
        return 6 * len(encoded) + 2
    if isinstance(encoded, dict | list):
        return len(json.dumps(encoded))
    return 32 if not isinstance(encoded, int) else 32 + encoded.bit_length() // 3


def _encode_both(change: DataChange, name: str, old: Any, new: Any, root: str) -> tuple[Any, Any]:
    """Both sides of a field's change in the same form: if one is not JSON, both are converted."""
    try:
        return encode(old, root=root), encode(new, root=root)
    except Exception as error:  # noqa: BLE001 - a lazy value runs user code
        field = _field_of(change, name)
        about = (change.manager, name)
        if field is None or about not in _warned:
            _warned.add(about)
            logger.warning(
                "%s cannot be encoded as JSON (%s); events contain its text", root, error
            )
    return _serialized(old, field, root), _serialized(new, field, root)


def _field_of(change: DataChange, name: str) -> "Field[Any, Any] | None":
    for one in change.model._meta.concrete_fields if change.model is not None else ():
        if name in {one.name, one.attname}:
            return one
    return None


def _serialized(value: Any, field: "Field[Any, Any] | None", root: str) -> Any:
    """*value* as Django's serializers write it, or as *field* stores it, or as text."""
    if value is None:
        return None
    if field is None:
        return _text(value)
    written = attempt(lambda: _written(value, field, root), None)
    return _text(value) if written is None else written[0]


def _written(value: Any, field: "Field[Any, Any]", root: str) -> tuple[Any]:
    written: Any
    if type(field).value_to_string is not _DJANGOS_OWN:
        written = field.value_to_string(cast(Model, SimpleNamespace(**{field.attname: value})))
    else:  # Django's own is str(), which may be incomplete
        written = field.get_prep_value(value)
    if isinstance(written, str):
        return (storable_text(written, limit=sys.maxsize),)
    return (encode(written, root=root),)


def _encode_or_text(value: Any, root: str) -> Any:
    try:
        return encode(value, root=root)
    except Exception as error:  # noqa: BLE001 - a lazy value runs user code
        logger.warning(
            "%s cannot be encoded as JSON (%s); the event contains its text", root, error
        )
        return _text(value)


def _text(value: Any) -> str:
    text = attempt(lambda: str(value), otherwise=f"<{type(value).__name__}>")
    return storable_text(text, limit=TEXT_LIMIT)
