"""Schedules in the admin: what is shown, who may act, and what an act does."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.urls import reverse
from django.utils import timezone

from general_manager.workflow import (
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowSchedule,
    get_workflow_engine,
    run_schedule,
)
from general_manager.workflow.models.sql.columns import from_now
from general_manager.workflow.schedules import forget_schedules
from general_manager.workflow.scheduling.firing import fire_due
from tests.integration.conftest import confirm, hidden_fields
from tests.integration.scheduling.hours import ECHO, come_due, hourly

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.usefixtures("outbox", "celery_engine"),
]
LIST = "/admin/general_manager/workflowschedule/"


@pytest.fixture
def boss(client):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    return client


def staff(client, *permissions):
    user = get_user_model().objects.create_user("ada", is_staff=True)
    names = ("view_workflowschedule", *permissions)
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(user)
    return client


def row(name="report"):
    return WorkflowSchedule.objects.get(name=name)


def page(name="report"):
    return reverse("admin:general_manager_workflowschedule_change", args=[row(name).pk])


def act(name, schedule="report"):
    return reverse("admin:general_manager_schedule_act", args=[row(schedule).pk, name])


def text(client, url):
    response = client.get(url)
    assert response.status_code == 200, url
    return response.content.decode()


def test_the_list_shows_when_each_runs_and_how_it_went(boss):
    hourly()
    fire_due()
    come_due(slot=timezone.now().replace(microsecond=0) - timedelta(seconds=30))
    fire_due()
    shown = text(boss, LIST)
    assert "report" in shown
    assert "every 3600 s" in shown
    assert ">scheduled</span>" in shown
    execution = WorkflowExecutionRecord.objects.get()
    assert f"/workflowexecutionrecord/{execution.pk}/change/" in shown
    assert "in " in shown


def test_the_page_shows_the_next_slots_and_leads_to_the_executions(boss):
    hourly()
    run_schedule("report")
    shown = text(boss, page())
    assert shown.count("<br>") >= 4  # five next slots
    assert "workflowexecutionrecord/?q=report%40" in shown
    assert "1 (<a" in shown
    listed = boss.get("/admin/general_manager/workflowexecutionrecord/?q=report%40")
    assert "echo" in listed.content.decode()


def test_an_execution_shows_the_slot_that_started_it(boss):
    hourly()
    slot = come_due(slot=timezone.now().replace(microsecond=0) - timedelta(seconds=30))
    fire_due()
    execution = WorkflowExecutionRecord.objects.get()
    url = reverse("admin:general_manager_workflowexecutionrecord_change", args=[execution.pk])
    shown = text(boss, url)
    assert f"report, slot of {timezone.localtime(slot):%Y-%m-%d %H:%M:%S}" in shown
    assert "workflowschedule/?q=report" in shown


def test_pausing_asks_first_then_is_recorded_with_who_did_it(boss):
    hourly()
    assert "Executions that were started go on" in text(boss, act("pause"))
    response = confirm(boss, act("pause"), reason="month end")
    assert response["Location"] == page()
    assert (row().paused_by, row().pause_reason) == ("boss", "month end")
    shown = text(boss, page())
    assert ">paused</span>" in shown
    assert "month end" in shown
    assert "boss" in shown
    assert LogEntry.objects.get().change_message == "Paused."
    note = WorkflowHistory.objects.get()
    assert (note.kind, note.by, note.detail) == ("paused", "boss", "month end")
    confirm(boss, act("unpause"))
    assert row().paused_at is None
    assert list(WorkflowHistory.objects.values_list("kind", "by"))[-1] == ("unpaused", "boss")


def test_run_now_leads_to_the_execution(boss):
    hourly()
    response = confirm(boss, act("run"))
    execution = WorkflowExecutionRecord.objects.get()
    assert execution.execution_id in response["Location"]
    assert execution.metadata["run_now_by"] == "boss"
    assert WorkflowHistory.objects.get().detail == execution.execution_id


def test_run_now_that_is_confirmed_twice_starts_one_execution(boss):
    hourly()
    seen = hidden_fields(boss.get(act("run")))
    boss.post(act("run"), seen)
    again = boss.post(act("run"), seen, follow=True).content.decode()
    assert "Nothing was done. It has changed since you were asked." in again
    assert WorkflowExecutionRecord.objects.count() == 1
    confirm(boss, act("run"))
    assert WorkflowExecutionRecord.objects.count() == 2


def test_run_now_is_not_offered_while_executions_must_not_overlap(boss):
    hourly(overlap="skip")
    run_schedule("report")
    assert "act/run/" not in text(boss, page())
    shown = text(boss, act("run"))
    assert "must not overlap" in shown
    boss.post(act("run"), {"confirmed": "yes"})
    assert WorkflowExecutionRecord.objects.count() == 1


def test_a_schedule_is_removed_only_once_this_process_does_not_register_it(boss):
    hourly()
    assert "act/remove/" not in text(boss, page())
    boss.post(act("remove"), {"confirmed": "yes"})
    assert WorkflowSchedule.objects.count() == 1
    forget_schedules()
    response = confirm(boss, act("remove"), follow=True)
    assert response.status_code == 200
    assert not WorkflowSchedule.objects.exists()
    assert not WorkflowHistory.objects.exists()


def test_one_that_no_process_registers_is_shown_as_such(boss):
    hourly()
    WorkflowSchedule.objects.update(registered_at=from_now(-timedelta(minutes=11)))
    forget_schedules()
    assert ">not registered</span>" in text(boss, LIST)
    assert "not registered in this process" in text(boss, act("run"))


def test_what_was_confirmed_is_what_is_done(boss):
    """Two operators: the second confirms a page that is out of date."""
    hourly()
    seen = hidden_fields(boss.get(act("pause")))
    confirm(boss, act("pause"), reason="first")
    confirm(boss, act("unpause"))
    confirm(boss, act("pause"), reason="second")
    response = boss.post(act("unpause"), seen, follow=True)
    assert "Nothing was done" in response.content.decode()
    assert row().pause_reason == "second"


@pytest.mark.parametrize(
    ("permission", "acts"),
    [
        ("pause_schedule", {"pause"}),
        ("run_schedule", {"run"}),
        ("view_workflowexecutionrecord", set()),
    ],
)
def test_o2_each_act_needs_its_own_permission(client, permission, acts):
    hourly()
    someone = staff(client, permission)
    shown = text(someone, page())
    for name in ("pause", "run"):
        assert (f"act/{name}/" in shown) == (name in acts)
        assert someone.get(act(name)).status_code == (200 if name in acts else 403)
        before = WorkflowSchedule.objects.values().get()
        if name not in acts:
            assert someone.post(act(name), {"confirmed": "yes"}).status_code == 403
            assert WorkflowSchedule.objects.values().get() == before
    assert someone.get(act("nonsense")).status_code == 404


def test_o2_without_the_permission_to_see_them_there_is_no_page(client):
    hourly()
    client.force_login(get_user_model().objects.create_user("bob", is_staff=True))
    assert client.get(LIST).status_code == 403
    assert client.get(page()).status_code == 403
    assert client.get(act("pause")).status_code == 403


def test_a_search_finds_by_name_and_by_workflow(boss):
    hourly("nightly")
    hourly("other")
    assert "other" not in text(boss, f"{LIST}?q=night").partition("changelist-form")[2]
    assert "nightly" in text(boss, f"{LIST}?q=ech").partition("changelist-form")[2]


def test_the_overview_lists_the_schedules_of_this_process(boss):
    hourly()
    shown = text(boss, "/admin/general_manager/overview/")
    assert "Schedules registered in this process" in shown
    assert "every 3600 s" in shown


def test_the_list_costs_the_same_statements_however_many_there_are(boss):
    from tests.integration.conftest import data_statements

    counts = []
    for number in range(3):
        hourly(f"s{number}")
        get_workflow_engine().start(ECHO, {}, correlation_id=f"s{number}@x")
        WorkflowSchedule.objects.update(last_correlation_id=f"s{number}@x")
        with data_statements() as statements:
            text(boss, LIST)
        counts.append(len(statements))
    assert counts[1] == counts[2]
