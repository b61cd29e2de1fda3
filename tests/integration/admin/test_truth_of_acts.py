"""What an act says and logs is what was done; no stored value, time or lost row breaks a page."""

import io
import tracemalloc
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.test import RequestFactory, override_settings
from django.utils import timezone

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.admin.acts import confirming
from general_manager.workflow.admin.acts.together import committed_together
from general_manager.workflow.admin.outbox import OutboxAdmin
from general_manager.workflow.exceptions import PermanentFailure
from general_manager.workflow.models import (
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.operations.health_view import health_view
from general_manager.workflow.operations.moments import MOST_MOMENTS
from tests.integration.conftest import confirm, hidden_fields
from tests.integration.operations.test_away import be_away  # noqa: F401 - a fixture
from tests.testapp import flows, plays
from tests.testapp.models import Invoice
from tests.testapp.plays import stage

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
EXECUTIONS = "/admin/general_manager/workflowexecutionrecord/"
EVENTS = "/admin/general_manager/workfloweventrecord/"
DRAIN = "/admin/general_manager/workflowoutbox/drain/"
ROWS = WorkflowExecutionRecord.objects


@pytest.fixture
def boss(client):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    return client


@pytest.fixture
def trip(celery_engine, workers):
    plays.reset()
    definition = WorkflowDefinition("trip", handler=plays.book_trip)
    key = celery_engine.start(definition, {"waits": True}).execution_id
    workers.run()
    yield ROWS.get(execution_id=key)
    plays.reset()


def said(response):
    return [str(one) for one in response.context["messages"]]


def logged():
    return LogEntry.objects.latest("pk").change_message


def fail(_):
    raise PermanentFailure("x")


def peak(act):
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_to_be_undone_first_is_not_said_to_be_cancelled(boss, trip):
    stage.failing |= {"undo b"}
    url = f"{EXECUTIONS}{trip.pk}/act/cancel/"
    done = confirm(boss, url, reason="x", undo_first="on", follow=True)
    trip.refresh_from_db()
    assert trip.state == "pending"
    assert said(done) == ["To be undone first; it is cancelled after that."] == [logged()]
    [again] = said(confirm(boss, url, reason="y", undo_first="on", follow=True))
    assert again == "Nothing was done. It is being undone already."
    sent = {"action": "cancel_selected", "_selected_action": [trip.pk], "index": "0"}
    page = boss.post(EXECUTIONS, sent)
    assert said(boss.post(EXECUTIONS, hidden_fields(page), follow=True)) == ["1: Cancelled."]


def test_i2_a_confirmed_redelivery_is_done_once(boss, outbox, workers):
    mails = []
    outbox.register("paid", handler=lambda event: mails.append(1), registration_id="mail")
    outbox.publish(WorkflowEvent("evt-1", "shop.paid", {}, event_name="paid"))
    workers.deliver()
    url = f"{EVENTS}{WorkflowEventRecord.objects.get().pk}/deliver-again/"
    sent = {**hidden_fields(boss.get(url)), "to": ["mail", "mail"]}
    boss.post(url, sent)
    assert logged() == "Queued for redelivery to 1 handler."
    workers.deliver()
    boss.post(url, sent)
    workers.deliver()
    assert len(mails) == 2


def test_i7_deliver_now_does_not_call_delivered_what_failed(boss, outbox, capsys):
    outbox.register("x", handler=fail, registration_id="shop")
    outbox.publish(WorkflowEvent("e", "a.b", {}, event_name="x"))
    text = "1 event was processed. What failed is tried again, or is a dead letter now."
    assert said(boss.post(DRAIN, hidden_fields(boss.get(DRAIN)), follow=True)) == [text]
    assert logged() == text
    outbox.publish(WorkflowEvent("f", "a.b", {}, event_name="x"))
    call_command("workflow_drain_outbox")
    assert "1 event processed, 0 executions run." in capsys.readouterr().out


def test_deliver_now_says_which_database_is_away(boss, outbox, be_away):  # noqa: F811
    outbox.register("x", handler=lambda event: None, registration_id="shop")
    outbox.publish(WorkflowEvent("e", "a.b", {}, event_name="x"), using="archive")
    sent = hidden_fields(boss.get(DRAIN))
    be_away("archive")
    assert said(boss.post(DRAIN, sent, follow=True)) == [
        "Database “archive” could not be read: see the log."
    ]


def test_i3_deliver_now_stays_in_the_database_of_a_narrowed_page(boss, outbox, monkeypatch):
    heard = []
    outbox.register("x", handler=lambda event: heard.append(1), registration_id="shop")
    outbox.publish(WorkflowEvent("theirs", "a.b", {}, event_name="x"), using="archive")
    mine = WorkflowOutbox.objects.filter(event__source="mine")
    monkeypatch.setattr(OutboxAdmin, "get_queryset", lambda self, request: mine.all())
    boss.post(DRAIN, hidden_fields(boss.get(DRAIN)))
    assert heard == []


@pytest.mark.urls("tests.integration.admin.urls_panel")
@pytest.mark.parametrize(
    "progress", [{"done": 10**400, "of": 1}, {"done": 0.5, "of": 10**400}], ids=["much", "of much"]
)
def test_i4_no_progress_breaks_a_page(boss, celery_engine, progress):
    invoice = Invoice.objects.create(number="I-1")
    celery_engine.start(WorkflowDefinition("approve", handler=flows.ask), subject=invoice)
    ROWS.update(reports={"progress": progress})
    for url in (
        f"/admin/testapp/invoice/{invoice.pk}/change/",
        f"{EXECUTIONS}{ROWS.get().pk}/change/",
    ):
        assert boss.get(url).status_code == 200


FAR = [
    ("Asia/Tokyo", datetime(9999, 12, 31, 23, tzinfo=UTC)),
    ("America/New_York", datetime(1, 1, 1, tzinfo=UTC)),
]


@pytest.mark.parametrize(("zone", "at"), FAR)
def test_i4_an_event_of_any_time_is_shown_and_exported(boss, outbox, zone, at):
    event = WorkflowEvent("evt-far", "shop.paid", {}, event_name="paid", occurred_at=at)
    outbox.publish(event)
    key = WorkflowEventRecord.objects.get().pk
    chosen = {"action": "export_as_csv", "select_across": "1", "_selected_action": [key]}
    with override_settings(TIME_ZONE=zone), timezone.override(zone):
        assert boss.get(f"{EVENTS}{key}/change/").status_code == 200
        assert b"evt-far" in b"".join(boss.post(EVENTS, chosen).streaming_content)


@pytest.mark.parametrize(("zone", "at"), FAR)
def test_i4_an_execution_of_any_time_is_shown_and_traced(boss, celery_engine, zone, at):
    about = {"schedule": "s", "slot": at.isoformat()}
    definition = WorkflowDefinition("t", handler=flows.ask)
    key = celery_engine.start(definition, {}, metadata=about, at=FAR[0][1]).execution_id
    with override_settings(TIME_ZONE=zone), timezone.override(zone):
        page = boss.get(f"{EXECUTIONS}{ROWS.get(execution_id=key).pk}/change/")
        assert page.status_code == 200
        for how in ("text", "json"):
            call_command("workflow_trace", key, format=how, stdout=io.StringIO())


def test_i9_a_bulk_act_does_not_read_the_data_of_all_rows(boss, celery_engine):
    definition = WorkflowDefinition("trip", handler=flows.ask)
    for _ in range(40):
        celery_engine.start(definition, {"x": "y" * 1_000_000})
    keys = list(ROWS.values_list("pk", flat=True))
    sent = {"action": "cancel_selected", "_selected_action": keys, "index": "0"}
    confirmed = hidden_fields(boss.post(EXECUTIONS, sent))
    assert peak(lambda: boss.post(EXECUTIONS, confirmed)) < 15_000_000


@pytest.mark.parametrize("name", ["retry", "correct"])
def test_i9_the_page_of_an_act_does_not_read_all_results(boss, celery_engine, name):
    row = ROWS.create(execution_id="x-1", workflow_id="trip", state="failed", error="boom",
                      handler_path="tests.testapp.flows.ask")  # fmt: skip
    WorkflowStep.objects.bulk_create(
        WorkflowStep(execution=row, name=f"s{n}", once=True, status="done", result="r" * 1_000_000)
        for n in range(40)
    )
    assert peak(lambda: boss.get(f"{EXECUTIONS}{row.pk}/act/{name}/")) < 15_000_000


def test_every_step_can_be_corrected_however_many_there_are(boss, celery_engine):
    row = ROWS.create(execution_id="x-1", workflow_id="trip", state="failed", error="boom",
                      handler_path="tests.testapp.flows.ask")  # fmt: skip
    WorkflowStep.objects.bulk_create(
        WorkflowStep(execution=row, name=f"s{n}", once=True, status="done", result=n)
        for n in range(MOST_MOMENTS + 5)
    )
    page = boss.get(f"{EXECUTIONS}{row.pk}/act/correct/")
    names = [name for name, _ in page.context["form"].fields["step"].choices]
    assert names == [f"s{n}" for n in range(MOST_MOMENTS + 5)]


def test_b4_what_was_pruned_meanwhile_is_skipped_by_a_bulk_act(boss, celery_engine, monkeypatch):
    definition = WorkflowDefinition("trip", handler=flows.ask)
    for _ in range(3):
        celery_engine.cancel(celery_engine.start(definition).execution_id)
    keys = list(ROWS.values_list("pk", flat=True))
    sent = {"action": "retry_selected", "_selected_action": keys, "index": "0"}
    page, real, begun = boss.post(EXECUTIONS, sent), committed_together, []

    @contextmanager
    def racing(obj):
        begun.append(obj)
        if len(begun) == 2:
            ROWS.filter(pk=obj.pk).delete()
        with real(obj):
            yield

    monkeypatch.setattr(confirming, "committed_together", racing)
    done, skipped = said(boss.post(EXECUTIONS, hidden_fields(page), follow=True))
    assert done == "2: Continued by a fresh execution."
    assert skipped.startswith("1 skipped:")


class Apart:
    """Ours are in a database of their own."""

    def db_for_read(self, model, **hints):
        return "archive" if model._meta.app_label == "general_manager" else None

    db_for_write = db_for_read


@pytest.mark.urls("tests.integration.admin.urls_panel")
def test_the_projects_own_page_is_shown_without_our_database(boss, celery_engine, be_away):  # noqa: F811
    invoice = Invoice.objects.create(number="I-1")
    with override_settings(DATABASE_ROUTERS=[Apart()]):
        be_away("archive")
        page = boss.get(f"/admin/testapp/invoice/{invoice.pk}/change/")
    assert page.status_code == 200
    assert "their database does not answer" in page.content.decode()


def test_what_a_dry_run_counts_is_what_is_requeued(outbox, workers):
    for name in ("one", "two"):
        outbox.register("bad", handler=fail, registration_id=name)
    for number in range(3):
        outbox.publish(WorkflowEvent(f"b{number}", "a.b", {}, event_name="bad"))
    workers.deliver()
    held = WorkflowOutbox.objects.filter(pk=WorkflowOutbox.objects.earliest("pk").pk)
    held.update(status="claimed", claimed_by="w", claimed_at=timezone.now())

    def last_line(**options):
        out = io.StringIO()
        call_command("workflow_requeue_dead_letters", stdout=out, **options)
        return out.getvalue().strip().splitlines()[-1]

    assert last_line(dry_run=True) == "4 dead letters would be requeued."
    assert last_line(dry_run=True, limit=2) == "2 dead letters would be requeued."
    assert last_line(limit=2) == "2 dead letters requeued."


def test_i4_an_empty_to_field_breaks_no_page(boss, outbox):
    row = ROWS.create(execution_id="x-1", workflow_id="trip", state="failed")
    assert boss.get(f"{EXECUTIONS}{row.pk}/change/?_to_field=").status_code == 200


def test_health_answers_a_user_of_a_model_without_is_staff():
    class Customer:
        is_authenticated, is_active, pk = True, True, 1

    request = RequestFactory().get("/")
    vars(request)["user"] = Customer()
    assert health_view(request).status_code in (200, 503)


def test_i4_a_number_that_python_cannot_read_does_not_take_the_overview(boss, celery_engine):
    ROWS.create(execution_id="x-1", workflow_id="trip", state="failed", ended_at=timezone.now())
    cast = "::jsonb" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE general_manager_workflowexecutionrecord SET attributes = %s{cast}",
            ['{"n": ' + "9" * 5000 + "}"],
        )
    assert boss.get("/admin/general_manager/overview/").status_code == 200
