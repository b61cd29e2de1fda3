"""Slots that are due start their executions, once each, whatever goes wrong beside them."""

from datetime import timedelta

import pytest
from django.db import Error
from django.utils import timezone

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowSchedule,
    get_workflow_engine,
    pause_schedule,
    run_schedule,
    schedule,
    unpause_schedule,
)
from general_manager.workflow.models.sql.columns import from_now
from general_manager.workflow.schedules import (
    ScheduleNotFoundError,
    ScheduleRefusedError,
    forget_schedules,
)
from general_manager.workflow.scheduling import firing, rows, starting
from general_manager.workflow.scheduling.firing import fire_due
from general_manager.workflow.signals import schedule_fired
from general_manager.workflow.workers.tick import run_inline, tick
from tests.integration.conftest import data_statements
from tests.integration.outbox.test_races import race
from tests.integration.scheduling.hours import ECHO, come_due, forget_ticks, hour, hourly
from tests.testapp import flows

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.usefixtures("outbox", "celery_engine", "quiet_hour"),
]
HOUR = timedelta(hours=1)


def row(name="report"):
    return WorkflowSchedule.objects.get(name=name)


def ids():
    found = WorkflowExecutionRecord.objects.order_by("pk")
    return list(found.values_list("correlation_id", flat=True))


def kinds():
    return list(WorkflowHistory.objects.order_by("pk").values_list("kind", flat=True))


@pytest.fixture
def told():
    found = []

    def receive(schedule, outcome, count, **_):
        found.append((schedule, outcome, count))

    schedule_fired.connect(receive)
    yield found
    schedule_fired.disconnect(receive)


def test_a_new_schedule_starts_with_its_next_slot_and_none_before():
    hourly()
    assert row().next_at == hour() + HOUR
    assert fire_due() == 0
    assert ids() == []


def test_z1_a_slot_that_is_due_starts_once(workers, told):
    made = hourly(input_data={"to": "all"}, slot_key="slot")
    slot = come_due()
    assert fire_due() == 1
    assert fire_due() == 0
    (execution,) = WorkflowExecutionRecord.objects.all()
    assert execution.correlation_id == made.correlation_id(slot)
    assert execution.input_data == {"to": "all", "slot": slot.isoformat()}
    assert execution.metadata == {"schedule": "report", "slot": slot.isoformat()}
    assert (row().next_at, row().last_slot, row().last_correlation_id) == (
        slot + HOUR, slot, execution.correlation_id,
    )  # fmt: skip
    workers.run()
    assert flows.calls == ["echo"]
    assert told == [("report", "started", 1)]


def test_z1_of_eight_ticks_at_once_one_starts_the_slot():
    hourly()
    come_due()
    started = []
    race(*[lambda: started.append(fire_due())] * 8)
    assert sum(started) == 1
    assert len(ids()) == 1


@pytest.mark.parametrize("end", ["failed", "cancelled", "pruned"])
def test_z1_a_slot_whose_execution_is_over_and_gone_does_not_start_again(end):
    hourly()
    come_due()
    fire_due()
    if end == "pruned":
        WorkflowExecutionRecord.objects.all().delete()
    else:
        WorkflowExecutionRecord.objects.update(state=end, dedup_key=None, wake_at=None)
    assert fire_due() == 0
    assert len(ids()) == (0 if end == "pruned" else 1)


def test_z1_a_clock_that_is_set_back_delays_the_next_slot_and_repeats_none():
    hourly()
    WorkflowSchedule.objects.update(next_at=hour() + 2 * HOUR, last_slot=hour() + HOUR)
    assert fire_due() == 0
    WorkflowSchedule.objects.update(next_at=None)  # whatever made it forget
    fire_due()
    assert row().next_at == hour() + 2 * HOUR


def test_a_start_by_somebody_else_under_the_slot_s_id_is_the_same_execution():
    made = hourly()
    slot = come_due()
    other = get_workflow_engine().start(ECHO, {}, correlation_id=made.correlation_id(slot))
    assert fire_due() == 1
    assert list(WorkflowExecutionRecord.objects.values_list("execution_id", flat=True)) == [
        other.execution_id
    ]


