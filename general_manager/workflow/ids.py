"""What an id may look like: one rule for events, workflows, keys and names."""

import re
from datetime import datetime
from os import urandom
from time import time_ns
from typing import Final
from uuid import UUID

MAX_ID_LENGTH: Final = 255
"""Characters: what an indexed text column holds on every supported database."""

_INVISIBLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
)
"""Control characters, line separators, and what changes the direction of the text around it."""


def require_id(argument: str, value: object) -> None:
    """Refuse what an indexed column could not hold, and what would forge a line of a log.

    Control characters and marks of direction are refused: ids stand in URLs, logs and terminals.
    Raises `TypeError` or `ValueError` that name *argument*.
    """
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be text, not {value!r}")
    if not value.strip():
        raise ValueError(f"{argument} must not be empty")
    if len(value) > MAX_ID_LENGTH:
        raise ValueError(
            f"{argument} has {len(value)} characters, and {MAX_ID_LENGTH} fit: {value[:40]!r}..."
        )
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{argument} must not contain an unpaired surrogate: {value!r}")
    if not value.isprintable() and (found := _INVISIBLE.search(value)):
        raise ValueError(
            f"{argument} must not contain the control character U+{ord(found[0]):04X}: {value!r}"
        )


def new_id() -> str:
    """A UUID of version 7 (RFC 9562): ids sort by time, so new rows are neighbours in an index."""
    return _uuid7(time_ns() // 1_000_000, int.from_bytes(urandom(10), "big"))


def first_id_at(moment: datetime) -> str:
    """No id of `new_id` from *moment* on is smaller than this."""
    return _uuid7(int(moment.timestamp() * 1000), 0)


def _uuid7(milliseconds: int, noise: int) -> str:
    value = (milliseconds & (1 << 48) - 1) << 80 | noise
    value = value & ~(0xF << 76) | 7 << 76  # the version
    value = value & ~(0x3 << 62) | 2 << 62  # the variant
    return str(UUID(int=value))
