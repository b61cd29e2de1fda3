"""Low-water marks: where a claim starts its scan while dead rows pile up before the due ones.

A long transaction keeps every old version of a row, and a scan in the order of the due column reads
all of them. So after a slow claim, the next claims of this process start where the last one found
rows. The mark is only a hint: rows that were committed late or released unchanged lie before it.
A claim from the beginning follows within a second.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

SLOW_CLAIM_SECONDS: Final = 0.005
"""A claim that takes longer is reading dead rows, or waiting for the database."""
HINT_SECONDS: Final = 1.0
"""How long claims may start at the mark; then one starts from the beginning again."""
SLACK: Final = timedelta(seconds=2)
"""Distance of the mark from the last row found: ordinary transactions commit within it."""


class LowWater:
    """The mark of one table in one database, for one process; threads may share it."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._mark: datetime | None = None
        self._valid_until = 0.0

    def now(self) -> float:
        return self._clock()

    def mark(self) -> datetime | None:
        """Where to start now; `None` for the beginning."""
        return self._mark if self._clock() < self._valid_until else None

    def learn(self, began: float, mark: datetime | None, first: datetime | None) -> None:
        """Record a claim: it began at *began* from *mark*, and its first row was due at *first*."""
        now = self._clock()
        if mark is None:
            is_slow = first is not None and now - began > SLOW_CLAIM_SECONDS
            self._valid_until = now + HINT_SECONDS if is_slow else 0.0
        if first is not None:
            self._mark = first - SLACK


marks: Final[dict[tuple[str, str], LowWater]] = {}
"""By database and table."""


def low_water(using: str, table: str) -> LowWater:
    return marks.setdefault((using, table), LowWater())