@pytest.mark.parametrize(
    ("missed", "started", "dropped"),
    [("latest", [0], 3), ("all", [3, 2, 1, 0], 0), ("skip", [], 4)],
)
def test_missed_slots_start_as_the_schedule_asks(missed, started, dropped, told, monkeypatch):
    monkeypatch.setattr("general_manager.workflow.scheduling.rules.ON_TIME", timedelta(0))
    made = hourly(missed=missed)
    come_due(slot=hour(3))
    assert fire_due() == len(started)
    assert ids() == [made.correlation_id(hour(ago)) for ago in started]
    assert row().next_at == hour() + HOUR
    missed_ones = [count for _, outcome, count in told if outcome == "missed"]
    assert missed_ones == ([dropped] if dropped else [])
    notes = WorkflowHistory.objects.filter(kind="slots_missed").values_list("detail", flat=True)
    assert list(notes) == ([f"{dropped} from {hour(3):%Y-%m-%d %H:%M:%S} UTC"] if dropped else [])


def test_all_missed_slots_start_in_chunks_one_a_tick(monkeypatch):
    monkeypatch.setattr(rows, "SLOTS_PER_TICK", 3)
    hourly(missed="all")
    come_due(slot=hour(6))
    assert [fire_due() for _ in range(4)] == [3, 3, 1, 0]
    assert len(set(ids())) == 7


def test_without_overlap_a_slot_is_skipped_while_an_execution_is_active(workers, told):
    hourly(overlap="skip")
    come_due(slot=hour(2))
    WorkflowSchedule.objects.update(missed="all")
    assert fire_due() == 1
    assert [outcome for _, outcome, _ in told] == ["started", "skipped", "skipped"]
    assert row().skipped == 2
    assert kinds() == ["slot_skipped"]  # the count tells of the rest
    assert row().next_at == hour() + HOUR
    workers.run()
    come_due()
    assert fire_due() == 1
    assert row().skipped == 0


def test_executions_of_a_schedule_whose_name_begins_alike_do_not_count_as_its_own():
    hourly(overlap="skip")
    hourly("report2", overlap="skip")
    come_due("report2")
    come_due()
    assert fire_due() == 2


def test_a_paused_schedule_starts_nothing_and_its_slots_are_not_missed_ones():
    hourly(missed="all")
    assert pause_schedule("report", reason="maintenance")
    assert not pause_schedule("report")
    come_due(slot=hour(5))
    assert fire_due() == 0
    assert (row().pause_reason, row().paused_at is None) == ("maintenance", False)
    assert unpause_schedule("report")
    assert not unpause_schedule("report")
    assert fire_due() == 0
    assert row().next_at == hour() + HOUR
    assert kinds() == ["paused", "unpaused"]


def test_run_now_has_an_id_of_its_own_and_uses_up_no_slot(workers):
    made = hourly(input_data={"n": 1})
    before = row().next_at
    first, second = run_schedule("report"), run_schedule("report")
    assert first.execution_id != second.execution_id
    assert str(first.correlation_id).startswith("report@now:")
    assert first.metadata["schedule"] == made.name
    assert first.input_data == {"n": 1}
    assert row().next_at == before
    assert kinds() == ["run_now", "run_now"]
    pause_schedule("report")
    assert run_schedule("report").state == "pending"


def test_run_now_is_refused_where_executions_must_not_overlap():
    hourly(overlap="skip")
    run_schedule("report")
    with pytest.raises(ScheduleRefusedError, match="still active"):
        run_schedule("report")
    assert len(ids()) == 1


def test_a_schedule_that_nobody_knows_is_neither_paused_nor_run():
    for act in (pause_schedule, unpause_schedule, run_schedule):
        with pytest.raises(ScheduleNotFoundError, match="'other'"):
            act("other")


# Deploys


def redeploy(**options):
    forget_schedules()
    return schedule("report", ECHO, **options)


def test_another_expression_takes_effect_and_runs_no_old_slot():
    hourly()
    come_due(slot=hour(4))
    redeploy(cron="30 4 1 1 *", tz="Europe/Berlin")
    assert fire_due() == 0
    assert (row().timing, row().tz) == ("30 4 1 1 *", "Europe/Berlin")
    assert row().next_at > timezone.now()
    assert kinds() == ["schedule_changed"]


def test_a_change_of_other_options_leaves_a_slot_that_is_due():
    hourly()
    come_due()
    redeploy(every=HOUR, missed="all")
    assert fire_due() == 1
    assert row().missed == "all"


def test_an_older_process_of_a_rolling_deploy_does_not_write_its_options_back():
    old = {"every": HOUR}
    hourly()
    redeploy(every=timedelta(hours=2))
    fire_due()
    redeploy(**old)
    for _ in range(3):
        fire_due()
    assert row().timing == "every 7200 s"
    assert len(kinds()) == 1


