"""Slots on the days on which clocks change, against an oracle that goes minute by minute."""

from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest

from general_manager.workflow.core import slots
from general_manager.workflow.core.slots import WrongTiming, parse_timing

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
EXPRESSIONS = [
    "30 2 * * *",
    "0,30 2 * * *",
    "0 2,3 * * *",
    "*/30 * * * *",
    "15 */2 * * *",
    "*/30 2 * * *",
    "0 0 * * *",
    "5 * * * *",
    "45 1-3 * * *",
    "0 */3 * * *",
    "10 0,1,2 * * *",
    "*/7 1 * * *",
]
ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # by half an hour
    "America/Havana",  # at midnight
    "Antarctica/Troll",  # by two hours
]


def numbers(text, size):
    found = set()
    for part in text.split(","):
        ends, _, step = part.partition("/")
        first, _, last = ends.partition("-")
        low, high = (0, size - 1) if first == "*" else (int(first), int(last or first))
        found |= set(range(low, high + 1, int(step or 1)))
    return found


def oracle(cron, zone, first, last):
    """The slots from *first* to before *last*: every minute is looked at."""
    minutes, hours = cron.split()[:2]

    def matches(wall):
        return wall.minute in numbers(minutes, 60) and wall.hour in numbers(hours, 24)

    def clock(at):
        return at.astimezone(zone).replace(tzinfo=None)

    every_minute = [first + MINUTE * n for n in range((last - first) // MINUTE)]
    if minutes.startswith("*") or hours.startswith("*"):
        return [at for at in every_minute if matches(clock(at))]
    found, shown = [], set()
    latest = clock(first - MINUTE)
    for at in every_minute:
        passed = []  # what the clock shows now, or has left out since
        wall = clock(at)
        while latest < wall:
            latest += MINUTE
            passed.append(latest)
        if any(matches(one) and one not in shown for one in passed):
            found.append(at)
        shown.update(passed)
    return found


def changes(zone):
    """Days of 2026 on which the zone's clocks change."""
    days = [datetime(2026, 1, 1, tzinfo=UTC) + DAY * n for n in range(365)]
    return [d for d in days if d.astimezone(zone).dst() != (d + DAY).astimezone(zone).dst()]


@pytest.mark.parametrize("tz", ZONES)
@pytest.mark.parametrize("cron", EXPRESSIONS)
def test_z1_slots_are_those_of_the_rule_on_both_days_of_the_year(cron, tz):
    zone, timing = ZoneInfo(tz), parse_timing(cron, tz)
    days = changes(zone)
    assert len(days) == 2
    for day in days:
        first, last = day - DAY / 2, day + 2 * DAY
        right = oracle(cron, zone, first, last)
        ours = list(takewhile(last.__gt__, timing.following(first - MINUTE / 60)))
        assert ours == right
        for start in (first + n * MINUTE * 7 - MINUTE / 60 * (n % 3) for n in range(400)):
            later = [at for at in right if at > start]
            if later:  # the same from wherever one starts to look
                assert timing.after(start) == later[0], start


def test_z1_a_fixed_hour_that_is_left_out_runs_at_the_change_and_one_that_comes_twice_once():
    zone, timing = ZoneInfo("Europe/Berlin"), parse_timing("30 2 * * *", "Europe/Berlin")

    def following(month, day, hour, minute=0):
        slots_ = timing.following(datetime(2026, month, day, hour, minute, tzinfo=UTC))
        return [one.astimezone(zone).isoformat() for one in islice(slots_, 2)]

    assert following(3, 28, 12) == ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]
    autumn = ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]
    assert following(10, 24, 12) == autumn
    # A quarter past two, for the second time:
    assert following(10, 25, 1, 15)[0] == autumn[1]


def test_intervals_are_the_same_whenever_one_asks():
    timing = parse_timing("every 600 s", "UTC")
    first = datetime(2026, 5, 1, 10, 0, tzinfo=UTC)
    for seconds in (0, 1, 299, 599.5):
        assert timing.after(first + timedelta(seconds=seconds)) == first + timedelta(minutes=10)


@pytest.mark.parametrize(
    ("cron", "until"),
    [
        ("*/5 * * * *", timedelta(minutes=17)),
        ("*/5 * * * *", timedelta(days=400)),
        ("* * * 1 *", timedelta(days=200)),
        ("0 3 * * MON", timedelta(days=77, hours=3)),
        ("every 7 s", timedelta(days=3)),
    ],
)
def test_the_last_slot_before_a_time_is_found_however_long_ago_the_first_was(cron, until):
    timing = parse_timing(cron, "Europe/Berlin")
    first = timing.after(datetime(2026, 1, 1, tzinfo=UTC))
    assert first is not None
    end = first + until
    last = timing.last(first, end)
    following = timing.after(last)
    assert following is not None
    assert first <= last <= end < following
    assert timing.last(first, first) == first


def test_missed_slots_are_counted_up_to_a_limit():
    timing = parse_timing("* * * * *", "UTC")
    first = datetime(2026, 1, 1, tzinfo=UTC)
    assert timing.count(first, first + timedelta(minutes=7), most=100) == 7
    assert timing.count(first, first + timedelta(days=900), most=100) == 100


@pytest.mark.parametrize(
    ("cron", "tz", "said"),
    [
        ("61 * * * *", "UTC", "bad minute"),
        ("* * * * * *", "UTC", "6 fields instead of five"),
        ("@daily", "UTC", "fields instead of five"),
        ("0 0 30 2 *", "UTC", "bad day-of-month"),
        ("* * * * *", "Europe/Berlim", "'Europe/Berlim' is not a time zone"),
        ("* * * * *", "Europe", "'Europe' is not a time zone"),
        ("* * * * *", "../etc/passwd", "is not a time zone"),
        ("every 0 s", "UTC", "fields"),
        ("every 999999999999999999 s", "UTC", "fields"),
        ("1," * 400 + "2 * * * *", "UTC", "at most 500 characters"),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason_and_a_hint(cron, tz, said):
    with pytest.raises(WrongTiming, match=said) as caught:
        parse_timing(cron, tz)
    assert caught.value.hint


def test_a_machine_without_zones_is_told_to_install_them(monkeypatch):
    monkeypatch.setattr(slots, "available_timezones", set)
    with pytest.raises(WrongTiming, match="no time zone database") as caught:
        parse_timing("* * * * *", "Nowhere/At_all")
    assert "tzdata" in caught.value.hint


def test_without_cronsim_only_intervals_run(monkeypatch):
    monkeypatch.setattr(slots, "CronSim", None)
    slots.parse_cron.cache_clear()
    with pytest.raises(WrongTiming, match="cronsim") as caught:
        parse_timing("0 3 * * *", "UTC")
    assert "general-manager[schedules]" in caught.value.hint
    assert parse_timing("every 60 s", "UTC").after(datetime.now(UTC))
