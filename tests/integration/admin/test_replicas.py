"""With a replica to read from, what an act looks at and changes is in the database that is written.

The replica here is a second way to the same database, with a transaction that began before: it
lags behind, and refuses to be written.
"""

import re
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connections, transaction
from django.test import override_settings
from django.urls import reverse

from general_manager.workflow import WorkflowDefinition, WorkflowEvent, resume_url, schedule
from general_manager.workflow.models import (
    DeadLetter,
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowLane,
    WorkflowOutbox,
    WorkflowPause,
    WorkflowSchedule,
)
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.scheduling.verbs import locked
from tests.integration.conftest import confirm, hidden_fields
from tests.testapp import flows, plays

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.usefixtures("outbox", "celery_engine"),
]
ONE_PASS = {"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}
READS = ("SELECT", "WITH", "PRAGMA", "SAVEPOINT", "RELEASE", "BEGIN", "SET")


class ReadsOnReplica:
    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, *objects: Any, **hints: Any) -> bool:
        return True

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return None if app_label == "general_manager" else db == "default"


def _only_reads(execute: Any, sql: str, *arguments: Any) -> Any:
    is_read = sql.lstrip().upper().startswith(READS)
    assert is_read, f"the replica is asked to write: {sql}"
    assert "FOR UPDATE" not in sql, f"the replica is asked to lock: {sql}"
    return execute(sql, *arguments)


@pytest.fixture
def replica(transactional_db):
    """The router's database to read from; `lagging` keeps it in the past."""
    of_default = connections["default"].settings_dict
    options = {**of_default["OPTIONS"]}
    if connections["default"].vendor == "sqlite":
        options["transaction_mode"] = "DEFERRED"
    else:
        options["isolation_level"] = 2  # REPEATABLE READ
    connections.settings["replica"] = {
        **of_default,
        "OPTIONS": options,
        "TEST": {**of_default["TEST"], "MIRROR": "default"},
    }
    connections["replica"].connect()
    with (
        override_settings(DATABASE_ROUTERS=[ReadsOnReplica()]),
        connections["replica"].execute_wrapper(_only_reads),
    ):
        yield
    connections["replica"].close()
    del connections["replica"]
    del connections.settings["replica"]


@contextmanager
def lagging():
    """What is written from here on is not on the replica."""
    with transaction.atomic(using="replica"):
        WorkflowExecutionRecord.objects.using("replica").exists()
        yield


@pytest.fixture
def boss(client):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    return client


def act(record, name):
    return reverse("admin:general_manager_execution_act", args=[record.pk, name])


def listed(model):
    return reverse(f"admin:general_manager_{model}_changelist")


def said(response):
    assert response.status_code == 200, response
    found = re.findall(r'<ul class="messagelist">(.*?)</ul>', response.content.decode(), re.S)
    return re.sub(r"<[^>]+>", "", " ".join(found)).strip()


def bulk(client, model, name, keys, **values):
    page = client.post(listed(model), {"action": name, "_selected_action": keys})
    sent = {**hidden_fields(page), **values}
    return said(client.post(listed(model), sent, follow=True))


def primary(model):
    return model.objects.using("default")


@pytest.fixture
def begin(replica, celery_engine, workers):
    def start(handler, *troubles):
        flows.troubles[:] = troubles
        execution = celery_engine.start(WorkflowDefinition("trip", handler=handler))
        past = {"wake_at": "2020-01-01T00:00:00Z"}
        primary(WorkflowExecutionRecord).filter(state="pending").update(**past)
        workers.run()
        return primary(WorkflowExecutionRecord).get(execution_id=execution.execution_id)

    return start


@pytest.fixture
def letters(replica, outbox):
    """Two dead letters."""

    def fail(event):
        raise ValueError("no")

    outbox.register("x", handler=fail, registration_id="shop")
    for name in ("1", "2"):
        outbox.publish(WorkflowEvent(name, "a.b", {}, event_name="x"))
    workers_deliver()
    return list(primary(DeadLetter).filter(status="dead_letter").order_by("pk"))


def workers_deliver():
    """Everything that is queued; the first failure is for good."""
    past = "2020-01-01T00:00:00Z"
    for model in (WorkflowOutbox, WorkflowDeliveryAttempt, WorkflowLane):
        primary(model).filter(available_at__isnull=False).update(available_at=past)
    with override_settings(GENERAL_MANAGER=ONE_PASS):
        drain()


def test_an_execution_is_answered_where_it_is_written(boss, begin):
    asked = begin(flows.ask)
    done = confirm(boss, act(asked, "answer"), answer="true", follow=True)
    assert said(done) == "Answered."


def test_an_execution_is_cancelled_and_one_that_failed_is_retried(boss, begin):
    asked, failed = begin(flows.ask), begin(flows.fail)
    assert said(confirm(boss, act(asked, "cancel"), follow=True)) == "Cancelled."
    again = confirm(boss, act(failed, "retry"), follow=True)
    assert said(again) == "Continued by a fresh execution."


