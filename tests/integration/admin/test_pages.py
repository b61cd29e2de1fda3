"""The operator's pages, asked as a browser would ask, by people with and without permissions."""

import csv
import re
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import override_settings
from django.urls import reverse
from django.utils import timezone

from general_manager.workflow import Retry, WorkflowDefinition, WorkflowEvent
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowOutbox,
)
from tests.integration.conftest import confirm, data_statements, hidden_fields
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

LISTS = ("overview", "workflowexecutionrecord", "workfloweventrecord", "deadletter",
         "workflowoutbox")  # fmt: skip
NASTY = {
    "script": "<script>alert('x')</script>",
    "turned": "\u202eright to left",
    "face": "🙂" * 50,
    "password": "hunter2",
    "deep": None,
}


def nested(depth):
    value: object = "bottom"
    for _ in range(depth):
        value = {"d": value}
    return value


def page_of(name, kind="changelist", *arguments):
    return reverse(f"admin:general_manager_{name}_{kind}", args=arguments)


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()


def user_with(client, *codenames, **values):
    user = get_user_model().objects.create_user("ada", is_staff=True, **values)
    found = Permission.objects.filter(codename__in=codenames)
    assert found.count() == len(set(codenames))
    user.user_permissions.set(found)
    client.force_login(user)
    return client


VIEW = ("view_workflowexecutionrecord", "view_workfloweventrecord", "view_workflowdeliveryattempt",
        "view_workflowoutbox")  # fmt: skip


@pytest.fixture
def boss(client):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    return client


@pytest.fixture
def viewer(client):
    return user_with(client, *VIEW)


def text_of(response):
    assert response.status_code == 200, response
    return response.content.decode()


def define(handler, **arguments):
    return WorkflowDefinition("trip", handler=handler, **arguments)


@pytest.fixture
def story(outbox, celery_engine, workers):
    """One event with a manager's change, one delivered, one dead, one execution that waits."""
    outbox.register("paid", handler=start_asking, registration_id="ask")
    outbox.register("paid", handler=break_down, registration_id="broken")
    payload = {
        "manager": "Project",
        "identification": {"id": 42},
        "changes": {"status": {"old": "draft", "new": "active"}},
        **NASTY,
    }
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}
    ):
        outbox.publish(WorkflowEvent("evt-1", "shop.paid", payload, event_name="paid"))
        workers.deliver()
        workers.run()
    return WorkflowExecutionRecord.objects.get()


def start_asking(event):
    from general_manager.workflow import get_workflow_engine

    get_workflow_engine().start(define(flows.ask), event.payload, correlation_id=event.event_id)


def break_down(event):
    raise ValueError("<b>no</b> mail server")


def detail(record):
    return page_of("workflowexecutionrecord", "change", record.pk)


def act(record, name):
    return reverse("admin:general_manager_execution_act", args=[record.pk, name])


@pytest.mark.parametrize("name", LISTS)
def test_o2_anonymous_people_see_nothing(client, story, name):
    assert client.get(page_of(name)).status_code == 302
    assert "/login/" in client.get(page_of(name)).url


@pytest.mark.parametrize("name", LISTS)
def test_o2_staff_without_permission_see_nothing(client, story, name):
    assert user_with(client).get(page_of(name)).status_code == 403


def test_o2_staff_without_permission_find_no_link_in_the_index(client):
    assert "general_manager" not in text_of(user_with(client).get(reverse("admin:index")))


@pytest.mark.parametrize("name", LISTS)
def test_the_lists_show_themselves_to_those_who_may_view(viewer, story, name):
    text = text_of(viewer.get(page_of(name)))
    assert "<script>alert" not in text


def test_o2_those_who_may_only_view_see_no_buttons_and_cannot_act(viewer, story):
    text = text_of(viewer.get(detail(story)))
    assert "gm-button" not in text
    for name in ("answer", "cancel", "wake", "retry", "resolve"):
        assert viewer.get(act(story, name)).status_code == 403
        assert viewer.post(act(story, name), {"confirmed": "yes"}).status_code == 403
    event = WorkflowEventRecord.objects.get()
    again = reverse("admin:general_manager_event_deliver_again", args=[event.pk])
    assert viewer.post(again, {"to": ["ask"]}).status_code == 403
    letter = WorkflowDeliveryAttempt.objects.get(status="dead_letter")
    for name in ("requeue", "discard"):
        url = reverse("admin:general_manager_delivery_act", args=[letter.pk, name])
        assert viewer.post(url, {"reason": "x"}).status_code == 403
    assert viewer.post(reverse("admin:general_manager_outbox_drain")).status_code == 403
    assert WorkflowExecutionRecord.objects.get().state == "waiting"
    assert not LogEntry.objects.exists()


