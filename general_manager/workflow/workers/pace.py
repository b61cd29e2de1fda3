"""How many rows a worker takes at a time: as many as it finishes in a fraction of a second."""

from typing import Final

TURN_SECONDS: Final = 0.2
"""Less than the time after which a worker gives back what it has not begun."""

FIRST_GUESS: Final = 0.004
"""Seconds for one row, until there is a measurement."""

WEIGHT: Final = 0.3
"""Weight of the newest measurement in the mean."""


class Pace:
    """The mean time for one row in this process; threads may share it."""

    def __init__(self) -> None:
        self._seconds = FIRST_GUESS

    def size(self, most: int, seconds: float = TURN_SECONDS) -> int:
        """How many rows to take for so many *seconds*, from one to *most*."""
        return max(1, min(most, int(seconds / self._seconds)))

    def learn(self, rows: int, seconds: float) -> None:
        """Record that *rows* took *seconds*."""
        if rows:
            mean = max(seconds / rows, 1e-6)
            self._seconds += WEIGHT * (mean - self._seconds)
