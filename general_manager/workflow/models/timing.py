"""The grace of a sweep, and the wait that a run suspends for."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

LOOK_GRACE = timedelta(seconds=10)
"""If the sender of a signal has not looked for a wait by then, or the worker in which a child ended
for its parent, the sweep does."""
END_GRACE = timedelta(seconds=60)
"""If the sweep that found an overdue run has not ended it by then, another one does."""
LIFTED_KEPT = timedelta(hours=1)
"""For so long ticks look for what a claim parked that had seen a pause before it was lifted."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A wait or a sleep that the suspension of its run records."""

    name: str
    timeout: timedelta | None
    answerable: bool
    position: int
    """The position of its outcome in the order of outcomes."""
    signal: str | None = None
    """The name of the signals that answer it; `None` for a sleep."""


class Stop(Protocol):
    """The wait that a run suspends for: its name, its end, and whether it can be answered."""

    name: str
    until: datetime | None
    answerable: bool