def test_o2_nothing_is_edited_by_hand(boss, story):
    assert boss.get(page_of("workflowexecutionrecord", "add")).status_code == 403
    assert boss.post(detail(story), {"state": "completed"}).status_code == 403
    delete = page_of("workflowexecutionrecord", "delete", story.pk)
    assert boss.post(delete, {"post": "yes"}).status_code == 403
    assert WorkflowExecutionRecord.objects.get().state == "waiting"


def test_o1_one_event_is_followed_from_page_to_page(boss, story):
    text = text_of(boss.get(detail(story)))
    for words in ("Event published", "Delivered to", "Dead letter of", "Execution created",
                  "Waiting for", "broken", "draft"):  # fmt: skip
        if words != "draft":
            assert words in text
    event_url = reverse("admin:general_manager_event_by_id", args=["evt-1"])
    assert event_url in text
    event_page = text_of(boss.get(event_url, follow=True))
    assert detail(story) in event_page
    for words in ("draft", "active", "Project 42", "no&lt;/b&gt; mail server"):
        assert words in event_page
    letters = text_of(boss.get(page_of("deadletter")))
    letter = WorkflowDeliveryAttempt.objects.get(status="dead_letter")
    assert page_of("deadletter", "change", letter.pk) in letters
    assert "Traceback" in text_of(boss.get(page_of("deadletter", "change", letter.pk)))


def test_o2_what_is_hostile_is_shown_as_text_and_secrets_are_redacted(boss, story):
    for url in (detail(story), reverse("admin:general_manager_event_by_id", args=["evt-1"])):
        text = text_of(boss.get(url, follow=True))
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text
        assert "hunter2" not in text
        assert "••••••" in text
        assert "🙂🙂" in text


def test_what_is_deep_or_huge_neither_breaks_nor_floods_the_page(boss, celery_engine):
    big = {"deep": nested(25), "long": "x" * 5_000_000}
    execution = celery_engine.start(define(flows.echo), {"n": 1})
    WorkflowExecutionRecord.objects.update(input_data=big)
    record = WorkflowExecutionRecord.objects.get(execution_id=execution.execution_id)
    response = boss.get(detail(record))
    assert len(response.content) < 1_000_000
    assert "characters in all" in text_of(response)
    assert boss.get(page_of("workflowexecutionrecord")).status_code == 200


def test_a_wait_is_answered_with_a_form(client, story, workers, celery_engine):
    user_with(client, *VIEW, "resume_execution")
    assert "Answer…" in text_of(client.get(detail(story)))
    question = text_of(client.get(act(story, "answer")))
    assert "approval" in question
    wrong = text_of(client.post(act(story, "answer"), {"answer": "{no", "confirmed": "yes"}))
    assert "This is not JSON" in wrong
    assert WorkflowExecutionRecord.objects.get().state == "waiting"
    told = confirm(client, act(story, "answer"), answer='{"approved": true}', follow=True)
    assert "Answered." in text_of(told)
    workers.run()
    done = celery_engine.status(story.execution_id)
    assert done.output_data == {"answer": {"approved": True}}
    assert WorkflowHistory.objects.get(kind="resumed").by == "ada"
    assert "Answered." in LogEntry.objects.get().get_change_message()


@pytest.mark.parametrize("value", ["NaN", "Infinity", "[" * 100_000])
def test_an_answer_that_json_does_not_know_is_refused(boss, story, value):
    response = boss.post(act(story, "answer"), {"answer": value, "confirmed": "yes"})
    assert "This is not JSON" in text_of(response)


def test_a_lost_race_is_reported_in_words(boss, story, celery_engine):
    sent = hidden_fields(boss.get(act(story, "cancel")))
    celery_engine.cancel(story.execution_id)
    told = text_of(boss.post(act(story, "cancel"), sent, follow=True))
    assert "Nothing was done. It was waiting for “approval” when you were asked" in told
    assert "is cancelled now" in told
    assert not LogEntry.objects.exists()


