"""What a tick does with the slots that are due."""

from datetime import UTC, datetime, timedelta

import pytest

from general_manager.workflow.core.slots import parse_timing
from general_manager.workflow.scheduling.rules import MOST_COUNTED, next_take

HOURLY = parse_timing("0 * * * *", "UTC")
DUE = datetime(2026, 5, 1, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICIES = ["latest", "all", "skip"]


@pytest.mark.parametrize("missed", POLICIES)
def test_a_slot_that_is_not_due_is_not_taken(missed):
    assert next_take(HOURLY, DUE, DUE - timedelta(microseconds=1), missed) is None


@pytest.mark.parametrize("missed", POLICIES)
@pytest.mark.parametrize("late", [0, 1, 299, 300])
def test_a_slot_up_to_five_minutes_late_is_on_time(missed, late):
    take = next_take(HOURLY, DUE, DUE + timedelta(seconds=late), missed)
    assert take is not None
    assert (take.slot, take.following) == (DUE, DUE + HOUR)
    assert take.starts
    assert take.dropped == 0


def test_of_missed_slots_the_latest_starts():
    take = next_take(HOURLY, DUE, DUE + 3 * HOUR + timedelta(minutes=30), "latest")
    assert take is not None
    assert (take.slot, take.following) == (DUE + 3 * HOUR, DUE + 4 * HOUR)
    assert take.starts
    assert take.dropped == 3


def test_or_each_of_them():
    take = next_take(HOURLY, DUE, DUE + 3 * HOUR + timedelta(minutes=30), "all")
    assert take is not None
    assert (take.slot, take.following, take.dropped) == (DUE, DUE + HOUR, 0)


def test_or_none_but_one_that_is_still_on_time():
    late = next_take(HOURLY, DUE, DUE + 3 * HOUR + timedelta(minutes=6), "skip")
    assert late is not None
    assert (late.slot, late.starts, late.dropped) == (DUE + 3 * HOUR, False, 4)
    on_time = next_take(HOURLY, DUE, DUE + 3 * HOUR + timedelta(minutes=4), "skip")
    assert on_time is not None
    assert (on_time.slot, on_time.starts, on_time.dropped) == (DUE + 3 * HOUR, True, 3)


def test_years_of_missed_slots_cost_no_more_than_a_few():
    timing = parse_timing("* * * * *", "Europe/Berlin")
    take = next_take(timing, DUE, DUE + timedelta(days=3_000), "latest")
    assert take is not None
    assert take.slot == DUE + timedelta(days=3_000)
    assert take.dropped == MOST_COUNTED
