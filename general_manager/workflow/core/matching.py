"""What an event must match to answer a wait: its key, and values at paths into its payload.

Key and values become one hash, the *mailbox*, by which an index finds waits. The paths alone are
the *shape* of a match: an event is hashed once for each shape that waits on its key have.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from json import dumps, loads
from typing import Any, Final

MAILBOX_LENGTH: Final = 64
"""Characters of a mailbox."""

_ABSENT: Final = object()


def shape_of(match: Mapping[str, Any]) -> str:
    """The paths of *match* as JSON, sorted."""
    return dumps(sorted(match), ensure_ascii=False)


def mailbox_of(key: str, match: Mapping[str, Any]) -> str:
    """The hash of *key* and of the encoded values of *match*."""
    values = [[path, _plain(match[path])] for path in sorted(match)]
    return sha256(dumps([key, values], sort_keys=True).encode()).hexdigest()


def mailbox_for(key: str, shape: str, payload: Mapping[str, Any]) -> str | None:
    """The mailbox of an event; `None` if its payload lacks one of the paths."""
    values = {path: value_at(payload, path) for path in loads(shape)}
    return None if _ABSENT in values.values() else mailbox_of(key, values)


def matches(match: Mapping[str, Any], payload: Mapping[str, Any]) -> bool:
    """Whether *payload* has the encoded value of *match* at each of its paths."""
    return all(_plain(value_at(payload, path)) == _plain(value) for path, value in match.items())


def value_at(payload: Any, path: str) -> Any:
    """What is at ``"identification.id"``; a private object, equal to no value, if nothing is."""
    for name in path.split("."):
        if not isinstance(payload, Mapping) or name not in payload:
            return _ABSENT
        payload = payload[name]
    return payload


def is_absent(value: object) -> bool:
    return value is _ABSENT


def keys_of(event_type: str, event_name: str | None) -> Iterable[str]:
    """The keys by which a registration, or a wait, finds such an event."""
    if "." in event_type:
        yield event_type
    if event_name is not None and "." not in event_name:
        yield event_name


def _plain(value: Any) -> Any:
    """JSON knows one kind of numbers: ``1.0`` is ``1``. But ``true`` is not ``1``."""
    if isinstance(value, bool):
        return ["true" if value else "false", None, None]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [len(value), [_plain(item) for item in value]]
    return value