def test_an_execution_is_cancelled_with_a_reason(boss, story, celery_engine):
    assert "Cancel execution</button>" in text_of(boss.get(act(story, "cancel")))
    assert WorkflowExecutionRecord.objects.get().state == "waiting"
    confirm(boss, act(story, "cancel"), reason="too dear")
    cancelled = celery_engine.status(story.execution_id)
    assert (cancelled.state, cancelled.metadata["cancel_reason"]) == ("cancelled", "too dear")
    note = WorkflowHistory.objects.get(kind="cancelled")
    assert (note.by, note.detail) == ("boss", "too dear")


def test_a_failed_execution_is_continued_and_its_successor_shown(boss, celery_engine, workers):
    flows.troubles.append(ValueError("boom"))
    failed = celery_engine.start(define(flows.two_steps))
    workers.run()
    record = WorkflowExecutionRecord.objects.get(execution_id=failed.execution_id)
    text = text_of(confirm(boss, act(record, "retry"), follow=True))
    assert "Continues execution" in text
    assert failed.execution_id in text
    assert WorkflowExecutionRecord.objects.count() == 2


def test_a_step_in_doubt_is_resolved_with_a_form(boss, celery_engine, workers):
    flows.troubles.append(ValueError("line lost"))
    doubtful = celery_engine.start(define(flows.charge_then_note, retry=Retry(max_attempts=2)))
    workers.run()
    workers.let_rest_pass()
    workers.run()
    record = WorkflowExecutionRecord.objects.get(execution_id=doubtful.execution_id)
    assert record.state == "failed"
    assert "Resolve step in doubt" in text_of(boss.get(detail(record)))
    values = {"step": "charge", "happened": "yes", "result": '"receipt"'}
    confirm(boss, act(record, "resolve"), **values)
    workers.run()
    fresh = WorkflowExecutionRecord.objects.latest("pk")
    assert fresh.output_data == {"charged": "receipt"}


def test_only_what_is_possible_now_is_offered(boss, story, celery_engine):
    text = text_of(boss.get(detail(story)))
    assert ("Answer…" in text, "Cancel execution…" in text) == (True, True)
    assert ("Retry from checkpoint…" in text, "Wake now…" in text) == (False, False)
    celery_engine.cancel(story.execution_id)
    text = text_of(boss.get(detail(story)))
    assert re.findall(r'class="gm-button[^>]*>([^<]*)<', text) == ["Retry from checkpoint…"]


def test_selected_executions_are_counted_before_they_are_cancelled(boss, celery_engine, workers):
    for _ in range(2):
        celery_engine.start(define(flows.ask))
    celery_engine.start(define(flows.echo))
    workers.run()
    keys = list(WorkflowExecutionRecord.objects.values_list("pk", flat=True))
    sent = {"action": "cancel_selected", "_selected_action": keys}
    page = boss.post(page_of("workflowexecutionrecord"), sent)
    asked = text_of(page)
    assert "2 of 3 can be" in asked
    assert "It has ended." in asked
    assert WorkflowExecutionRecord.objects.filter(state="waiting").count() == 2
    sent = {**hidden_fields(page), "reason": "closing"}
    told = text_of(boss.post(page_of("workflowexecutionrecord"), sent, follow=True))
    assert "2: Cancelled." in told
    assert WorkflowExecutionRecord.objects.filter(state="cancelled").count() == 2
    assert LogEntry.objects.count() == 2


def test_o2_bulk_actions_are_offered_to_those_who_may(viewer, story):
    sent = {"action": "cancel_selected", "_selected_action": [story.pk], "confirmed": "yes"}
    text = text_of(viewer.get(page_of("workflowexecutionrecord")))
    assert "cancel_selected" not in text
    viewer.post(page_of("workflowexecutionrecord"), sent)
    assert WorkflowExecutionRecord.objects.get().state == "waiting"


def test_the_overview_is_shown_in_a_project_without_time_zones(settings, boss):
    settings.USE_TZ = False
    settings.GENERAL_MANAGER = {"WORKFLOW_MODE": "local"}
    assert boss.get("/admin/general_manager/overview/").status_code == 200


