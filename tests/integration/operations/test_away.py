"""One of several databases cannot be reached: the others are shown, and it is named."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import OperationalError, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.urls import reverse

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.exceptions import PermanentFailure
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowPause
from general_manager.workflow.operations.health import check_health
from general_manager.workflow.workers.tick import tick
from tests.integration.conftest import confirm
from tests.testapp import plays

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.usefixtures("outbox", "celery_engine"),
]
FLOW = WorkflowDefinition("sync", handler=plays.note_it)
OVERVIEW = "/admin/general_manager/overview/"
AWAY = "Database 'archive' cannot be reached: connection refused."


@pytest.fixture
def be_away(monkeypatch):
    """Makes one database unreachable, as from the next statement or connection on."""

    def leave(alias):
        execute, connect = CursorWrapper.execute, BaseDatabaseWrapper.ensure_connection

        def refuse(self, *arguments, **options):
            if self.db.alias == alias:
                raise OperationalError("connection refused\nIs the server running?")
            return execute(self, *arguments, **options)

        def refuse_connection(self):
            if self.alias == alias:
                raise OperationalError("connection refused")
            return connect(self)

        monkeypatch.setattr(CursorWrapper, "execute", refuse)
        monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", refuse_connection)

    return leave


@pytest.fixture
def boss(client):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    return client


@pytest.fixture
def dead_letters(outbox, workers):
    """One in each database."""

    def fail(event):
        raise PermanentFailure("boom")

    outbox.register("x", handler=fail, registration_id="shop")
    for using in ("default", "archive"):
        outbox.publish(WorkflowEvent(f"of {using}", "a.b", {}, event_name="x"), using=using)
    workers.deliver()
    tick()


def run(*arguments, code=2, **options):
    """What the command prints, and what it says at its end."""
    out = StringIO()
    with pytest.raises((SystemExit, CommandError)) as caught:
        call_command(*arguments, stdout=out, **options)
    assert getattr(caught.value, "returncode", caught.value.args[0]) == code
    return out.getvalue(), str(caught.value)


def test_health_names_it_and_counts_what_the_others_have(dead_letters, be_away):
    assert check_health().overview.dead == 2
    be_away("archive")
    health = check_health()
    assert health.away == ["archive"]
    assert health.troubles[0].message == AWAY
    assert "database-away" in [one.code for one in health.troubles]
    assert health.overview.dead == 1


def test_without_the_executions_database_the_outboxes_of_the_others_are_counted(
    dead_letters, be_away
):
    be_away("default")
    health = check_health()
    assert [one.code for one in health.troubles] == ["database-away", "dead-letters"]
    assert (health.overview.dead, health.overview.states) == (1, {})


def test_if_none_can_be_reached_the_first_error_is_raised(monkeypatch):
    def refuse(self, *arguments, **options):
        raise OperationalError("connection refused")

    monkeypatch.setattr(CursorWrapper, "execute", refuse)
    with pytest.raises(OperationalError, match="refused"):
        check_health()


def test_the_overview_page_names_it(boss, dead_letters, be_away):
    be_away("archive")
    response = boss.get(OVERVIEW)
    assert response.status_code == 200
    assert AWAY.replace("'", "&#x27;") in response.content.decode()


def test_the_health_view_answers_503_with_the_rest(boss, dead_letters, be_away):
    be_away("archive")
    response = boss.get(reverse("general_manager:health"))
    assert (response.status_code, response.json()["dead_letters"]) == (503, 1)


@pytest.mark.parametrize(("alias", "has_executions"), [("archive", True), ("default", False)])
def test_status_prints_the_rest_and_exits_with_two(dead_letters, be_away, alias, has_executions):
    be_away(alias)
    shown, _ = run("workflow_status")
    assert AWAY.replace("archive", alias) in shown
    assert "  dead letters  1\n" in shown
    assert ("  executions " in shown) is has_executions
    assert json.loads(run("workflow_status", format="json")[0])["dead_letters"] == 1


@pytest.mark.parametrize("alias", ["archive", "default"])
def test_a_trace_is_found_in_the_others(dead_letters, be_away, alias):
    other = {"archive": "default", "default": "archive"}[alias]
    be_away(alias)
    shown, said = run("workflow_trace", f"of {other}")
    assert shown.startswith(f"Event of {other}")
    assert said == f"{AWAY.replace('archive', alias)} What is shown is without it."
    assert run("workflow_trace", f"of {alias}")[0] == ""


def test_pauses_are_listed_and_a_workflow_is_paused(be_away, celery_engine):
    celery_engine.pause("sync", reason="the ERP is down")
    be_away("archive")
    shown, said = run("workflow_pauses")
    assert "the ERP is down" in shown
    assert AWAY in said
    call_command("workflow_pauses", pause="other", stdout=StringIO())
    call_command("workflow_pauses", unpause="sync", stdout=StringIO())
    assert [one.name for one in WorkflowPause.objects.on()] == ["other"]


def test_a_workflow_is_paused_in_the_admin_and_nothing_of_it_runs(
    boss, be_away, celery_engine, workers
):
    be_away("archive")
    page = confirm(boss, reverse("admin:general_manager_pause"), kind="workflow", name="sync")
    assert page.status_code == 302
    celery_engine.start(FLOW)
    assert router.db_for_write(WorkflowExecutionRecord) == "default"
    assert [one.name for one in WorkflowPause.objects.on()] == ["sync"]


def test_a_registration_is_paused_everywhere_or_nowhere(boss, be_away):
    be_away("archive")
    page = reverse("admin:general_manager_pause")
    shown = confirm(boss, page, kind="registration", name="shop", follow=True).content.decode()
    assert "Nothing was done. connection refused" in shown
    assert not WorkflowPause.objects.exists()


@pytest.mark.parametrize("alias", ["archive", "default"])
def test_dead_letters_of_the_others_are_requeued(dead_letters, be_away, alias):
    be_away(alias)
    shown, said = run("workflow_requeue_dead_letters", dry_run=True)
    assert shown.endswith("1 dead letter would be requeued.\n")
    assert AWAY.replace("archive", alias) in said
    shown, said = run("workflow_requeue_dead_letters")
    assert shown.endswith("1 dead letter requeued.\n")
    assert said == (
        f"{AWAY.replace('archive', alias)} Its dead letters wait: run the command again."
    )


@pytest.mark.parametrize("alias", ["archive", "default"])
def test_old_rows_of_the_others_are_deleted(dead_letters, be_away, alias):
    be_away(alias)
    options = {"older_than": timedelta(microseconds=1), "include_failed": True}
    shown, said = run("workflow_prune", dry_run=True, **options)
    assert shown == "1 event and 0 executions would be deleted.\n"
    shown, said = run("workflow_prune", **options)
    assert shown == "1 event and 0 executions deleted.\n"
    assert said == f"{AWAY.replace('archive', alias)} Its rows are kept: run the command again."


def test_a_command_says_why_if_no_database_can_be_reached(dead_letters, monkeypatch, be_away):
    be_away("archive")
    be_away("default")
    for name in ("workflow_requeue_dead_letters", "workflow_prune"):
        options = {"older_than": "1d"} if name == "workflow_prune" else {}
        shown, said = run(name, **options)
        assert shown == ""
        assert "The database query failed: connection refused" in said
