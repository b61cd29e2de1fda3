"""Encodes values as JSON: payloads, inputs, outputs, answers and step results.

Every registry and both engines use `encode`, in local mode too, so that code that works locally
also works with a database. A value that JSON cannot represent is rejected with its path
(``payload.changes.owner.new``) before anything is stored.
"""

import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from traceback import format_exception
from typing import Any, Final
from uuid import UUID

from django.db.models import Model
from django.db.models.fields.files import FieldFile
from django.utils.duration import duration_iso_string
from django.utils.functional import LazyObject, Promise, empty

from general_manager.guarding import attempt
from general_manager.manager import GeneralManager
from general_manager.workflow.exceptions import EncodingError

MAX_DEPTH: Final = 30
"""Deeper nesting is rejected everywhere: MariaDB allows 32 levels, and we may wrap a value."""

MAX_INTEGER_BITS: Final = 4096
"""Larger integers are rejected: Python itself refuses to print more than 4,300 digits."""

ERROR_LIMIT: Final = 10_000
TRACEBACK_LIMIT: Final = 50_000
"""Characters kept of an error's text and of its traceback."""


def encode(value: Any, *, root: str) -> Any:
    """Return *value* as new dicts, lists, strings, numbers, booleans and `None`.

    Dates, times and durations become ISO 8601 text, `Decimal` and `UUID` text, an enum member its
    value, a set a sorted list, a lazy string its text, a saved model instance its primary key, a
    manager its identification.

    Raises `EncodingError` with a path that begins at *root* for NaN and infinities, bytes, NUL
    characters, unpaired surrogates, cycles, keys that are not text, and any other type.
    """
    try:
        return _encode(value, 0)
    except _Refused as refused:
        raise _explained(refused, value, root) from refused.__cause__


def encode_mapping(value: Mapping[str, Any], *, root: str) -> dict[str, Any]:
    """`encode` for a mapping. Raises `TypeError` if *value* is not one."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{root} must be a mapping, not {value!r}")
    try:
        return _encode_mapping(value, 0)
    except _Refused as refused:
        raise _explained(refused, value, root) from refused.__cause__


def copy_encoded(value: Any) -> Any:
    """A deep copy of an encoded value."""
    if isinstance(value, dict):
        return {key: copy_encoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copy_encoded(item) for item in value]
    return value


def storable_text(text: str, *, limit: int) -> str:
    """*text* for any database: no NUL, no unpaired surrogate, at most *limit* characters.

    A longer text loses its middle: the beginning and the end of an error matter most.
    """
    text = text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()
    if len(text) <= limit:
        return text
    mark = "\n[...]\n"
    head = (limit - len(mark)) // 2
    return text[:head] + mark + text[len(text) - (limit - len(mark) - head) :]


def error_text(error: BaseException) -> str:
    """The text of *error*, or its type if the text is empty or cannot be produced."""
    text = attempt(lambda: str(error), "")  # the exception is user code
    if text and isinstance(error, KeyError):  # its text is only the key
        text = f"KeyError: {text}"
    return storable_text(text or type(error).__name__, limit=ERROR_LIMIT)


def traceback_text(error: BaseException) -> str:
    # Formatting calls the user's __str__.
    lines = attempt(lambda: format_exception(error), [type(error).__name__])
    return storable_text("".join(lines), limit=TRACEBACK_LIMIT)


class _Refused(Exception):
    """Unwinds an encoding; each container adds its part of the path, innermost first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.where: list[str | int] = []


class _TooDeep(_Refused):
    """Nested deeper than `MAX_DEPTH`, or endlessly."""