def test_a_dead_letter_is_requeued(client, story, workers, monkeypatch):
    user_with(client, *VIEW, "requeue_delivery")
    letter = WorkflowDeliveryAttempt.objects.get(status="dead_letter")
    url = reverse("admin:general_manager_delivery_act", args=[letter.pk, "requeue"])
    assert "fresh retry budget" in text_of(client.get(url))
    confirm(client, url)
    assert WorkflowOutbox.objects.get().status == "pending"
    assert WorkflowHistory.objects.get(kind="requeued").by == "ada"
    workers.deliver()
    assert WorkflowExecutionRecord.objects.count() == 1
    assert client.post(url, {"confirmed": "yes"}).status_code in (302, 404)


def test_a_dead_letter_is_discarded_with_a_reason(boss, story):
    letter = WorkflowDeliveryAttempt.objects.get(status="dead_letter")
    url = reverse("admin:general_manager_delivery_act", args=[letter.pk, "discard"])
    assert "required" in text_of(boss.post(url, {"confirmed": "yes"}))
    confirm(boss, url, reason="test data")
    letter.refresh_from_db()
    assert letter.status == "discarded"
    assert WorkflowOutbox.objects.get().status == "processed"
    assert WorkflowHistory.objects.get(kind="discarded").detail == "test data"


def test_an_event_is_delivered_again_to_those_who_are_chosen(boss, story, outbox, workers):
    heard = []
    outbox.register("paid", handler=lambda event: heard.append("new"), registration_id="new")
    outbox.register("paid", handler=lambda event: heard.append("other"), registration_id="other")
    event = WorkflowEventRecord.objects.get()
    url = reverse("admin:general_manager_event_deliver_again", args=[event.pk])
    text = text_of(boss.get(url))
    assert "4 handlers match this event" in text
    assert re.search(r'value="broken"[^>]*checked', text)
    assert not re.search(r'value="ask"[^>]*checked', text)
    confirm(boss, url, to=["new"])
    workers.deliver()
    assert heard == ["new"]
    assert WorkflowExecutionRecord.objects.count() == 1


def test_an_event_that_a_worker_has_is_not_delivered_again(boss, story):
    WorkflowOutbox.objects.update(status="claimed", claim_token="t")
    event = WorkflowEventRecord.objects.get()
    url = reverse("admin:general_manager_event_deliver_again", args=[event.pk])
    told = confirm(boss, url, to=["ask"], follow=True)
    assert "right now" in text_of(told)
    assert WorkflowDeliveryAttempt.objects.get(registration_id="ask").status == "completed"


def test_undelivered_events_are_delivered_now(boss, outbox, workers):
    outbox.register("paid", handler=lambda event: flows.note("heard"), registration_id="x")
    outbox.publish(WorkflowEvent("e", "shop.paid", {}, event_name="paid"))
    assert "paid" in text_of(boss.get(page_of("workflowoutbox")))
    told = boss.post(reverse("admin:general_manager_outbox_drain"), follow=True)
    assert "1 event was processed" in text_of(told)
    assert flows.calls == ["heard"]
    assert "This is normal" in text_of(boss.get(page_of("workflowoutbox")))


def test_a_claim_is_released(boss, outbox):
    outbox.publish(WorkflowEvent("e", "shop.paid", {}, event_name="paid"))
    WorkflowOutbox.objects.update(
        status="claimed", claim_token="t", available_at="2100-01-01T00:00Z"
    )
    key = WorkflowOutbox.objects.get().pk
    sent = {"action": "release_selected", "_selected_action": [key]}
    page = boss.post(page_of("workflowoutbox"), sent)
    boss.post(page_of("workflowoutbox"), hidden_fields(page))
    assert WorkflowOutbox.objects.get().status == "pending"


@pytest.mark.parametrize("term", ["evt-1", "evt"])
def test_executions_are_found_by_how_their_correlation_id_begins(boss, story, term):
    assert story.execution_id in text_of(
        boss.get(page_of("workflowexecutionrecord") + f"?q={term}")
    )


def test_executions_are_found_by_their_whole_id(boss, story):
    url = page_of("workflowexecutionrecord")
    assert detail(story) in text_of(boss.get(f"{url}?q={story.execution_id}"))
    other = story.execution_id[:-1] + ("1" if story.execution_id[-1] == "0" else "0")
    assert detail(story) not in text_of(boss.get(f"{url}?q={other}"))


