"""Where a claim begins to look, on a clock that the test moves."""

from datetime import UTC, datetime, timedelta

import pytest

from general_manager.workflow.models.sql import low_water
from general_manager.workflow.models.sql.low_water import SLACK, LowWater

FOUND = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(low_water, "SLOW_CLAIM_SECONDS", 0.005)
    return Clock()


@pytest.fixture
def hint(clock):
    return LowWater(clock)


def claim(hint, clock, takes, found=FOUND):
    began, mark = clock.now, hint.mark()
    clock.now += takes
    hint.learn(began, mark, found)
    return mark


def test_claims_that_are_quick_look_from_the_beginning(hint, clock):
    assert [claim(hint, clock, 0.001) for _ in range(3)] == [None] * 3


def test_after_a_slow_claim_the_next_begin_where_it_found_something(hint, clock):
    assert claim(hint, clock, 0.010) is None
    later = FOUND + timedelta(seconds=5)
    assert claim(hint, clock, 0.001, later) == FOUND - SLACK
    assert claim(hint, clock, 0.001) == later - SLACK


def test_within_a_second_a_claim_looks_from_the_beginning_again(hint, clock):
    claim(hint, clock, 0.010)
    clock.now += 1.0
    assert claim(hint, clock, 0.001) is None  # it was quick: the dead rows are gone
    assert claim(hint, clock, 0.001) is None


def test_a_slow_claim_that_found_nothing_says_nothing_of_where_to_look(hint, clock):
    claim(hint, clock, 0.010, found=None)
    assert claim(hint, clock, 0.001) is None
