"""Events as plain values, and the three constructors for managers' changes.

Nothing here needs Django to be configured, so events can be built and tested anywhere.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime
from hashlib import sha256
from json import dumps, loads
from typing import Any, Final
from uuid import uuid4

from general_manager.workflow.core.ids import MAX_ID_LENGTH, require_id

__all__ = [
    "EXECUTION_CANCELLED",
    "EXECUTION_COMPLETED",
    "EXECUTION_FAILED",
    "MANAGER_CREATED",
    "MANAGER_DELETED",
    "MANAGER_UPDATED",
    "WorkflowEvent",
    "manager_created_event",
    "manager_deleted_event",
    "manager_updated_event",
]

EXECUTION_COMPLETED: Final = "general_manager.execution.completed"
EXECUTION_FAILED: Final = "general_manager.execution.failed"
EXECUTION_CANCELLED: Final = "general_manager.execution.cancelled"
MANAGER_CREATED: Final = "general_manager.manager.created"
MANAGER_UPDATED: Final = "general_manager.manager.updated"
MANAGER_DELETED: Final = "general_manager.manager.deleted"


@dataclass(frozen=True, slots=True)
class WorkflowEvent:
    """One thing that happened.

    *event_id* makes it unique: a registry ignores an id that it has seen before.
    *event_type* is canonical and has a dot (``shop.order.paid``); *event_name* is a readable name
    without one (``order_paid``). Handlers may be registered for either.
    *payload* and *metadata* are mappings that can be encoded as JSON; *occurred_at* is aware.
    Events with the same *ordering_key*, such as ``order:7``, reach a handler that is registered
    with ``in_order=True`` one after the other; a manager's events have its identification as key.

    Raises `TypeError` or `ValueError` that names the wrong argument.
    """

    event_id: str
    event_type: str
    payload: Mapping[str, Any]
    event_name: str | None = None
    source: str | None = None
    occurred_at: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    ordering_key: str | None = None

    def __post_init__(self) -> None:
        require_id("event_id", self.event_id)
        require_id("event_type", self.event_type)
        if self.event_name is not None:
            require_id("event_name", self.event_name)
        if self.source is not None:
            require_id("source", self.source)
        _require_mapping("payload", self.payload)
        _require_mapping("metadata", self.metadata)
        if self.ordering_key is not None:
            require_id("ordering_key", self.ordering_key)
        if self.occurred_at is not None:
            _require_aware(self.occurred_at)


def subject_of(payload: Mapping[str, Any]) -> str | None:
    """The subject of an event, such as ``Invoice 7``; `None` if its payload has none.

    Built from the payload's ``manager`` and ``identification``: an identification with one entry
    is written as its value, any other as JSON with sorted keys. Operators search by it.
    """
    manager, identification = payload.get("manager"), payload.get("identification")
    if not isinstance(manager, str) or not manager.strip() or identification in (None, "", {}, []):
        return None
    if isinstance(identification, Mapping) and len(identification) == 1:
        (identification,) = identification.values()
    text = identification if isinstance(identification, str) else _as_json(identification)
    subject = f"{manager} {text}"
    if len(subject) <= MAX_ID_LENGTH:
        return subject
    digest = sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{subject[: MAX_ID_LENGTH - len(digest) - 1]}~{digest}"


def ordering_key_of(event: WorkflowEvent) -> str | None:
    """The key whose events are delivered in order; `None` if the event has none."""
    return event.ordering_key or subject_of(event.payload)


def subjects_in(term: str) -> set[str]:
    """The subjects that *term* may mean: ``Invoice 7``, ``Invoice:7``, ``Invoice {"id": 7}``."""
    found = {term}
    parts = re.match(r"([^\s:#]+)[\s:#]+(\S.*)$", term, re.DOTALL)
    if parts is None:
        return found
    manager, rest = parts.groups()
    found.add(subject_of({"manager": manager, "identification": rest}) or term)
    try:
        identification = loads(rest)
    except (ValueError, RecursionError):
        return found
    found.add(subject_of({"manager": manager, "identification": identification}) or term)
    return found


def _as_json(value: Any) -> str:
    return dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def stored_event(*fields: Any) -> WorkflowEvent:
    """The event with these stored *fields*, in order, without validation.

    They were validated before; values that another program stored must not prevent a delivery.
    """
    event = object.__new__(WorkflowEvent)
    for name, value in zip(_NAMES, fields, strict=True):
        object.__setattr__(event, name, value)
    return event


def event_with(
    event: WorkflowEvent, payload: Mapping[str, Any], metadata: Mapping[str, Any]
) -> WorkflowEvent:
    """A copy of *event* with these mappings; its other fields are already validated."""
    if type(event) is not WorkflowEvent:
        return replace(event, payload=payload, metadata=metadata)
    return stored_event(
        event.event_id,
        event.event_type,
        payload,
        event.event_name,
        event.source,
        event.occurred_at,
        metadata,
        event.ordering_key,
    )


_NAMES: Final = tuple(one.name for one in dataclass_fields(WorkflowEvent))


def manager_created_event(
    *,
    manager: str,
    values: Mapping[str, Any],
    identification: Mapping[str, Any] | None = None,
    event_name: str = "manager_created",
    event_id: str | None = None,
    source: str | None = None,
    occurred_at: datetime | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> WorkflowEvent:
    """A *manager* was created with these *values* by field name."""
    _require_mapping("values", values)
    return _manager_event(
        MANAGER_CREATED,
        manager,
        identification,
        {"values": dict(values)},
        event_name=event_name,
        event_id=event_id,
        source=source,
        occurred_at=occurred_at,
        metadata=metadata,
    )


def manager_updated_event(
    *,
    manager: str,
    changes: Mapping[str, Any],
    old_values: Mapping[str, Any] | None = None,
    identification: Mapping[str, Any] | None = None,
    event_name: str = "manager_updated",
    event_id: str | None = None,
    source: str | None = None,
    occurred_at: datetime | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> WorkflowEvent:
    """A *manager* was updated: *changes* are the new values, *old_values* the previous ones.

    The payload contains both by field: ``{"status": {"old": "draft", "new": "active"}}``.
    A missing old value is `None`.
    """
    _require_mapping("changes", changes)
    if old_values is None:
        old_values = {}
    _require_mapping("old_values", old_values)
    differences = {
        name: {"old": old_values.get(name), "new": new_value} for name, new_value in changes.items()
    }
    return _manager_event(
        MANAGER_UPDATED,
        manager,
        identification,
        {"changes": differences},
        event_name=event_name,
        event_id=event_id,
        source=source,
        occurred_at=occurred_at,
        metadata=metadata,
    )


def manager_deleted_event(
    *,
    manager: str,
    values: Mapping[str, Any] | None = None,
    identification: Mapping[str, Any] | None = None,
    event_name: str = "manager_deleted",
    event_id: str | None = None,
    source: str | None = None,
    occurred_at: datetime | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> WorkflowEvent:
    """A *manager* was deleted; *values*, in the payload only if given, are its last values."""
    if values is not None:
        _require_mapping("values", values)
    return _manager_event(
        MANAGER_DELETED,
        manager,
        identification,
        {} if values is None else {"values": dict(values)},
        event_name=event_name,
        event_id=event_id,
        source=source,
        occurred_at=occurred_at,
        metadata=metadata,
    )


def _manager_event(
    event_type: str,
    manager: str,
    identification: Mapping[str, Any] | None,
    details: dict[str, Any],
    *,
    event_name: str,
    event_id: str | None,
    source: str | None,
    occurred_at: datetime | None,
    metadata: Mapping[str, Any] | None,
) -> WorkflowEvent:
    require_id("manager", manager)
    payload: dict[str, Any] = {"manager": manager}
    if identification is not None:
        _require_mapping("identification", identification)
        payload["identification"] = dict(identification)
    payload.update(details)
    if metadata is not None:
        _require_mapping("metadata", metadata)
    return WorkflowEvent(
        event_id=str(uuid4()) if event_id is None else event_id,
        event_type=event_type,
        payload=payload,
        event_name=event_name,
        source=source,
        occurred_at=datetime.now(UTC) if occurred_at is None else occurred_at,
        metadata=dict(metadata or {}),
    )


def _require_mapping(argument: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{argument} must be a mapping, not {value!r}")


def _require_aware(value: object) -> None:
    if not isinstance(value, datetime):
        raise TypeError(f"occurred_at must be a datetime, not {value!r}")
    if value.utcoffset() is None:
        raise ValueError(
            f"occurred_at must have a time zone, but {value!r} has none. "
            "Use django.utils.timezone.now()."
        )
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"occurred_at {value!r} is out of range in UTC") from None