def _encode(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return _encode_text(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return _encode_integer(value)
    if kind is dict:
        return _encode_mapping(value, depth)
    if kind is list or kind is tuple:
        return _encode_items(value, depth)
    return _encode_unusual(value, depth)


def _encode_unusual(value: Any, depth: int) -> Any:  # noqa: C901, PLR0911, PLR0912 - one branch per type
    if issubclass(type(value), LazyObject):
        return _encode(_behind(value), depth)
    if isinstance(value, Enum):
        return _encode(value.value, depth)
    if isinstance(value, str):
        return _encode_text(str.__str__(value))
    if isinstance(value, int):
        return _encode_integer(int(value))
    if isinstance(value, float):
        if not isfinite(value):
            raise _Refused(f"{value!r} is not a JSON number")
        return float(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise _Refused(f"{value!r} is not a JSON number")
        return str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return duration_iso_string(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Promise):
        return _encode_text(str(value))
    if isinstance(value, GeneralManager):
        return _encode_mapping(value.identification, depth)
    if isinstance(value, Model):
        if value.pk is None:
            raise _Refused(f"this {type(value).__name__} has no key: it is unsaved or deleted")
        return _encode(value.pk, depth)
    if isinstance(value, FieldFile):
        return value.name and _encode_text(value.name)
    if isinstance(value, Mapping):
        return _encode_mapping(value, depth)
    if isinstance(value, AbstractSet):
        return sorted(_encode_items(value, depth), key=_sort_key)
    if isinstance(value, list | tuple):
        return _encode_items(value, depth)
    if isinstance(value, bytes | bytearray | memoryview):
        raise _Refused("JSON cannot contain bytes: store them and pass a reference")
    raise _Refused(f"{type(value).__module__}.{type(value).__qualname__} cannot be encoded as JSON")


def _behind(lazy: Any) -> Any:
    """The object behind a `SimpleLazyObject`, such as ``request.user``."""
    if lazy._wrapped is empty:
        lazy._setup()
    return lazy._wrapped


def _encode_text(text: str) -> str:
    if "\x00" in text:
        raise _Refused("text with a NUL character cannot be stored by every database")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _Refused("text with an unpaired surrogate is not Unicode") from error
    return text


def _encode_integer(value: int) -> int:
    if value.bit_length() > MAX_INTEGER_BITS:
        raise _Refused(f"an integer of {value.bit_length()} bits is too long")
    return value


def _encode_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    if depth >= MAX_DEPTH:
        raise _TooDeep(f"it is nested more than {MAX_DEPTH} deep")
    encoded: dict[str, Any] = {}
    for key, item in value.items():
        name = _encode_text(key) if type(key) is str else _encode_key(key)
        if name in encoded:
            raise _Refused(f"two keys become the same text {name!r}")
        try:
            encoded[name] = _encode(item, depth + 1)
        except _Refused as refused:
            refused.where.append(name)
            raise
    return encoded


def _encode_key(key: Any) -> str:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str | Promise):
        return _encode_text(str(key))
    if isinstance(key, int | UUID | date) and not isinstance(key, bool):
        return str(_encode(key, 0))
    raise _Refused(f"the key {key!r} is not a string")


def _encode_items(items: Iterable[Any], depth: int) -> list[Any]:
    if depth >= MAX_DEPTH:
        raise _TooDeep(f"it is nested more than {MAX_DEPTH} deep")
    encoded: list[Any] = []
    for item in items:
        try:
            encoded.append(_encode(item, depth + 1))
        except _Refused as refused:
            refused.where.append(len(encoded))
            raise
    return encoded


def _sort_key(encoded: Any) -> str:
    return json.dumps(encoded, sort_keys=True)


def _explained(refused: _Refused, value: Any, root: str) -> EncodingError:
    where, reason = refused.where[::-1], refused.reason
    if isinstance(refused, _TooDeep):
        where, reason = _cycle_along(value, where) or (where[:5], reason)
    path = root
    for part in where:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return EncodingError(path, reason)


def _cycle_along(value: Any, where: list[str | int]) -> tuple[list[str | int], str] | None:
    """The path at which *value* contains itself, or `None`."""
    above = [value]
    for position, part in enumerate(where):
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, Mapping):
            value = next(item for key, item in value.items() if _encode_key(key) == part)
        else:
            value = list(value)[int(part)]
        if any(value is one for one in above):
            return where[: position + 1], "it contains itself"
        above.append(value)
    return None
