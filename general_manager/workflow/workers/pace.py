"""How many rows a worker takes at a time: as many as it finishes in a fraction of a second."""

from time import monotonic
from typing import Final

TURN_SECONDS: Final = 0.2
"""Less than the time after which a worker gives back what it has not begun."""

SHORT_SECONDS: Final = 0.05
"""A turn beside new work, which waits for the end of it."""

NEW_SECONDS: Final = 2.0
"""How long turns stay short after new work was met in a backlog."""

FIRST_GUESS: Final = 0.004
"""Seconds for one row, until there is a measurement."""

WEIGHT: Final = 0.3
"""Weight of the newest measurement in the mean."""


class Pace:
    """The mean time for one row in this process; threads may share it."""

    def __init__(self) -> None:
        self._seconds = FIRST_GUESS
        self._met_new_at = float("-inf")

    def size(self, most: int, seconds: float | None = None) -> int:
        """How many rows to take for so many *seconds*, by default for a turn; one to *most*."""
        if seconds is None:
            is_short = monotonic() - self._met_new_at < NEW_SECONDS
            seconds = SHORT_SECONDS if is_short else TURN_SECONDS
        return max(1, min(most, int(seconds / self._seconds)))

    def meet_new(self) -> None:
        """New work waits beside a backlog: turns are short for a while."""
        self._met_new_at = monotonic()

    def learn(self, rows: int, seconds: float) -> None:
        """Record that *rows* took *seconds*."""
        if rows:
            mean = max(seconds / rows, 1e-6)
            self._seconds += WEIGHT * (mean - self._seconds)
