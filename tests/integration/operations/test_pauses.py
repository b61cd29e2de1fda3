"""Pauses as operators see them: status, health, trace, metrics, check, command, retention."""

import json
from contextlib import suppress
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone

from general_manager.checks import check_pauses
from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowEvent,
    WorkflowHistory,
    WorkflowPause,
    acting_as,
)
from general_manager.workflow.operations.health import check_health
from general_manager.workflow.operations.trace import find_trace
from general_manager.workflow.testing import drain, paused
from general_manager.workflow.workers.pruning import prune_once
from general_manager.workflow.workers.work import empty
from tests.testapp import plays

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.usefixtures("outbox", "celery_engine"),
]
FLOW = WorkflowDefinition("sync", handler=plays.note_it)


@pytest.fixture
def parked(celery_engine):
    """The id of an execution that is parked."""
    with acting_as("ada"):
        celery_engine.pause("sync", reason="the ERP is down")
    key = celery_engine.start(FLOW).execution_id
    empty("default")
    return key


def pause_codes():
    return [one.code for one in check_health().troubles if one.code.endswith("-pauses")]


def said(capsys, *arguments, **options):
    with suppress(SystemExit):
        call_command(*arguments, **options)
    return capsys.readouterr().out


@pytest.mark.usefixtures("parked")
def test_status_says_what_is_paused_since_when_by_whom_and_why(capsys):
    shown = said(capsys, "workflow_status")
    assert "paused        workflow sync for " in shown
    assert " by ada: the ERP is down; 1 parked" in shown
    [pause] = json.loads(said(capsys, "workflow_status", format="json"))["pauses"]
    assert (pause["kind"], pause["name"], pause["parked"]) == ("workflow", "sync", 1)


@pytest.mark.usefixtures("parked")
def test_a_pause_is_no_trouble_by_itself_but_a_long_one_that_holds_work_back_is():
    assert pause_codes() == []
    WorkflowPause.objects.update(paused_at=timezone.now() - timedelta(days=2))
    assert pause_codes() == ["long-pauses"]


def test_a_long_pause_that_holds_nothing_back_is_no_trouble(celery_engine, outbox):
    outbox.register("paid", handler=lambda event: None, registration_id="books")
    celery_engine.pause(registration="books")
    WorkflowPause.objects.update(paused_at=timezone.now() - timedelta(days=2))
    assert pause_codes() == []


def test_a_name_that_nobody_registers_is_named_by_health_and_the_check(celery_engine, outbox):
    outbox.register("paid", handler=lambda event: None, registration_id="books")
    celery_engine.pause(registration="books")
    assert pause_codes() == []
    assert check_pauses(databases=["default"]) == []
    celery_engine.pause("snyc")
    celery_engine.pause(registration="boks")
    assert pause_codes() == ["unknown-pauses"]
    messages = check_pauses(databases=["default"])
    assert {one.id for one in messages} == {"general_manager.W070"}
    assert sorted(one.msg.split("'")[1] for one in messages) == ["boks", "snyc"]
    assert check_pauses() == []


def trace_of(known_id):
    trace = find_trace(known_id)
    assert trace is not None
    return trace


def test_the_trace_shows_since_when_an_execution_is_parked(parked):
    trace = trace_of(parked)
    assert trace.facts["paused_since"]
    assert "parked" in [one.what for one in trace.moments]


def test_the_trace_of_an_event_shows_whom_it_is_parked_for(celery_engine, outbox):
    outbox.register("paid", handler=lambda event: None, registration_id="books")
    celery_engine.pause(registration="books")
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="paid"))
    empty("default")
    moments = {one.what: one.about for one in trace_of("1").moments}
    assert moments["parked"] == "books"
    celery_engine.unpause(registration="books")
    assert "parked" not in {one.what for one in trace_of("1").moments}
    empty("default")
    assert "delivered" in {one.what for one in trace_of("1").moments}


@pytest.mark.usefixtures("parked")
def test_the_metrics_say_how_much_each_pause_has_parked():
    metrics = pytest.importorskip("general_manager.workflow.operations.metrics")
    families = {one.name: one for one in metrics.BacklogCollector().collect()}
    [found] = [
        one
        for one in families["general_manager_pauses"].samples
        if one.labels["database"] == "default"
    ]
    assert (found.labels["kind"], found.labels["name"], found.value) == ("workflow", "sync", 1)


def test_the_command_pauses_lists_and_unpauses(capsys, celery_engine, outbox):
    outbox.register("paid", handler=lambda event: None, registration_id="books")
    assert "Nothing is paused." in said(capsys, "workflow_pauses")
    shown = said(capsys, "workflow_pauses", pause="sync", reason="x")
    assert shown.startswith("Paused. 0 running, 0 parked.")
    assert "Nothing of that name is registered" in shown
    shown = said(capsys, "workflow_pauses", pause_registration="books")
    assert "Nothing of that name" not in shown
    shown = said(capsys, "workflow_pauses", pause="sync", reason="y")
    assert "It is paused already, for " in shown
    assert ", by manage.py workflow_pauses: x." in shown
    shown = said(capsys, "workflow_pauses")
    assert "workflow sync" in shown
    assert "registration books" in shown
    assert len(json.loads(said(capsys, "workflow_pauses", format="json"))) == 2
    assert "Unpaused." in said(capsys, "workflow_pauses", unpause="sync")
    assert "Unpaused." in said(capsys, "workflow_pauses", unpause_registration="books")
    assert "It is not paused." in said(capsys, "workflow_pauses", unpause="sync")
    with pytest.raises(CommandError, match="must not be empty"):
        call_command("workflow_pauses", pause="")


def test_retention_deletes_pauses_that_are_over_and_no_other(celery_engine):
    celery_engine.pause("old")
    celery_engine.unpause("old")
    celery_engine.pause("on")
    celery_engine.pause("lifted")
    celery_engine.unpause("lifted")
    long_ago = timezone.now() - timedelta(days=40)
    WorkflowPause.objects.filter(name="old").update(lifted_at=long_ago, released_at=long_ago)
    WorkflowPause.objects.filter(name="lifted").update(lifted_at=long_ago)
    prune_once(timedelta(days=30))
    left = WorkflowPause.objects.values_list("name", flat=True)
    assert sorted(left) == ["lifted", "on"]
    assert not WorkflowHistory.objects.filter(pause__name="old").exists()


def test_a_parked_event_is_never_pruned(celery_engine, outbox):
    outbox.register("paid", handler=lambda event: None, registration_id="books")
    celery_engine.pause(registration="books")
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="paid"))
    empty("default")
    prune_once(timedelta(0))
    assert find_trace("1") is not None


def test_a_test_pauses_for_a_block(celery_engine):
    plays.reset()
    with paused("sync"):
        celery_engine.start(FLOW)
        drain()
        assert plays.stage.calls == []
    drain()
    assert plays.stage.calls == ["noted"]