def test_the_older_process_starts_the_slots_of_the_newer_options():
    hourly()
    redeploy(every=timedelta(hours=2))
    fire_due()
    redeploy(every=HOUR)
    even = hour(hour().hour % 2)
    come_due(slot=even)
    assert fire_due() == 1
    assert row().next_at == even + 2 * HOUR


def test_options_that_no_process_registers_any_more_give_way_to_older_ones():
    """A rollback: the newer processes are gone."""
    hourly()
    redeploy(every=timedelta(hours=2))
    fire_due()
    redeploy(every=HOUR)
    WorkflowSchedule.objects.update(registered_at=from_now(-timedelta(minutes=4)))
    fire_due()
    assert row().timing == "every 7200 s"
    WorkflowSchedule.objects.update(registered_at=from_now(-timedelta(minutes=6)))
    fire_due()
    assert row().timing == "every 3600 s"
    assert row().next_at in (hour(), hour() + HOUR)


def test_another_version_of_the_same_options_is_put_in_force_at_once():
    hourly()
    redeploy(every=timedelta(hours=2))
    fire_due()
    redeploy(every=HOUR, version="2")
    fire_due()
    assert row().timing == "every 3600 s"


def test_a_schedule_that_is_no_longer_registered_stops_and_its_row_stays():
    hourly()
    forget_schedules()
    come_due()
    assert fire_due() == 0
    assert row().next_at == hour()
    assert ids() == []


def test_a_process_that_registers_it_says_so_once_a_minute():
    hourly()
    long_ago = from_now(-timedelta(seconds=61))
    WorkflowSchedule.objects.update(registered_at=long_ago)
    fire_due()
    assert timezone.now() - row().registered_at < timedelta(seconds=50)
    with data_statements() as statements:
        fire_due()
    assert len(statements) == 1


# Trouble


def test_trouble_with_one_schedule_stops_neither_the_others_nor_the_tick(monkeypatch, workers):
    hourly("a")
    hourly("b")
    come_due("a")
    come_due("b")
    start = starting.start_slot

    def stumble(made, slot):
        if made.name == "a":
            raise ValueError("boom")
        return start(made, slot)

    monkeypatch.setattr(rows, "start_slot", stumble)
    get_workflow_engine().start(ECHO, {}, correlation_id="other")
    forget_ticks()
    assert tick()
    assert [one.partition("@")[0] for one in ids()] == ["other", "b"]
    assert (row("a").error, row("a").next_at) == ("boom", hour())
    fire_due()
    assert kinds() == ["start_failed"]  # once for each error
    monkeypatch.undo()
    WorkflowSchedule.objects.filter(name="a").update(missed="all")
    assert fire_due() == 1
    assert row("a").error == ""


def test_a_database_that_fails_is_logged_and_the_tick_goes_on(monkeypatch, caplog):
    hourly()

    def stumble(*_):
        raise Error("away")

    monkeypatch.setattr(firing, "fire_rows", stumble)
    assert fire_due() == 0
    assert "Schedules could not be read" in caplog.text


def test_a_slot_and_its_execution_are_one_transaction(monkeypatch):
    hourly()
    come_due()
    before = WorkflowSchedule.objects.values().get()

    def die(*_, **__):
        raise SystemExit

    monkeypatch.setattr(type(WorkflowSchedule.objects.all()), "started", die)
    with pytest.raises(SystemExit):
        fire_due()
    assert ids() == []
    assert WorkflowSchedule.objects.values().get() == before


def test_a_handler_that_cannot_be_imported_makes_a_failed_execution_not_a_failed_tick():
    schedule("report", WorkflowDefinition("w", handler=lambda data: None), every=HOUR)
    fire_due()
    come_due()
    assert fire_due() == 1
    assert WorkflowExecutionRecord.objects.get().state == "failed"


def test_the_command_that_does_the_work_of_workers_starts_slots_too(settings):
    settings.GENERAL_MANAGER = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    hourly()
    come_due()
    list(run_inline())
    assert WorkflowExecutionRecord.objects.get().state == "completed"


# Costs


def test_a_tick_without_schedules_asks_nothing_of_them():
    with data_statements() as statements:
        assert fire_due() == 0
    assert statements == []


def test_a_tick_with_schedules_of_which_none_is_due_is_one_statement():
    for number in range(20):
        hourly(f"s{number}")
    with data_statements() as statements:
        assert fire_due() == 0
    assert len(statements) == 1


def test_a_slot_costs_four_statements_and_a_nudge():
    """The read of all schedules, the slot taken, the execution, its name in the row."""
    hourly()
    come_due()
    with data_statements() as statements:
        assert fire_due() == 1
    assert len(statements) == 5
