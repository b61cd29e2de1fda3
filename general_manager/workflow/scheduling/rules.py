"""What to do with slots that are due: one rule for both engines."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from general_manager.workflow.core.slots import Timing

ON_TIME: Final = timedelta(minutes=5)
"""A slot that starts later than that was missed: no tick ran meanwhile."""
SLOTS_PER_TICK: Final = 100
"""Slots of one schedule that a tick starts; the next tick goes on."""
MOST_COUNTED: Final = 1_000
"""Missed slots that are counted."""


@dataclass(frozen=True, slots=True)
class Take:
    """One slot to take, with all that are due before it, and the slot that follows."""

    slot: datetime
    following: datetime | None
    starts: bool = True
    """False if it is too late for this slot as well."""
    dropped: int = 0
    """Missed slots that start nothing, counted up to `MOST_COUNTED`."""


def next_take(timing: Timing, due: datetime, now: datetime, missed: str) -> Take | None:
    """What a tick at *now* does first, if *due* is the next slot; `None` if it is not due yet."""
    if due > now:
        return None
    if missed == "all" or now - due <= ON_TIME:
        return Take(due, timing.after(due))
    slot = timing.last(due, now)
    starts = missed == "latest" or now - slot <= ON_TIME
    dropped = timing.count(due, slot, most=MOST_COUNTED) + (not starts)
    return Take(slot, timing.after(max(slot, now)), starts, dropped)
