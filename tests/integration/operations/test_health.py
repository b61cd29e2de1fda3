"""Health, asked over HTTP and by django-health-check."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import OperationalError
from django.test import AsyncRequestFactory, override_settings
from django.urls import reverse
from django.utils import timezone
from health_check.exceptions import ServiceUnavailable, ServiceWarning
from health_check.views import HealthCheckView

from general_manager.workflow import PermanentFailure, WorkflowDefinition, WorkflowEvent
from general_manager.workflow.models import (
    WorkflowExecutionRecord,
    WorkflowHeartbeat,
    WorkflowOutbox,
)
from general_manager.workflow.operations.health import check_health
from general_manager.workflow.operations.health_check import WorkflowHealthCheck
from general_manager.workflow.operations.overview import read_overview
from general_manager.workflow.workers.tick import sweep, tick
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

URL = "/workflows/health/"
CHECK = "general_manager.workflow.operations.health_check.WorkflowHealthCheck"


@pytest.fixture
def no_database(monkeypatch):
    def be_away(self, *arguments, **options):
        raise OperationalError("connection to host db.internal refused")

    monkeypatch.setattr("django.db.backends.utils.CursorWrapper.execute", be_away)


def staff(*permissions, **attributes):
    user = User.objects.create_user("ada", **{"is_staff": True, **attributes})
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


def test_a_healthy_project_answers_200_and_tells_anonymous_users_no_more(outbox, client):
    tick()
    assert reverse("general_manager:health") == URL
    response = client.get(URL)
    assert (response.status_code, response.json()) == (200, {"ok": True})
    assert "no-cache" in response["Cache-Control"]


def test_a_project_in_trouble_answers_503(outbox, client):
    response = client.get(URL)
    assert (response.status_code, response.json()) == (503, {"ok": False})


def test_i14_a_worker_that_is_alive_and_does_nothing_is_named(outbox, celery_engine):
    tick()
    long_ago = timezone.now() - timedelta(minutes=3)
    WorkflowHeartbeat.objects.create(duty="worker:celery@one", by="one:1")
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    assert codes() == []
    WorkflowOutbox.objects.update(available_at=long_ago)
    assert codes() == ["idle-workers"]
    (trouble,) = check_health().troubles
    assert trouble.message == "Worker celery@one is running but does not pick up due work."
    WorkflowOutbox.objects.update(status="claimed")  # it is busy, with whatever
    assert codes() == []
    WorkflowOutbox.objects.all().delete()
    celery_engine.start(WorkflowDefinition("w", handler=flows.ask))
    WorkflowExecutionRecord.objects.update(wake_at=long_ago)
    assert codes() == ["idle-workers", "late-executions"]


def codes():
    return [one.code for one in check_health().troubles]


def test_c1_an_end_that_is_not_passed_on_to_parent_or_children_is_named(celery_engine, client):
    tick()
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    with override_settings(GENERAL_MANAGER=settings):
        celery_engine.start(WorkflowDefinition("w", handler=flows.ask, timeout=timedelta(days=1)))
        celery_engine.cancel(WorkflowExecutionRecord.objects.get().execution_id)
        assert codes() == []
        # As if the worker, and every sweep since, had died in between.
        long_ago = timezone.now() - timedelta(minutes=3)
        WorkflowExecutionRecord.objects.update(wake_at=long_ago)
        assert codes() == ["late-ends"]
        client.force_login(staff(is_superuser=True))
        page = reverse("admin:general_manager_workflowexecutionrecord_changelist")
        assert client.get(f"{page}?overdue=ended").context["cl"].result_count == 1
        assert client.get(f"{page}?overdue=yes").context["cl"].result_count == 0
        sweep()
        assert codes() == []


def test_a1_without_workers_health_says_that_no_process_does_what_is_due(celery_engine, client):
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    with override_settings(GENERAL_MANAGER=settings):
        assert check_health().troubles == []  # nothing waits for anything
        celery_engine.start(WorkflowDefinition("w", handler=flows.ask))
        assert [one.code for one in check_health().troubles] == ["no-timer"]
        assert "Beat" not in check_health().troubles[0].message
        tick()
        assert check_health().troubles == []
        WorkflowHeartbeat.objects.update(at=timezone.now() - timedelta(hours=1))
        (trouble,) = check_health().troubles
        assert trouble.message == "No process has processed due work for 1 h."


def test_trouble_in_the_outbox_of_another_database_is_trouble_too(outbox, client, workers):
    tick()

    def fail(event):
        raise PermanentFailure("boom")

    outbox.register("x", handler=fail, registration_id="r")
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"), using="archive")
    workers.deliver()
    assert client.get(URL).status_code == 503


def test_a_handler_that_hangs_in_its_first_delivery_is_trouble(outbox):
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    WorkflowOutbox.objects.claim(1, lease=timedelta(hours=1), begin=1)
    assert read_overview().long_deliveries == 0
    WorkflowOutbox.objects.update(claimed_at=timezone.now() - timedelta(seconds=301))
    assert read_overview().long_deliveries == 1


def test_settings_that_cannot_be_read_are_trouble_like_a_database_that_is_away(client):
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "prod"}):
        response = client.get(URL)
    assert (response.status_code, response.json()) == (503, {"ok": False})


def test_local_mode_is_well(client):
    assert client.get(URL).status_code == 200


@pytest.mark.parametrize(
    ("permissions", "attributes"),
    [((), {}), (("view_workflowexecutionrecord",), {"is_staff": False})],
)
def test_o2_users_without_permission_see_no_more_than_anonymous_users(
    outbox, client, permissions, attributes
):
    client.force_login(staff(*permissions, **attributes))
    assert client.get(URL).json() == {"ok": False}


def test_staff_who_may_see_executions_see_what_is_wrong(outbox, client):
    client.force_login(staff("view_workflowexecutionrecord"))
    response = client.get(URL)
    assert response.status_code == 503
    assert [one["code"] for one in response.json()["troubles"]] == ["no-worker", "no-beat"]


def test_a_database_that_is_away_is_503_without_its_name(outbox, client, request):
    client.force_login(staff("view_workflowexecutionrecord"))
    request.getfixturevalue("no_database")
    response = client.get(URL)
    assert (response.status_code, response.json()) == (503, {"ok": False})
    assert b"db.internal" not in response.content


def beats(tick=0, beat=0, worker=0):
    """Heartbeats so many seconds old; `None`: none at all."""
    now = timezone.now()
    for duty, age in (("tick", tick), ("beat:host:1", beat), ("worker:one@host", worker)):
        if age is not None:
            WorkflowHeartbeat.objects.create(duty=duty, at=now - timedelta(seconds=age))


@pytest.mark.parametrize(
    ("ages", "codes"),
    [
        ({}, []),
        # Only the worker is stopped: it took its heartbeat back, or was killed.
        ({"tick": 70, "worker": None}, ["no-worker"]),
        ({"tick": 120, "worker": 120}, ["no-worker"]),
        ({"tick": 70, "worker": 70}, ["no-tick"]),
        ({"tick": None, "worker": None}, ["no-worker"]),
        # Only Beat.
        ({"tick": 70, "beat": None}, ["no-beat"]),
        ({"tick": 200, "beat": 200}, ["no-beat"]),
        # Both.
        ({"tick": None, "beat": None, "worker": None}, ["no-worker", "no-beat"]),
        # The tick is heard by nobody: a worker hangs, or consumes other queues.
        ({"tick": 70}, ["no-tick"]),
        ({"tick": 10, "worker": None}, []),
    ],
)
def test_b10_a_worker_that_is_gone_is_not_taken_for_a_beat_that_is_gone(outbox, ages, codes):
    beats(**ages)
    assert [one.code for one in check_health().troubles] == codes


def test_b10_the_words_for_a_lost_tick_name_who_is_there(outbox):
    beats(tick=600, beat=0, worker=0)
    [trouble] = check_health().troubles
    assert trouble.message == (
        "No tick of Beat for 10 min. Beat is running, but the workers have not run its tick."
    )


def test_health_is_asked_and_never_posted_to(client):
    assert client.post(URL).status_code == 405
    assert client.head(URL).status_code == 200


# django-health-check


def test_the_check_passes_if_all_is_well(outbox):
    tick()
    WorkflowHealthCheck().run()


def test_what_stops_work_is_unavailable_and_what_can_wait_is_a_warning(outbox, workers):
    with pytest.raises(ServiceUnavailable, match=r"Beat has never ticked\."):
        WorkflowHealthCheck().run()
    outbox.register("x", handler=lambda event: 1 / 0)
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}
    with override_settings(GENERAL_MANAGER=settings):
        workers.deliver()
    WorkflowHeartbeat.objects.create(duty="tick", at=timezone.now())
    with pytest.raises(ServiceWarning, match=r"1 dead letter\."):
        WorkflowHealthCheck().run()


def test_the_check_says_nothing_of_a_database_that_is_away(no_database):
    with pytest.raises(ServiceUnavailable, match="cannot be reached") as caught:
        WorkflowHealthCheck().run()
    assert "db.internal" not in str(caught.value)


def test_the_check_is_found_by_its_dotted_path():
    view = HealthCheckView()
    view.checks = (CHECK,)
    (check,) = view.get_checks()
    assert isinstance(check, WorkflowHealthCheck)
    assert repr(check) == "WorkflowHealthCheck()"


def test_the_check_runs_on_the_pages_of_django_health_check():
    """In local mode, which needs no tables: the page runs checks in threads of its own."""
    view = HealthCheckView.as_view(checks=[CHECK])
    request = AsyncRequestFactory().get("/", headers={"accept": "application/json"})

    async def ask():
        response = await view(request)
        return response.status_code, response.content.decode()

    from asgiref.sync import async_to_sync

    status, content = async_to_sync(ask)()
    assert (status, content) == (200, '{"WorkflowHealthCheck()": "OK"}')


def test_status_counts_the_keys_whose_events_wait_in_order(outbox, workers, capsys):
    def fail(event):
        raise PermanentFailure("boom")

    outbox.register("x", handler=fail, registration_id="r", in_order=True)
    for name in ("1", "2"):
        event = WorkflowEvent(name, "a.b", {}, event_name="x", ordering_key="order:7")
        outbox.publish(event)
    tick()
    workers.deliver()
    with pytest.raises(SystemExit):
        call_command("workflow_status")
    assert (
        "lanes         undelivered events in order of 1 key, 1 blocked" in capsys.readouterr().out
    )
