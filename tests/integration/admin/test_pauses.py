"""Pauses in the admin: what is shown, who may act, and what an act does."""

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import override_settings
from django.urls import reverse

from general_manager.workflow import (
    InMemoryEventRegistry,
    LocalWorkflowEngine,
    WorkflowDefinition,
    WorkflowEvent,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowPause,
    acting_as,
    configure_event_registry,
    configure_workflow_engine,
)
from general_manager.workflow.workers.work import empty
from tests.integration.conftest import confirm, hidden_fields
from tests.testapp import plays

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.usefixtures("outbox", "celery_engine"),
]
LIST = "/admin/general_manager/workflowpause/"
NEW = f"{LIST}pause/"
FLOW = WorkflowDefinition("sync", handler=plays.note_it)


@pytest.fixture
def boss(client):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    return client


def staff(client, *permissions):
    user = get_user_model().objects.create_user("ada", is_staff=True)
    names = ("view_workflowpause", *permissions)
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(user)
    return client


def text(client, url):
    response = client.get(url)
    assert response.status_code == 200, url
    return response.content.decode()


def page():
    row = WorkflowPause.objects.get()
    return reverse("admin:general_manager_workflowpause_change", args=[row.pk])


def unpause_url():
    return reverse("admin:general_manager_unpause", args=[WorkflowPause.objects.get().pk])


def test_a_workflow_is_paused_with_a_reason_and_shown_with_what_it_holds(boss, celery_engine):
    values = {"kind": "workflow", "name": "sync", "reason": "the ERP is down"}
    shown = confirm(boss, NEW, follow=True, **values).content.decode()
    assert "Paused." in shown
    [pause] = celery_engine.pauses()
    assert (pause.name, pause.by, pause.reason) == ("sync", "boss", "the ERP is down")
    celery_engine.start(FLOW)
    empty("default")
    for url in (LIST, page()):
        shown = text(boss, url)
        assert "the ERP is down" in shown
        assert "boss" in shown
        assert ">1</td>" in shown or ">1</div>" in shown
    assert [one.change_message for one in LogEntry.objects.all()] == ["Paused."]


def test_it_is_unpaused_and_the_history_says_by_whom(boss, celery_engine):
    with acting_as("ada"):
        celery_engine.pause("sync", reason="x")
    celery_engine.start(FLOW)
    empty("default")
    shown = confirm(boss, unpause_url(), follow=True).content.decode()
    assert "Unpaused." in shown
    assert celery_engine.pauses() == []
    empty("default")
    assert WorkflowExecutionRecord.objects.get().state == "completed"
    assert list(WorkflowHistory.objects.filter(pause__isnull=False).values_list("kind", "by")) == [
        ("paused", "ada"),
        ("unpaused", "boss"),
    ]
    assert ">lifted</span>" in text(boss, page())


def test_a_registration_is_paused_by_its_id(boss, outbox, celery_engine):
    outbox.register("paid", handler=lambda event: None, registration_id="books")
    confirm(boss, NEW, kind="registration", name="books")
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="paid"))
    empty("default")
    [pause] = celery_engine.pauses()
    assert (pause.name, pause.parked) == ("books", 1)
    shown = text(boss, "/admin/general_manager/workfloweventrecord/")
    assert ">paused</span>" in shown


def test_executions_show_that_they_are_parked(boss, celery_engine):
    celery_engine.pause("sync")
    celery_engine.start(FLOW)
    empty("default")
    shown = text(boss, "/admin/general_manager/workflowexecutionrecord/")
    assert ">paused</span>" in shown
    assert "its workflow is paused" in shown
    key = WorkflowExecutionRecord.objects.get().pk
    shown = text(boss, f"/admin/general_manager/workflowexecutionrecord/{key}/change/")
    assert "Parked, because it is paused" in shown


def test_the_overview_names_what_is_paused_to_those_who_may_see_pauses(boss, client, celery_engine):
    celery_engine.pause("sync", reason="x")
    overview = "/admin/general_manager/overview/"
    assert "workflow sync" in text(boss, overview)
    user = get_user_model().objects.create_user("eve", is_staff=True)
    wanted = Permission.objects.filter(codename="view_workflowexecutionrecord")
    user.user_permissions.set(wanted)
    client.force_login(user)
    assert "<h2>Paused</h2>" not in text(client, overview)


