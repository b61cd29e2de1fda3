"""Signals: what was sent to an execution, and what became of it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

__all__ = ["SignalSnapshot", "SignalStatus"]


class SignalStatus(StrEnum):
    """What became of a signal."""

    KEPT = "kept"
    """No wait has asked for it yet."""
    TAKEN = "taken"
    """It is the answer of a wait."""
    WITHDRAWN = "withdrawn"
    """It was the answer of a wait that an operator took back; no wait gets it again."""
    UNREAD = "unread"
    """The execution ended without asking for it."""


@dataclass(frozen=True, slots=True)
class SignalSnapshot:
    """One signal, as it was at one moment."""

    name: str
    value: Any
    status: SignalStatus
    sent_to: str
    """Id of the execution that the sender named, or found by its correlation id."""
    sent_at: datetime
    sent_by: str = ""
    taken_by: str | None = None
    """Id of the execution whose wait took it."""
    wait: str | None = None
    """Name of that wait."""
    taken_at: datetime | None = None
