"""Registering a schedule: what is taken, what is refused, and what `check` reports."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from general_manager.workflow import EncodingError, WorkflowDefinition, schedule, schedules
from general_manager.workflow.schedules import (
    ScheduleNotFoundError,
    all_schedules,
    doubled_schedules,
    get_schedule,
    sound_schedules,
)

REPORT = WorkflowDefinition("report")
SLOT = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)


def test_a_schedule_has_the_project_s_zone_unless_it_names_one():
    assert schedule("a", REPORT, cron="0 3 * * *").tz == "America/Chicago"
    assert schedule("b", REPORT, cron="0 3 * * *", tz="Europe/Berlin").tz == "Europe/Berlin"
    assert schedule("c", REPORT, every=timedelta(minutes=10)).text == "every 600 s"
    assert list(sound_schedules()) == ["a", "b", "c"]


def test_the_id_of_a_slot_s_execution_is_the_name_and_the_time_in_utc():
    made = schedule("nightly", REPORT, cron="0 3 * * *", tz="Europe/Berlin", slot_key="slot")
    assert made.correlation_id(SLOT) == "nightly@2026-03-29T01:00:00Z"
    assert made.input_for(SLOT) == {"slot": "2026-03-29T03:00:00+02:00"}


def test_the_input_is_encoded_once_and_copied_for_each_execution():
    made = schedule("nightly", REPORT, cron="0 3 * * *", input_data={"to": ["a"], "day": SLOT})
    made.input_for(SLOT)["to"].append("b")
    assert made.input_for(SLOT)["to"] == ["a"]
    with pytest.raises(EncodingError, match=r"input_data\.x"):
        schedule("other", REPORT, cron="0 3 * * *", input_data={"x": b""})


def test_the_same_registration_twice_is_one():
    first = schedule("a", REPORT, cron="0 3 * * *")
    assert schedule("a", REPORT, cron="0 3 * * *") is first
    assert doubled_schedules() == {}


def test_a_ready_that_runs_again_replaces_what_it_registered(monkeypatch):
    monkeypatch.setattr(schedules, "current_population", object)
    for _ in range(2):
        made = schedule("a", WorkflowDefinition("w", handler=lambda data: None), cron="0 3 * * *")
    assert get_schedule("a") is made
    assert doubled_schedules() == {}


def test_another_registration_of_a_name_does_not_count_and_is_logged(caplog):
    first = schedule("a", REPORT, cron="0 3 * * *")
    second = schedule("a", REPORT, cron="0 4 * * *")
    assert get_schedule("a") == first
    assert doubled_schedules() == {"a": second}
    assert "registered twice" in caplog.text


def test_one_that_cannot_run_raises_nothing_and_is_not_among_those_that_run():
    wrong = schedule("a", REPORT, cron="0 25 * * *")
    assert wrong.problem == "'0 25 * * *' is not a cron expression: bad hour"
    assert list(all_schedules()) == ["a"]
    assert sound_schedules() == {}
    with pytest.raises(ScheduleNotFoundError, match="'a' is registered in this process"):
        get_schedule("a")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({}, TypeError, "either cron= or every="),
        ({"cron": "0 3 * * *", "every": timedelta(hours=1)}, TypeError, "either"),
        ({"cron": 3}, TypeError, "cron must be text"),
        ({"cron": "0 3 * * *", "tz": 1}, TypeError, "tz must be the name"),
        ({"every": 60}, TypeError, "every must be a timedelta"),
        ({"every": timedelta(hours=1), "tz": "UTC"}, TypeError, "Use cron="),
        ({"every": timedelta(milliseconds=1500)}, ValueError, "whole seconds"),
        ({"every": timedelta(0)}, ValueError, "whole seconds"),
        ({"cron": "0 3 * * *", "missed": "last"}, ValueError, "missed must be one of latest"),
        ({"cron": "0 3 * * *", "overlap": "no"}, ValueError, "overlap must be one of allow"),
        ({"cron": "0 3 * * *", "slot_key": 1}, TypeError, "slot_key"),
    ],
)
def test_wrong_options_are_refused_at_once(options, error, said):
    with pytest.raises(error, match=said):
        schedule("a", REPORT, **options)
    assert all_schedules() == {}


@pytest.mark.parametrize("name", ["", "a@b", "x" * 201, "a\nb"])
def test_a_name_that_an_id_cannot_hold_is_refused(name):
    with pytest.raises(ValueError, match="name"):
        schedule(name, REPORT, every=timedelta(hours=1))


def test_only_a_definition_is_scheduled():
    with pytest.raises(TypeError, match="WorkflowDefinition"):
        schedule("a", "report", every=timedelta(hours=1))  # type: ignore[arg-type]  # the test


@pytest.mark.parametrize(
    "other",
    [
        {"cron": "0 4 * * *"},
        {"tz": "UTC"},
        {"missed": "all"},
        {"overlap": "skip"},
        {"version": "2"},
    ],
)
def test_the_version_follows_every_option_that_decides_when_it_runs(other):
    options: dict[str, Any] = {"cron": "0 3 * * *", "tz": "Europe/Berlin"}
    one = schedule("a", REPORT, **options)
    assert schedule("b", REPORT, **options, input_data={"x": 1}).version == one.version
    assert schedule("c", REPORT, **{**options, **other}).version != one.version