def test_those_without_the_permission_see_no_button_and_cannot_act(client, celery_engine):
    celery_engine.pause("sync")
    ada = staff(client)
    assert "pause/" not in text(ada, LIST).replace("workflowpause/", "")
    assert "Unpause" not in text(ada, page())
    for url in (NEW, unpause_url()):
        assert ada.get(url).status_code == 403
        assert ada.post(url, {"kind": "workflow", "name": "x"}).status_code == 403
    assert [one.name for one in celery_engine.pauses()] == ["sync"]


def test_the_permission_alone_is_not_enough_to_see_the_page(client):
    user = get_user_model().objects.create_user("eve", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="pause_workflow"))
    client.force_login(user)
    assert client.get(LIST).status_code == 403
    assert client.get(NEW).status_code == 403


def test_with_both_permissions_it_can_be_done(client, celery_engine):
    ada = staff(client, "pause_workflow")
    confirm(ada, NEW, kind="workflow", name="sync")
    assert [one.by for one in celery_engine.pauses()] == ["ada"]


@pytest.mark.parametrize("name", ["", " ", "x" * 300, "a\u202eb"])
def test_a_name_that_cannot_be_is_refused(boss, celery_engine, name):
    response = confirm(boss, NEW, kind="workflow", name=name)
    assert response.status_code == 200
    assert celery_engine.pauses() == []


def test_one_who_was_shown_another_pause_does_nothing(boss, celery_engine):
    celery_engine.pause("sync")
    seen = hidden_fields(boss.get(unpause_url()))
    celery_engine.unpause("sync")
    celery_engine.pause("sync")
    shown = boss.post(unpause_url(), seen, follow=True).content.decode()
    assert "Nothing was done" in shown
    assert len(celery_engine.pauses()) == 1


def test_in_local_mode_the_page_says_where_pauses_are(boss):
    configure_workflow_engine(LocalWorkflowEngine())
    refused = boss.post(NEW, {"kind": "workflow", "name": "sync"}).content.decode()
    assert "In local mode each process keeps its pauses in its memory." in refused
    configure_event_registry(InMemoryEventRegistry())
    assert "In local mode each process keeps its pauses in its memory." in text(boss, NEW)
    boss.post(NEW, {"kind": "workflow", "name": "sync"})
    assert not WorkflowPause.objects.exists()


def test_what_is_paused_already_is_not_paused_again_and_it_says_by_whom(boss, celery_engine):
    with acting_as("ada"):
        celery_engine.pause("sync", reason="the ERP is down.")
    shown = confirm(boss, NEW, kind="workflow", name="sync", reason="me", follow=True)
    text = shown.content.decode()
    assert "Nothing was done. It is paused already, for " in text
    assert ", by ada: the ERP is down." in text
    assert not LogEntry.objects.exists()
    assert WorkflowPause.objects.get().reason == "the ERP is down."


@pytest.fixture(params=["/narrowed/", "/row_by_row/"])
def narrowed(request, boss):
    """The part of the URLs of an admin that shows only names that begin with "mine"."""
    with override_settings(ROOT_URLCONF="tests.integration.admin.urls_pauses"):
        yield f"{request.param}general_manager/"


def test_a_narrowed_page_pauses_only_what_it_shows(boss, narrowed, celery_engine):
    url = f"{narrowed}workflowpause/pause/"
    shown = confirm(boss, url, kind="workflow", name="theirs").content.decode()
    assert "This name is not among those that you may pause." in shown
    assert not WorkflowPause.objects.exists()
    assert confirm(boss, url, kind="workflow", name="mine").status_code == 302
    assert [one.name for one in celery_engine.pauses()] == ["mine"]


def test_a_narrowed_page_narrows_the_overview_and_its_troubles(boss, narrowed, celery_engine):
    for name in ("mine", "theirs"):
        celery_engine.pause(name)
    shown = text(boss, f"{narrowed}overview/")
    assert "workflow mine is paused, and nothing of that name is registered" in shown
    assert "theirs" not in shown
