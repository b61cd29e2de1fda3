"""Schedules that are late, abandoned or broken are named by health, metrics and commands."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from prometheus_client import CollectorRegistry

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowSchedule,
    pause_schedule,
    schedule,
)
from general_manager.workflow.models.sql.columns import from_now
from general_manager.workflow.operations import metrics
from general_manager.workflow.operations.health import check_health
from general_manager.workflow.operations.schedules import list_schedules
from general_manager.workflow.operations.trace import find_trace
from general_manager.workflow.schedules import forget_schedules
from general_manager.workflow.scheduling.firing import fire_due
from general_manager.workflow.workers.pruning import prune_once
from general_manager.workflow.workers.tick import tick
from tests.integration.conftest import data_statements
from tests.integration.scheduling.hours import ECHO, come_due, hour, hourly

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.usefixtures("outbox", "celery_engine", "quiet_hour"),
]


def troubles():
    return {one.code: one.message for one in check_health().troubles if "schedule" in one.code}


def age(**values):
    WorkflowSchedule.objects.update(
        **{name: from_now(-timedelta(seconds=seconds)) for name, seconds in values.items()}
    )


def run(*arguments, **options):
    out = StringIO()
    call_command("workflow_schedules", *arguments, stdout=out, **options)
    return out.getvalue()


def test_a_schedule_that_is_late_is_named():
    hourly()
    tick()
    assert troubles() == {}
    age(next_at=80)
    assert troubles() == {}
    age(next_at=100)
    assert troubles() == {
        "late-schedules": "Schedule report is late: its slot is due and has not started."
    }
    pause_schedule("report")
    assert troubles() == {}


def test_one_that_no_process_registers_is_named_if_ticks_run():
    hourly()
    age(registered_at=590)
    tick()
    forget_schedules()
    assert troubles() == {}
    age(registered_at=610, next_at=100)
    assert list(troubles()) == ["unregistered-schedules"]
    assert "report" in troubles()["unregistered-schedules"]


def test_without_ticks_no_schedule_counts_as_abandoned():
    hourly()
    age(registered_at=3_600)
    assert troubles() == {}


def test_slots_of_the_future_are_named_after_the_clock_was_set_back():
    hourly()
    WorkflowSchedule.objects.update(last_slot=timezone.now() + timedelta(days=1))
    assert list(troubles()) == ["schedules-ahead"]


def test_a_registration_with_a_mistake_is_named():
    schedule("wrong", ECHO, cron="0 25 * * *")
    assert list(troubles()) == ["broken-schedules"]


def test_health_has_the_numbers_for_machines_and_costs_no_more():
    hourly()
    age(next_at=100)
    assert check_health().to_json()["late_schedules"] == 1
    forget_schedules()
    WorkflowSchedule.objects.all().delete()
    from general_manager.workflow.operations.overview import read_overview

    with data_statements() as statements:
        read_overview()
    assert len(statements) == 4


def test_metrics_count_slots_and_late_schedules():
    registry = CollectorRegistry()
    metrics.install(registry)
    try:
        hourly(overlap="skip", missed="all")
        come_due(slot=hour(1))
        fire_due()
        age(next_at=100)
        value = registry.get_sample_value
        for outcome in ("started", "skipped"):
            labels = {"schedule": "report", "outcome": outcome}
            assert value("general_manager_schedule_slots_total", labels) == 1
        assert value("general_manager_schedules_late", {"database": "default"}) == 1
        assert value("general_manager_schedules_unregistered", {"database": "default"}) == 0
    finally:
        metrics.uninstall(registry)


def test_the_trace_of_an_execution_names_its_slot_or_who_ran_it():
    hourly()
    slot = come_due()
    fire_due()
    run(run="report")
    first, second = WorkflowExecutionRecord.objects.order_by("pk")
    trace = find_trace(first.execution_id)
    assert trace is not None
    assert trace.facts["schedule"] == (
        f"report, slot of {timezone.localtime(slot).isoformat(sep=' ')}"
    )
    by_hand = find_trace(second.execution_id)
    assert by_hand is not None
    assert by_hand.facts["schedule"].startswith("report, run by ")


@pytest.mark.parametrize("metadata", [[], "x", {"schedule": 5}, {"schedule": "a", "slot": "x"}])
def test_a_trace_bears_whatever_metadata_there_is(metadata, celery_engine):
    execution = celery_engine.start(WorkflowDefinition("w"))
    WorkflowExecutionRecord.objects.update(metadata=metadata)
    trace = find_trace(execution.execution_id)
    assert trace is not None
    assert trace.facts.get("schedule") in (None, "a, slot of x")


def test_the_command_lists_schedules_for_people_and_machines():
    hourly()
    come_due()
    fire_due()
    shown = run()
    for part in ("report", "scheduled", "every 3600 s (UTC)", "missed=latest", "next", "last"):
        assert part in shown
    (found,) = json.loads(run(format="json"))
    assert (found["name"], found["condition"], found["active"]) == ("report", "scheduled", 1)
    assert found["last_slot"] == hour().isoformat()


def test_the_command_says_that_none_is_registered():
    assert "No schedule is registered" in run()


def test_the_command_lists_what_is_stored_and_what_has_a_mistake():
    hourly()
    forget_schedules()
    schedule("wrong", ECHO, cron="nonsense")
    shown = run()
    assert "not registered in this process" in shown
    assert "wrong  broken" in shown
    assert "fields instead of five" in shown


def test_the_command_pauses_unpauses_and_runs_one():
    hourly()
    assert "Paused." in run(pause="report", reason="night")
    assert "already" in run(pause="report")
    assert "night" in run()
    assert "Unpaused." in run(unpause="report")
    assert "not paused" in run(unpause="report")
    assert "Started execution" in run(run="report")
    with pytest.raises(CommandError, match="'other'"):
        run(run="other")
    kinds = WorkflowHistory.objects.order_by("pk").values_list("kind", flat=True)
    assert list(kinds) == ["paused", "unpaused", "run_now"]


def test_local_mode_lists_what_this_process_remembers(engine):
    schedule("a", ECHO, cron="0 3 * * *", tz="Europe/Berlin")
    schedule("b", ECHO, every=timedelta(hours=1))
    fire_due()
    pause_schedule("b")
    assert [(one.name, one.condition) for one in list_schedules()] == [
        ("a", "scheduled"), ("b", "paused"),
    ]  # fmt: skip
    assert all(one.coming for one in list_schedules())


def test_o3_old_entries_of_a_schedule_s_history_are_pruned():
    hourly()
    pause_schedule("report")
    WorkflowHistory.objects.update(at=from_now(-timedelta(days=40)))
    run(unpause="report")
    prune_once(timedelta(days=30))
    assert list(WorkflowHistory.objects.values_list("kind", flat=True)) == ["unpaused"]


def test_run_says_how_it_ended_if_it_ran_in_this_process(settings):
    settings.GENERAL_MANAGER = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    hourly()
    out = StringIO()
    call_command("workflow_schedules", run="report", stdout=out)
    assert out.getvalue().endswith(": completed.\n")
