"""Durations as people read them."""

from datetime import timedelta

import pytest

from general_manager.durations import in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 ms"),
        (0, "0 ms"),
        (0.25, "250 ms"),
        (0.9996, "1.0 s"),
        (1.5, "1.5 s"),
        (9.96, "10 s"),
        (45, "45 s"),
        (90, "90 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (120, "2 min"),
        (60, "1 min"),
        (3600, "1 h"),
        (3629, "1 h"),
        (5400, "90 min"),
        (7199, "2 h"),
        (7200, "2 h"),
        (86400, "1 d"),
        (90_000, "25 h"),
        (171_000, "2 d"),
        (172_800, "2 d"),
        (10**9, "11574 d"),
    ],
)
def test_a_duration_is_in_the_largest_unit_of_which_there_is_one_or_are_two(seconds, words):
    assert in_words(timedelta(seconds=seconds)) == words