def test_a_step_in_doubt_is_offered_and_resolved(boss, begin):
    doubtful = begin(flows.charge_then_note, ValueError("line lost"))
    with lagging():
        sent = {"step": "charge", "happened": "yes", "result": "1"}
        page = boss.post(
            act(doubtful, "resolve"), {**hidden_fields(boss.get(act(doubtful, "resolve"))), **sent}
        )
    assert page.status_code == 302


def test_selected_executions_are_cancelled(boss, begin):
    keys = [begin(flows.ask).pk, begin(flows.ask).pk]
    name = "workflowexecutionrecord"
    assert bulk(boss, name, "cancel_selected", keys) == "2: Cancelled."


def test_dead_letters_are_requeued_and_discarded(boss, letters):
    first, second = letters
    url = reverse("admin:general_manager_delivery_act", args=[first.pk, "requeue"])
    assert "Queued for redelivery" in said(confirm(boss, url, follow=True))
    name = "discard_selected"
    assert bulk(boss, "deadletter", name, [second.pk], reason="old") == "1: Discarded."


def test_an_event_is_delivered_again(boss, letters):
    event = primary(WorkflowEventRecord).get(event_id="1")
    url = reverse("admin:general_manager_event_deliver_again", args=[event.pk])
    assert said(confirm(boss, url, to=["shop"], follow=True)) == (
        "Queued for redelivery to 1 handler."
    )


def test_what_the_replica_does_not_have_yet_can_be_acted_on(boss, replica, begin, outbox):
    outbox.register("x", handler=lambda event: None, registration_id="shop")
    with lagging():
        asked = begin(flows.ask)
        assert confirm(boss, act(asked, "answer"), answer="1").status_code == 302
        outbox.publish(WorkflowEvent("9", "a.b", {}, event_name="x"))
        workers_deliver()
        event = primary(WorkflowEventRecord).get(event_id="9")
        url = reverse("admin:general_manager_event_deliver_again", args=[event.pk])
        assert confirm(boss, url, to=["shop"]).status_code == 302
    entry = primary(WorkflowOutbox).get(event=event)
    assert entry.available_at is not None


def test_a_claim_is_released(boss, replica, outbox):
    outbox.register("x", handler=lambda event: None, registration_id="shop")
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    primary(WorkflowOutbox).claim(1, lease=timedelta(hours=1))
    entry = primary(WorkflowOutbox).get()
    assert bulk(boss, "workflowoutbox", "release_selected", [entry.pk]) == "1: Released."


def test_what_is_due_is_delivered_though_the_replica_does_not_have_it_yet(boss, replica, outbox):
    outbox.register("x", handler=lambda event: None, registration_id="shop")
    with lagging():
        outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
        confirm(boss, reverse("admin:general_manager_outbox_drain"))
    assert primary(WorkflowDeliveryAttempt).get().status == "completed"


def test_a_workflow_is_paused_and_unpaused_though_the_replica_lags(boss, replica, celery_engine):
    new = reverse("admin:general_manager_pause")
    with lagging():
        assert confirm(boss, new, kind="workflow", name="sync").status_code == 302
        row = primary(WorkflowPause).get()
        assert row.is_on
        url = reverse("admin:general_manager_unpause", args=[row.pk])
        assert confirm(boss, url).status_code == 302
    assert not primary(WorkflowPause).get().is_on


def test_a_schedule_is_paused_and_run(boss, replica, celery_engine):
    schedule("nightly", WorkflowDefinition("sync", handler=plays.note_it), every=timedelta(days=1))
    with transaction.atomic():
        row = locked("nightly")
    assert isinstance(row, WorkflowSchedule)
    for name in ("run", "pause"):
        url = reverse("admin:general_manager_schedule_act", args=[row.pk, name])
        assert confirm(boss, url).status_code == 302
    assert primary(WorkflowSchedule).get().paused_at is not None
    assert primary(WorkflowExecutionRecord).count() == 1


def test_the_head_of_a_lane_is_skipped(boss, replica, outbox):
    def fail(event):
        raise ValueError("no")

    outbox.register("x", handler=fail, registration_id="shop", in_order=True)
    for name in ("1", "2"):
        outbox.publish(WorkflowEvent(name, "a.b", {}, event_name="x", ordering_key="order:7"))
    for _ in range(3):
        workers_deliver()
    lane = primary(WorkflowLane).get()
    url = reverse("admin:general_manager_lane_act", args=[lane.pk, "skip"])
    assert "Skipped" in said(confirm(boss, url, reason="old", follow=True))


def test_a_signed_link_answers_at_once(client, begin):
    with lagging():
        asked = begin(flows.ask)
        url = resume_url(asked.execution_id, "approval", True)
        assert client.get(url).status_code == 200
        assert client.post(url).status_code == 200
