"""The format of ids: one rule for events, workflows, keys and names."""

import re
from datetime import datetime
from hashlib import sha256
from os import urandom
from time import time_ns
from typing import Final
from uuid import UUID

from general_manager.workflow.exceptions import WorkflowExecutionNotFoundError

MAX_ID_LENGTH: Final = 255
"""Maximum length of an indexed text column on every supported database."""

MAX_QUEUE_LENGTH: Final = 100
"""Maximum length of the name of a queue."""

_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
)
"""Control characters, line separators, and marks that change the text direction."""


def require_id(argument: str, value: object) -> None:
    """Reject a value that an indexed column cannot store or that could forge a log line.

    Control characters and direction marks are rejected: ids appear in URLs, logs and terminals.
    Raises `TypeError` or `ValueError` that names *argument*.
    """
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be text, not {value!r}")
    if not value.strip():
        raise ValueError(f"{argument} must not be empty")
    if len(value) > MAX_ID_LENGTH:
        raise ValueError(
            f"{argument} has {len(value)} characters, more than {MAX_ID_LENGTH}: {value[:40]!r}..."
        )
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{argument} must not contain an unpaired surrogate: {value!r}")
    if not value.isprintable() and (found := _UNPRINTABLE.search(value)):
        raise ValueError(
            f"{argument} must not contain the control character U+{ord(found[0]):04X}: {value!r}"
        )


def require_queue(queue: object) -> None:
    """Reject what cannot be the name of a queue; empty is the project's own routing."""
    if queue == "":
        return
    require_id("queue", queue)
    if len(str(queue)) > MAX_QUEUE_LENGTH:
        raise ValueError(f"queue must have at most {MAX_QUEUE_LENGTH} characters: {queue!r}")


LANE_LENGTH: Final = 32
"""Characters of `lane_of`."""


def lane_of(registration_id: str, key: str) -> str:
    """The name of the lane in which the events of *key* reach a registration in order.

    A digest: it fits every index, and publishing computes it without a query.
    """
    text = f"{len(registration_id)} {registration_id} {key}"
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:LANE_LENGTH]


EXECUTION_ID_LENGTH: Final = 36
"""Characters of an execution's id, and of the column that holds it."""


def require_execution_id(execution_id: object) -> str:
    """Raise `WorkflowExecutionNotFoundError` if the value cannot be an id, without a query.

    A database would reject some of these values, or find ``5`` by the integer 5.
    """
    if (
        isinstance(execution_id, str)
        and 0 < len(execution_id) <= EXECUTION_ID_LENGTH
        and execution_id.isascii()
        and execution_id.isprintable()
    ):
        return str(execution_id)
    raise WorkflowExecutionNotFoundError(execution_id)


def new_id() -> str:
    """A UUID of version 7 (RFC 9562): ids sort by time, so new rows are adjacent in an index."""
    return _uuid7(time_ns() // 1_000_000, int.from_bytes(urandom(10), "big"))


def first_id_at(moment: datetime) -> str:
    """A lower bound of all ids that `new_id` creates from *moment* on."""
    return _uuid7(int(moment.timestamp() * 1000), 0)


def _uuid7(milliseconds: int, noise: int) -> str:
    value = (milliseconds & (1 << 48) - 1) << 80 | noise
    value = value & ~(0xF << 76) | 7 << 76  # the version
    value = value & ~(0x3 << 62) | 2 << 62  # the variant
    return str(UUID(int=value))
