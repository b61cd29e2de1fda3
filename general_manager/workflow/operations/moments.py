"""Moments of a timeline: in order, with their offsets, and as texts."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from django.utils import timezone

LONG_GAP: Final = timedelta(minutes=1)
"""Longer gaps are pointed out."""
MOST_MOMENTS: Final = 500
"""Steps, attempts and history entries shown, of each kind; a line says if there are more."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened *at* a time. *what* is its kind, *about* its object."""

    at: datetime
    what: str
    about: str = ""
    by: str = ""
    detail: str = ""
    took: timedelta | None = None
    event_id: str | None = None
    execution_id: str | None = None
    number: int | None = None
    """The number of a failed attempt."""
    offset: timedelta = timedelta(0)
    gap: timedelta | None = None
    """The time since the moment before, if it is long."""


def in_order(moments: Iterable[Moment]) -> list[Moment]:
    """The moments by time, with their offsets from the first and with long gaps."""
    ordered = sorted(moments, key=lambda one: one.at)
    found: list[Moment] = []
    for one in ordered:
        silence = one.at - found[-1].at if found else timedelta(0)
        found.append(
            replace(
                one, offset=one.at - ordered[0].at, gap=silence if silence >= LONG_GAP else None
            )
        )
    return found


def left_out(at: datetime, of_what: str) -> Moment:
    """The line that says that there are more."""
    return Moment(
        at, "left_out", of_what, detail=f"more than {MOST_MOMENTS:,}; further ones are not shown"
    )


def in_zone(moment: datetime) -> datetime:
    """*moment* in the current time zone, for display; as it is at the ends of the calendar."""
    try:
        return timezone.localtime(moment) if timezone.is_aware(moment) else moment
    except OverflowError:
        return moment


def until_in_words(until: datetime | None) -> str:
    return f"until {in_zone(until):%Y-%m-%d %H:%M:%S %Z}" if until else ""


def last_line(error: str | None) -> str:
    """The last line of an error that is not blank."""
    lines = [line.strip() for line in (error or "").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
