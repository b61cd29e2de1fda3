"""Schedules on every engine, in the time of the test kit."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone

from general_manager.workflow import (
    ScheduleRefusedError,
    WorkflowDefinition,
    pause_schedule,
    run_schedule,
    schedule,
    unpause_schedule,
)
from general_manager.workflow.schedules import ScheduleNotFoundError
from general_manager.workflow.signals import execution_changed, schedule_fired
from general_manager.workflow.testing import advance
from tests.testapp import plays

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.usefixtures("driver"),
]
HOUR = timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")
ECHO = WorkflowDefinition("w", handler=plays.echo)
ASK = WorkflowDefinition("asks", handler=plays.ask)


@pytest.fixture
def frozen(monkeypatch):
    """The test's own present, the day before daylight saving begins in Berlin."""
    present = datetime(2026, 3, 28, 12, tzinfo=UTC)
    monkeypatch.setattr(timezone, "now", lambda: present)
    return present


@pytest.fixture
def slots():
    """The slots that came, with what became of them."""
    found = []

    def receive(slot, outcome, **_):
        found.append((slot.astimezone(BERLIN).isoformat(), outcome))

    schedule_fired.connect(receive)
    yield found
    schedule_fired.disconnect(receive)


@pytest.fixture
def started_ones():
    found = {}

    def receive(execution, **_):
        found.setdefault(execution.execution_id, execution)

    execution_changed.connect(receive)
    yield found
    execution_changed.disconnect(receive)


def test_slots_start_their_executions_in_the_zone_of_the_schedule(
    engine, frozen, slots, started_ones
):
    schedule("nightly", ECHO, cron="30 2 * * *", tz="Europe/Berlin", input_data={"n": 1},
             slot_key="slot")  # fmt: skip
    advance(to=datetime(2026, 3, 30, 12, tzinfo=BERLIN))
    assert slots == [
        ("2026-03-29T03:00:00+02:00", "started"),
        ("2026-03-30T02:30:00+02:00", "started"),
    ]
    first = engine.status(next(iter(started_ones)))
    assert (first.state, first.output_data) == (
        "completed", {"echo": {"n": 1, "slot": "2026-03-29T03:00:00+02:00"}},
    )  # fmt: skip
    assert first.correlation_id == "nightly@2026-03-29T01:00:00Z"
    assert first.metadata == {"schedule": "nightly", "slot": "2026-03-29T01:00:00+00:00"}


def test_one_advance_goes_on_where_the_other_ended(frozen, slots):
    schedule("nightly", ECHO, cron="0 3 * * *", tz="Europe/Berlin")
    for _ in range(3):
        advance(timedelta(days=1))
    assert [day[:10] for day, _ in slots] == ["2026-03-29", "2026-03-30", "2026-03-31"]


def test_slots_and_timers_come_in_their_order(engine, frozen, slots):
    schedule("hourly", ASK, every=HOUR, overlap="skip")
    advance(timedelta(hours=3))
    assert [outcome for _, outcome in slots] == ["started", "skipped", "skipped"]
    advance(timedelta(days=2), schedules=False)  # the question times out
    advance(HOUR)
    assert slots[-1][1] == "started"


def test_only_the_schedules_that_the_test_names_come(frozen, slots):
    schedule("a", ECHO, every=HOUR)
    schedule("b", ECHO, every=timedelta(minutes=30))
    advance(HOUR, schedules=["a"])
    assert len(slots) == 1
    with pytest.raises(ScheduleNotFoundError):
        advance(HOUR, schedules=["c"])


def test_a_test_that_lets_too_many_slots_come_is_told_what_to_do(frozen, monkeypatch):
    monkeypatch.setattr("general_manager.workflow.testing.slots.MOST_SLOTS", 5)
    schedule("often", WorkflowDefinition("empty"), every=timedelta(seconds=10))
    with pytest.raises(AssertionError, match=r"schedules=False.*often"):
        advance(timedelta(minutes=2))


def test_a_paused_schedule_starts_nothing_and_goes_on_with_its_next_slot(frozen, slots):
    schedule("hourly", ECHO, every=HOUR, missed="all")
    advance(HOUR)
    assert pause_schedule("hourly")
    assert not pause_schedule("hourly")
    advance(timedelta(hours=3))
    assert len(slots) == 1
    assert unpause_schedule("hourly")
    assert not unpause_schedule("hourly")
    advance(HOUR)
    assert [slot[11:16] for slot, _ in slots] == ["14:00", "18:00"]  # none of the pause


def test_run_now_starts_an_execution_beside_the_slots(engine, driver, frozen, slots):
    schedule("hourly", ECHO, every=HOUR, input_data={"n": 2})
    execution = run_schedule("hourly")
    driver.settle()
    assert engine.status(execution.execution_id).output_data == {"echo": {"n": 2}}
    assert execution.metadata["schedule"] == "hourly"
    assert slots == []


def test_run_now_is_refused_while_executions_must_not_overlap(driver, frozen):
    schedule("hourly", ASK, every=HOUR, overlap="skip")
    run_schedule("hourly")
    driver.settle()
    with pytest.raises(ScheduleRefusedError, match="still active"):
        run_schedule("hourly")


def test_a_name_that_is_not_registered_is_not_run(engine):
    with pytest.raises(ScheduleNotFoundError, match="workflow_schedules"):
        run_schedule("nothing")
