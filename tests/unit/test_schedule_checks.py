"""manage.py check names every schedule that cannot run, all at once."""

from datetime import timedelta

import pytest
from django.test import override_settings

from general_manager.checks import check_schedules
from general_manager.workflow import WorkflowDefinition, schedule
from general_manager.workflow.core import slots
from tests.testapp.workflows import double

HOUR = timedelta(hours=1)
DOUBLE = WorkflowDefinition("double", handler=double)
PRODUCTION = {"WORKFLOW_MODE": "production"}


def found():
    return [(str(one.id).rpartition(".")[2], one.msg) for one in check_schedules()]


def test_right_schedules_have_nothing_to_say():
    schedule("a", DOUBLE, cron="0 3 * * *", tz="Europe/Berlin")
    schedule("b", DOUBLE, every=HOUR)
    assert found() == []
    with override_settings(GENERAL_MANAGER=PRODUCTION):
        assert found() == []


def test_wrong_expressions_and_unknown_zones_are_errors_with_a_hint():
    schedule("a", DOUBLE, cron="0 25 * * *")
    schedule("b", DOUBLE, cron="0 3 * * *", tz="Europe/Berlim")
    messages = check_schedules()
    assert [(one.id, one.level) for one in messages] == [("general_manager.E020", 40)] * 2
    assert "'a' never runs: '0 25 * * *' is not a cron expression" in messages[0].msg
    assert "'b' never runs: 'Europe/Berlim' is not a time zone" in messages[1].msg
    assert all(one.hint for one in messages)


def test_a_machine_without_zones_is_told_to_install_them(monkeypatch):
    monkeypatch.setattr(slots, "available_timezones", set)
    schedule("a", DOUBLE, cron="0 3 * * *", tz="Not/Installed")
    (message,) = check_schedules()
    assert "no time zone database" in message.msg
    assert "tzdata" in str(message.hint)


def test_a_name_that_two_schedules_have_is_an_error_that_describes_both():
    schedule("a", DOUBLE, cron="0 3 * * *", tz="UTC")
    schedule("a", DOUBLE, cron="0 4 * * *", tz="UTC")
    ((check_id, text),) = found()
    assert check_id == "E021"
    assert "'0 3 * * *' (UTC)" in text
    assert "'0 4 * * *' (UTC)" in text


@pytest.mark.parametrize("run_async", [True, False])
def test_a_workflow_that_no_worker_can_import_is_an_error_where_there_are_workers(run_async):
    schedule("a", WorkflowDefinition("w", handler=lambda data: None), every=HOUR)
    with override_settings(GENERAL_MANAGER={**PRODUCTION, "WORKFLOW_ASYNC": run_async}):
        assert [check_id for check_id, _ in found()] == (["E022"] if run_async else [])


def test_without_ticks_a_schedule_waits_indefinitely_and_a_warning_says_so():
    schedule("a", DOUBLE, every=HOUR)
    with override_settings(GENERAL_MANAGER={**PRODUCTION, "WORKFLOW_BEAT_ENABLED": False}):
        assert [check_id for check_id, _ in found()] == ["W040"]


def test_wrong_settings_are_reported_first():
    schedule("a", DOUBLE, cron="nonsense")
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "x"}):
        assert found() == []