@pytest.mark.parametrize(
    ("query", "is_there"),
    [
        ("state=waiting", True), ("state=failed", False), ("workflow=trip", True),
        ("workflow=other", False), ("started=hour", True), ("ended=day", False),
        ("overdue=yes", False), ("state=nonsense", False), ("started=nonsense", True),
    ],
)  # fmt: skip
def test_executions_are_filtered(boss, story, query, is_there):
    response = boss.get(f"{page_of('workflowexecutionrecord')}?{query}")
    if response.status_code == 302:
        pytest.fail(f"{query} is no filter: {response.url}")
    assert (detail(story) in text_of(response)) == is_there


def test_the_overview_counts_links_and_warns(boss, story):
    text = text_of(boss.get(page_of("overview")))
    assert "state=waiting" in text
    assert "1 dead letter." in text
    assert "Beat has never ticked." in text
    assert "trip" in text
    assert "approval" in text
    assert "<svg" in text
    assert 'http-equiv="refresh"' not in text
    assert 'http-equiv="refresh" content="30"' in text_of(
        boss.get(page_of("overview") + "?refresh=30")
    )


def test_an_empty_overview_says_how_to_begin(celery_engine, boss):
    assert "get_event_registry().publish(event)" in text_of(boss.get(page_of("overview")))


@pytest.mark.parametrize("name", LISTS)
def test_a_list_costs_the_same_number_of_statements_however_much_there_is(
    boss, celery_engine, outbox, workers, name
):
    def fill(count):
        for number in range(count):
            outbox.publish(
                WorkflowEvent(f"e{name}{number}{count}", "shop.paid", {}, event_name="paid")
            )
        workers.deliver()
        workers.run()

    outbox.register("paid", handler=start_asking, registration_id="ask")
    fill(2)
    boss.get(page_of(name))
    with data_statements() as few:
        boss.get(page_of(name))
    fill(20)
    with data_statements() as many:
        boss.get(page_of(name))
    assert len(many) == len(few) <= 20


def test_one_execution_costs_a_fixed_number_of_statements(boss, story):
    boss.get(detail(story))
    with data_statements() as statements:
        boss.get(detail(story))
    # Two of them for the events that answered its waits: the waits, and what they took.
    assert len(statements) <= 17, statements


def test_what_is_exported_respects_filters_and_is_no_formula(boss, story):
    WorkflowExecutionRecord.objects.update(correlation_id="=1+1")
    sent = {"action": "export_as_csv", "select_across": "1", "_selected_action": [story.pk]}
    response = boss.post(page_of("workflowexecutionrecord"), sent)
    text = b"".join(response.streaming_content).decode()
    head, row = csv.reader(StringIO(text))
    told = dict(zip(head, row, strict=True))
    assert told["correlation_id"] == "'=1+1"
    assert told["state"] == "waiting"
    assert "hunter2" not in text


def test_unknown_ids_are_not_found(boss):
    for name in ("execution", "event"):
        url = reverse(f"admin:general_manager_{name}_by_id", args=["nothing"])
        assert boss.get(url).status_code == 404


def test_a7_in_local_mode_the_overview_shows_what_this_process_remembers(engine, boss):
    engine.start(WorkflowDefinition("greet", handler=lambda data: None))
    engine.start(WorkflowDefinition("<b>report</b>", handler=lambda data: {"n": 1 / 0}))
    page = text_of(boss.get(page_of("overview")))
    assert "WORKFLOW_ASYNC = False" in page
    assert "Nothing has happened yet" not in page
    assert page.index("&lt;b&gt;report") < page.index("greet")
    assert "division by zero" in page


def test_a7_where_executions_are_stored_the_overview_lists_none_from_memory(celery_engine, boss):
    assert "Local mode" not in text_of(boss.get(page_of("overview")))


def test_the_list_says_when_an_execution_for_later_starts(boss, celery_engine):
    at = timezone.now() + timedelta(hours=3)
    celery_engine.start(WorkflowDefinition("w", handler=flows.echo), at=at)
    text = text_of(boss.get(page_of("workflowexecutionrecord")))
    assert re.search(r"starts in (2 h 59 min|3 h)", text), text


def test_the_last_attempt_counts_too(boss, celery_engine, workers):
    twice = Retry(max_attempts=2, base=0)
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.fail, retry=twice))
    workers.run()
    workers.let_rest_pass()
    workers.run()
    record = WorkflowExecutionRecord.objects.get(execution_id=execution.execution_id)
    assert record.state == "failed"
    assert "failed attempts since the last step: 2" in text_of(boss.get(detail(record)))
