"""Slots: the times at which a schedule runs, also where clocks change. The one door to cronsim.

cronsim matches an expression only while the clock is not changed; the changes are ours. It follows
them for whole hours, but loses slots where a zone changes by half an hour.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, takewhile
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

try:
    from cronsim import CronSim, CronSimError
except ImportError:  # the extra `schedules` is not installed
    CronSim = None  # type: ignore[assignment,misc]  # `parse_timing` says what to install

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
SECOND: Final = timedelta(seconds=1)
ONE_DAY: Final = timedelta(days=1)
MAX_CRON_LENGTH: Final = 500
_EVERY: Final = re.compile(r"every ([1-9]\d{0,7}) s")


class WrongTiming(ValueError):
    """No schedule can run by this; the message says why, and *hint* what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class Timing(ABC):
    """When a schedule runs: *text* in the zone *tz*. Slots are times in UTC, to the second."""

    text: str
    tz: str

    @abstractmethod
    def after(self, moment: datetime) -> datetime | None:
        """The first slot after *moment*; `None` if there is none."""

    def following(self, moment: datetime) -> Iterator[datetime]:
        """The slots after *moment*, in order."""
        slot = self.after(moment)
        while slot is not None:
            yield slot
            slot = self.after(slot)

    def last(self, first: datetime, until: datetime) -> datetime:
        """The last slot up to *until*; *first* is a slot that is not later than that."""
        before, after = first - SECOND, until
        while after - before > SECOND:
            middle = _middle(before, after)
            slot = self.after(middle)
            if slot is not None and slot <= until:
                before, first = middle, slot
            else:
                after = middle
        return first

    def count(self, first: datetime, until: datetime, *, most: int) -> int:
        """The number of slots from *first* to before *until*, counted up to *most*."""
        found = takewhile(lambda slot: slot < until, self.following(first - SECOND))
        return sum(1 for _ in islice(found, most))


@dataclass(frozen=True, slots=True)
class Interval(Timing):
    """Every so many seconds, counted from 1970 in UTC: the same slots in every process."""

    text: str
    seconds: int
    tz: str = "UTC"

    def after(self, moment: datetime) -> datetime | None:
        every = timedelta(seconds=self.seconds)
        return EPOCH + ((moment - EPOCH) // every + 1) * every


@dataclass(frozen=True, slots=True)
class Cron(Timing):
    """A cron expression of five fields, by the clock of the zone *tz*.

    Fixed hours and minutes are wall-clock times: one that the clock leaves out runs when the clock
    is changed, once; one that comes twice runs the first time. A field of minutes or hours that
    begins with ``*`` is real time, as in Debian's cron.
    """

    text: str
    tz: str

    @property
    def _is_real_time(self) -> bool:
        minutes, hours, *_ = self.text.split()
        return minutes.startswith("*") or hours.startswith("*")

    def after(self, moment: datetime) -> datetime | None:
        return self._real_time(moment) if self._is_real_time else self._wall_clock(moment)

    def _wall_clock(self, moment: datetime) -> datetime | None:
        zone = ZoneInfo(self.tz)
        for wall in CronSim(self.text, _wall(moment, zone)):
            slot = _instant(wall, zone)
            if slot > moment:  # not, if the clock shows this time for the second time
                return slot
        return None

    def _real_time(self, moment: datetime) -> datetime | None:
        """Match by the offset that holds; if it ends before the slot, go on with the next one."""
        zone = ZoneInfo(self.tz)
        start = since = moment.astimezone(UTC).replace(microsecond=0)
        while True:
            offset = _offset(since, zone)
            wall = next(CronSim(self.text, (start + offset).replace(tzinfo=None)), None)
            if wall is None:
                return None
            slot = wall.replace(tzinfo=UTC) - offset
            change = _first_change(zone, since, slot)
            if change is None:
                return slot
            start, since = change - SECOND, change


def parse_timing(text: str, tz: str) -> Timing:
    """Read what `Timing.text` and `Timing.tz` say. Raises `WrongTiming`."""
    if found := _EVERY.fullmatch(text):
        return Interval(text, int(found[1]))
    return parse_cron(text, tz)


@lru_cache(maxsize=1_000)
def parse_cron(text: str, tz: str) -> Timing:
    if CronSim is None:
        raise WrongTiming(
            "cron= needs the package cronsim, which is not installed",
            "Install it: pip install 'general-manager[schedules]'. every= works without it.",
        )
    fields = text.split()
    if len(text) > MAX_CRON_LENGTH:
        raise WrongTiming(
            f"a cron expression has at most {MAX_CRON_LENGTH} characters, not {len(text):,}",
            "Use ranges and steps, or several schedules.",
        )
    if len(fields) != 5:
        raise WrongTiming(
            f"{text!r} has {len(fields)} fields instead of five",
            "Write minute, hour, day of month, month and day of week, such as '0 3 * * *'.",
        )
    require_zone(tz)
    timing = Cron(" ".join(fields), tz)
    try:
        CronSim(timing.text, EPOCH)
    except CronSimError as error:
        raise WrongTiming(
            f"{text!r} is not a cron expression: {str(error).lower()}",
            "See crontab(5): such as '*/15 * * * *', '0 3 * * MON-FRI' or '0 0 1,15 * *'.",
        ) from None
    if timing.after(EPOCH) is None:
        raise WrongTiming(f"{text!r} names a day that never comes", "Correct day and month.")
    return timing


def require_zone(tz: str) -> None:
    """Raises `WrongTiming` if the zone is unknown, or all zones are."""
    try:
        ZoneInfo(tz)
    except (KeyError, ValueError, OSError):
        if not available_timezones():
            raise WrongTiming(
                "this machine has no time zone database",
                "Install the system's tzdata, or pip install tzdata.",
            ) from None
        raise WrongTiming(
            f"{tz!r} is not a time zone", "Write a name of the IANA database, such as Europe/Berlin"
        ) from None


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    """What the clocks show, without a zone."""
    return moment.astimezone(zone).replace(tzinfo=None)


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def _instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """When clocks show *wall* for the first time; if they never do, when they are put forward."""
    found = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _wall(found, zone) == wall:
        return found
    before, after = found - ONE_DAY - SECOND, found
    while after - before > SECOND:
        middle = _middle(before, after)
        if _wall(middle, zone) > wall:
            after = middle
        else:
            before = middle
    return after


def _first_change(zone: ZoneInfo, start: datetime, end: datetime) -> datetime | None:
    """The first time up to *end* at which another offset holds than at *start*, or `None`."""
    before, offset = start, _offset(start, zone)
    while before < end:
        after = min(before + ONE_DAY, end)
        if _offset(after, zone) != offset:
            while after - before > SECOND:
                middle = _middle(before, after)
                if _offset(middle, zone) != offset:
                    after = middle
                else:
                    before = middle
            return after
        before = after
    return None


def _middle(before: datetime, after: datetime) -> datetime:
    return before + timedelta(seconds=int((after - before).total_seconds()) // 2)
