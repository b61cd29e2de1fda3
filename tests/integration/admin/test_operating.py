"""Operators cannot wreck what they repair: what the pages ask, refuse, show and find."""

import json
import re
from datetime import timedelta
from io import StringIO
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.urls import reverse
from django.utils import timezone

from general_manager.workflow import (
    Retry,
    WorkflowDefinition,
    WorkflowEvent,
    get_workflow_engine,
    manager_created_event,
    manager_updated_event,
)
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowStep,
)
from general_manager.workflow.operations.timeline import timeline_of_execution
from tests.integration.admin.test_taking_back import approve, early, escalates, pays_twice
from tests.integration.conftest import confirm, hidden_fields
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

VIEW = ("view_workflowexecutionrecord", "view_workfloweventrecord", "view_workflowdeliveryattempt",
        "view_workflowoutbox")  # fmt: skip
EXECUTIONS = reverse("admin:general_manager_workflowexecutionrecord_changelist")
EVENTS = reverse("admin:general_manager_workfloweventrecord_changelist")
LETTERS = reverse("admin:general_manager_deadletter_changelist")


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()
    yield
    flows.troubles.clear()


@pytest.fixture
def boss(client):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    return client


def user_with(client, *codenames):
    user = get_user_model().objects.create_user("ada", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=(*VIEW, *codenames)))
    client.force_login(user)
    return client


@pytest.fixture
def begin(celery_engine, workers):
    """Start an execution, run it as far as it goes, and return its row."""

    def start(handler, *troubles, **arguments):
        flows.troubles[:] = troubles
        retry = arguments.pop("retry", None)
        definition = WorkflowDefinition("trip", handler=handler, retry=retry)
        execution = celery_engine.start(definition, **arguments)
        workers.run()
        return WorkflowExecutionRecord.objects.get(execution_id=execution.execution_id)

    return start


def text_of(response):
    assert response.status_code == 200, response
    return response.content.decode()


def detail(record):
    return reverse("admin:general_manager_workflowexecutionrecord_change", args=[record.pk])


def act(record, name, query=""):
    return reverse("admin:general_manager_execution_act", args=[record.pk, name]) + query


def buttons(text):
    return re.findall(r'class="gm-button[^>]*>\s*([^<]*)<', text)


def state(record):
    record.refresh_from_db()
    return record.state


# What is easily said by mistake


def test_b1_an_empty_answer_needs_a_box_ticked(boss, begin):
    asked = begin(flows.ask)
    page = text_of(confirm(boss, act(asked, "answer"), answer="  "))
    assert "tick the box below for null" in page
    assert state(asked) == "waiting"
    confirm(boss, act(asked, "answer"), answer="", null="on")
    assert WorkflowStep.objects.get(name="approval").status == "done"


@pytest.mark.parametrize("sent", [{"answer": "null"}, {"answer": "null", "null": "on"}])
def test_b1_null_may_be_typed_as_well(boss, begin, sent):
    asked = begin(flows.ask)
    confirm(boss, act(asked, "answer"), **sent)
    assert WorkflowStep.objects.get(name="approval").result is None
    assert WorkflowStep.objects.get(name="approval").status == "done"


def test_b1_an_answer_beside_a_ticked_box_is_refused(boss, begin):
    asked = begin(flows.ask)
    page = text_of(confirm(boss, act(asked, "answer"), answer="false", null="on"))
    assert "A value is given above" in page
    assert state(asked) == "waiting"


def test_b2_an_empty_result_needs_a_box_ticked(boss, begin):
    doubtful = begin(flows.charge_then_note, ValueError("line lost"))
    sent = {"step": "charge", "happened": "yes", "result": ""}
    assert "tick the box below for null" in text_of(confirm(boss, act(doubtful, "resolve"), **sent))
    assert WorkflowExecutionRecord.objects.count() == 1
    confirm(boss, act(doubtful, "resolve"), **sent, null="on")
    assert WorkflowExecutionRecord.objects.count() == 2


def test_b2_what_did_not_happen_has_no_result(boss, begin):
    doubtful = begin(flows.charge_then_note, ValueError("line lost"))
    sent = {"step": "charge", "happened": "no", "result": '"receipt"'}
    page = text_of(confirm(boss, act(doubtful, "resolve"), **sent))
    assert "Leave the result empty" in page
    assert WorkflowExecutionRecord.objects.count() == 1


def test_b3_a_step_that_raised_is_offered_to_be_resolved_and_not_retried(boss, begin):
    doubtful = begin(flows.charge_then_note, ValueError("line lost"))
    assert doubtful.error == "line lost"
    assert buttons(text_of(boss.get(detail(doubtful)))) == ["Resolve step in doubt…"]
    page = text_of(boss.get(act(doubtful, "retry")))
    assert "started and did not finish" in page
    assert buttons(page) == ["Back"]


def test_b3_words_in_an_error_put_no_step_in_doubt(boss, begin):
    failed = begin(flows.two_steps, ValueError("it is not marked once=True, may have happened"))
    assert buttons(text_of(boss.get(detail(failed)))) == ["Retry from checkpoint…"]


# What was confirmed is what is done, or nothing


def prepared(begin, name):
    """An execution to which the act can be done."""
    if name in ("answer", "time_out", "cancel"):
        return begin(flows.ask_twice)
    if name == "wake":
        return begin(flows.nap)
    if name == "resolve":
        return begin(flows.charge_then_note, ValueError("line lost"))
    if name == "correct":
        return begin(pays_and_fails, RuntimeError("boom"))
    return begin(flows.two_steps, ValueError("boom"))


def pays_and_fails(input_data):
    from general_manager.workflow import step

    step("pay", flows.note, "pay", once=True, atomic=False)
    flows.stumble()


VALUES = {
    "answer": {"answer": "1"},
    "resolve": {"step": "charge", "happened": "yes", "result": "1"},
    "correct": {"step": "pay", "happened": "yes", "result": "1"},
}
NAMES = ["answer", "time_out", "cancel", "wake", "retry", "resolve", "correct"]


def everything():
    return [
        list(WorkflowExecutionRecord.objects.order_by("pk").values("pk", "state", "waiting_for")),
        list(WorkflowStep.objects.order_by("pk").values("pk", "status")),
        list(WorkflowHistory.objects.order_by("pk").values("pk")),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_i2_each_act_is_done_when_it_is_confirmed(boss, begin, name):
    record = prepared(begin, name)
    before = everything()
    answer = confirm(boss, act(record, name), **VALUES.get(name, {}))
    assert answer.status_code == 302
    assert everything() != before
    assert LogEntry.objects.count() == 1


@pytest.mark.parametrize("name", NAMES)
def test_i2_a_form_that_does_not_say_what_was_seen_does_nothing(boss, begin, name):
    record = prepared(begin, name)
    before = everything()
    sent = {"confirmed": "yes", **VALUES.get(name, {})}
    for seen in ({}, {"seen": "forged"}):
        told = text_of(boss.post(act(record, name), {**sent, **seen}, follow=True))
        assert "Nothing was done." in told
    assert everything() == before
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("name", ["answer", "time_out", "cancel"])
def test_i2_what_was_confirmed_for_one_question_is_not_done_to_the_next(boss, begin, workers, name):
    asked = begin(flows.ask_twice)
    sent = {**hidden_fields(boss.get(act(asked, name))), **VALUES.get(name, {})}
    get_workflow_engine().resume(asked.execution_id, "from a mail", wait="first")
    workers.run()
    before = everything()
    told = text_of(boss.post(act(asked, name), sent, follow=True))
    assert "It was waiting for “first” when you were asked" in told
    assert "waiting for “second” now" in told
    assert everything() == before


@pytest.mark.parametrize("name", ["wake", "cancel"])
def test_i2_a_later_attempt_is_not_the_one_that_was_seen(boss, begin, workers, name):
    record = begin(
        flows.two_steps, ValueError("1"), ValueError("2"), retry=Retry(max_attempts=9, base=3600)
    )
    sent = hidden_fields(boss.get(act(record, name)))
    workers.let_rest_pass()
    workers.run()
    before = everything()
    assert "Nothing was done." in text_of(boss.post(act(record, name), sent, follow=True))
    assert everything() == before


def test_i2_a_link_of_a_page_that_is_out_of_date_says_so(boss, begin, workers):
    asked = begin(flows.ask_twice)
    page = text_of(boss.get(detail(asked)))
    [link] = re.findall(r'href="([^"]*/act/answer/[^"]*)"', page)
    link = link.replace("&amp;", "&")
    assert 'name="answer"' in text_of(boss.get(link))
    get_workflow_engine().resume(asked.execution_id, "from a mail")
    workers.run()
    page = text_of(boss.get(link))
    assert "“first” has been answered: &quot;from a mail&quot; (" in page
    assert 'name="answer"' not in page
    assert buttons(page) == ["Back"]


def test_i2_a_retry_goes_back_to_where_it_was_confirmed(boss, begin, workers):
    asked = begin(early)
    get_workflow_engine().resume(asked.execution_id, True)
    workers.run()
    url = act(asked, "retry", "?before=approval")
    sent = hidden_fields(boss.get(url))
    # The form is posted to another address than it was shown at.
    boss.post(act(asked, "retry"), sent)
    workers.run()
    fresh = WorkflowExecutionRecord.objects.latest("pk")
    assert (fresh.state, fresh.waiting_for) == ("waiting", "approval")


def test_i2_a_link_of_a_page_says_what_has_become_of_its_execution(boss, begin):
    asked = begin(flows.ask_twice)
    [link] = re.findall(r'href="([^"]*/act/cancel/[^"]*)"', text_of(boss.get(detail(asked))))
    get_workflow_engine().cancel(asked.execution_id)
    page = text_of(boss.get(link))
    assert "It was waiting for “first” on the previous page" in page
    assert "is cancelled now" in page
    assert buttons(page) == ["Back"]


def test_an_answer_is_acted_on_in_this_process_where_there_are_no_workers(boss, celery_engine):
    once = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    with override_settings(GENERAL_MANAGER=once):
        execution = celery_engine.start(WorkflowDefinition("trip", handler=flows.ask_twice))
        asked = WorkflowExecutionRecord.objects.get(execution_id=execution.execution_id)
        for name in ("first", "second"):
            assert state(asked) == "waiting"
            assert asked.waiting_for == name
            confirm(boss, act(asked, "answer"), answer="1")
        assert state(asked) == "completed"


def test_i2_a_form_that_is_shown_again_is_still_about_what_was_seen(boss, begin, workers):
    asked = begin(flows.ask_twice)
    sent = {**hidden_fields(boss.get(act(asked, "answer"))), "answer": "{no"}
    get_workflow_engine().resume(asked.execution_id, "from a mail")
    workers.run()
    page = text_of(boss.post(act(asked, "answer"), sent))
    assert "“first” has been answered" in page
    assert buttons(page) == ["Back"]


@pytest.mark.parametrize("seen", ["x", 5, {}, [], ["asks"], [["asks"]], [[]], None])
def test_i2_what_else_was_signed_is_not_what_was_seen(boss, begin, seen):
    from general_manager.workflow.admin.acts.seen import sign

    asked = begin(flows.ask_twice)
    before = everything()
    for name in ("answer", "cancel", "retry"):
        url = act(asked, name)
        boss.post(url, {"seen": sign(seen), "confirmed": "yes", **VALUES.get(name, {})})
        assert boss.get(url, {"seen": sign(seen)}).status_code == 200
    assert everything() == before


# Going back


def failed_late(begin, workers):
    record = begin(approve)
    get_workflow_engine().resume(record.execution_id, True)
    workers.run()
    WorkflowStep.objects.filter(until__isnull=False).update(until=timezone.now())
    workers.let_rest_pass()
    workers.run()
    assert state(record) == "failed"
    return record


def test_b1_the_page_shows_what_is_kept_and_what_happens_again(boss, begin, workers):
    record = failed_late(begin, workers)
    page = text_of(boss.get(act(record, "retry", "?before=approval")))
    rows = re.findall(r"<tr[^>]*><th scope=\"row\"><bdi>([^<]*)</bdi></th><td><bdi>([^<]*)</bdi>"
                      r"</td><td>([^<]*)</td>", page)  # fmt: skip
    assert rows == [
        ("prepare", "&quot;prepare&quot;", "kept"),
        ("approval", "true", "asked again"),
        ("approval: ask", "&quot;ask&quot;", "asked again"),
        ("pay", "&quot;pay&quot;", "runs again, although once=True"),
        ("a day", "", "runs again"),
        ("mail", "&quot;mail&quot;", "runs again"),
    ]
    assert page.count("Retry from before this") == 5
    everything_kept = text_of(boss.get(act(record, "retry")))
    assert "asked again" not in everything_kept
    assert everything_kept.count("Retry from before this") == 6


def test_b1_what_happens_once_happens_again_only_with_a_box_ticked(boss, begin, workers):
    record = failed_late(begin, workers)
    url = act(record, "retry", "?before=approval")
    assert "This field is required" in text_of(confirm(boss, url))
    assert WorkflowExecutionRecord.objects.count() == 1
    confirm(boss, url, repeat_once="on")
    assert WorkflowExecutionRecord.objects.count() == 2
    forgotten = WorkflowHistory.objects.get(kind="forgotten")
    assert forgotten.by == "boss"
    assert "pay" in forgotten.detail


def test_b1_who_may_not_resolve_may_not_repeat_what_happens_once(client, begin, workers):
    record = failed_late(begin, workers)
    user_with(client, "retry_execution")
    url = act(record, "retry", "?before=approval")
    page = client.get(url)
    assert "needs the permission to resolve" in text_of(page)
    sent = {**hidden_fields(page), "repeat_once": "on"}
    assert client.post(url, sent).status_code == 403
    assert WorkflowExecutionRecord.objects.count() == 1
    confirm(client, act(record, "retry", "?before=mail"))
    assert WorkflowExecutionRecord.objects.count() == 2


def test_b1_an_unknown_name_is_refused_in_words(boss, begin):
    failed = begin(flows.two_steps, ValueError("boom"))
    page = text_of(boss.get(act(failed, "retry", "?before=<b>nothing")))
    assert "&lt;b&gt;nothing" in page
    assert "is recorded" in page
    assert buttons(page) == ["Back"]


def test_o5_a_wrong_result_is_corrected_in_the_admin(boss, begin, workers):
    doubtful = begin(pays_twice, ValueError("line lost"))
    flows.troubles[:] = [RuntimeError("what receipt is that?")]
    confirm(boss, act(doubtful, "resolve"), step="first", happened="yes", null="on", result="")
    workers.run()
    wrong = WorkflowExecutionRecord.objects.latest("pk")
    assert wrong.state == "failed"
    sent = {"step": "first", "happened": "yes", "result": '"receipt"'}
    told = text_of(confirm(boss, act(wrong, "correct"), **sent, follow=True))
    assert "repeat_once=True" in told
    confirm(boss, act(wrong, "correct"), **sent, repeat_once="on")
    workers.run()
    right = WorkflowExecutionRecord.objects.latest("pk")
    assert right.output_data == {"first": "receipt", "second": "second"}


def test_b13_a_wait_is_timed_out_by_who_may(client, begin, workers):
    asked = begin(escalates)
    user_with(client, "resume_execution")
    assert client.get(act(asked, "time_out")).status_code == 403
    assert "Time out now…" not in text_of(client.get(detail(asked)))
    client.force_login(get_user_model().objects.create_superuser("boss"))
    page = text_of(client.get(act(asked, "time_out")))
    assert "approval" in page
    assert "has no time limit" not in page
    confirm(client, act(asked, "time_out"))
    workers.run()
    asked.refresh_from_db()
    assert asked.output_data == {"answer": None}
    entry = WorkflowHistory.objects.get(kind="wait_ended")
    assert (entry.by, entry.step) == ("boss", "approval")
    assert "Timed out manually:" in text_of(client.get(detail(asked)))


def test_b13_who_times_out_a_wait_without_a_limit_is_warned(boss, begin):
    asked = begin(flows.ask_twice)
    assert "has no time limit" in text_of(boss.get(act(asked, "time_out")))


# Many at once


def select(client, action, *records, url=EXECUTIONS, **more):
    keys = [record.pk for record in records]
    return client.post(url, {"action": action, "_selected_action": keys, **more})


def test_b4_each_row_that_is_skipped_has_its_own_reason(boss, begin, celery_engine, workers):
    failed = begin(flows.two_steps, ValueError("boom"))
    doubtful = begin(flows.charge_then_note, ValueError("line lost"))
    continued = begin(flows.two_steps, ValueError("boom"))
    celery_engine.retry_from_checkpoint(continued.execution_id)
    workers.run()
    replaced = begin(flows.two_steps, ValueError("boom"), correlation_id="key")
    holder = begin(flows.ask, correlation_id="key")
    waiting = begin(flows.ask)
    page = select(boss, "retry_selected", failed, doubtful, continued, replaced, holder, waiting)
    text = text_of(page)
    assert "1 of 6 can be retried." in text
    for record, reason in [
        (doubtful, "Step “charge” is in doubt"),
        (continued, "It was continued as execution"),
        (replaced, f"taken by execution {holder.execution_id}"),
        (holder, "It is waiting."),
        (waiting, "It is waiting."),
    ]:
        assert re.search(f"{record.execution_id}</th><td>[^<]*{reason}", text), reason
    count = WorkflowExecutionRecord.objects.count()
    told = text_of(boss.post(EXECUTIONS, hidden_fields(page), follow=True))
    assert "1: Continued by a fresh execution." in told
    assert "skipped:" not in told
    assert WorkflowExecutionRecord.objects.count() == count + 1


def test_b4_the_page_and_the_act_ask_the_same(boss, begin, celery_engine):
    """What the page counts can be done, one by one."""
    records = [begin(flows.two_steps, ValueError("boom")) for _ in range(3)]
    page = select(boss, "retry_selected", *records)
    assert "3 of 3 can be retried." in text_of(page)
    boss.post(EXECUTIONS, hidden_fields(page))
    assert WorkflowExecutionRecord.objects.count() == 6


def test_i2_rows_that_changed_meanwhile_are_named_and_left_alone(boss, begin, workers):
    first, second, third = begin(flows.ask_twice), begin(flows.ask_twice), begin(flows.ask_twice)
    page = select(boss, "cancel_selected", first, second, third)
    get_workflow_engine().resume(first.execution_id, "yes")
    workers.run()
    get_workflow_engine().cancel(second.execution_id)
    told = text_of(boss.post(EXECUTIONS, hidden_fields(page), follow=True))
    assert "1: Cancelled." in told
    assert "2 skipped:" in told
    assert f"{first.execution_id}: It was waiting for “first” when you were asked" in told
    assert f"{second.execution_id}: It was waiting for “first”" in told
    assert (state(first), state(third)) == ("waiting", "cancelled")


def test_i2_rows_are_those_that_were_confirmed_whatever_the_list_shows_by_then(boss, begin):
    records = [begin(flows.ask) for _ in range(2)]
    other = begin(flows.ask)
    filtered = f"{EXECUTIONS}?state=waiting"
    page = select(boss, "cancel_selected", *records, url=filtered)
    sent = {**hidden_fields(page), "_selected_action": [other.pk], "select_across": "1"}
    boss.post(filtered, sent)
    assert [state(one) for one in (*records, other)] == ["cancelled", "cancelled", "waiting"]


def test_i2_a_selection_that_was_not_confirmed_is_not_touched(boss, begin):
    asked = begin(flows.ask)
    others = hidden_fields(select(boss, "wake_selected", begin(flows.nap)))["confirmed"]
    one = hidden_fields(boss.get(act(asked, "cancel")))["seen"]
    for confirmed in ("yes", "", "forged:x", others, one):
        answer = select(boss, "cancel_selected", asked, confirmed=confirmed)
        assert answer.status_code == 302
    assert state(asked) == "waiting"


def test_many_rows_are_confirmed_in_one_field(boss, begin, settings):
    settings.DATA_UPLOAD_MAX_NUMBER_FIELDS = 60
    records = [begin(flows.ask) for _ in range(3)]
    values: Any = WorkflowExecutionRecord.objects.filter(pk=records[0].pk).values().get()
    del values["id"]
    WorkflowExecutionRecord.objects.bulk_create(
        WorkflowExecutionRecord(**{**values, "execution_id": f"x{number}"}) for number in range(90)
    )
    page = boss.post(
        EXECUTIONS,
        {"action": "cancel_selected", "_selected_action": [records[0].pk], "select_across": "1"},
    )
    assert "93 of 93 can be cancelled." in text_of(page)
    boss.post(EXECUTIONS, hidden_fields(page))
    assert WorkflowExecutionRecord.objects.filter(state="cancelled").count() == 93


# Dead letters and events


def break_down(event):
    raise ValueError("no mail server")


@pytest.fixture
def dead(outbox, workers):
    outbox.register("paid", handler=break_down, registration_id="broken", retries=1)
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}
    ):
        outbox.publish(WorkflowEvent("evt-1", "shop.paid", {}, event_name="paid"))
        workers.deliver()
    return WorkflowDeliveryAttempt.objects.get(status="dead_letter")


def letter_act(letter, name):
    return reverse("admin:general_manager_delivery_act", args=[letter.pk, name])


@pytest.mark.parametrize(("name", "values"), [("requeue", {}), ("discard", {"reason": "x"})])
def test_i2_a_letter_that_died_again_is_not_the_one_that_was_confirmed(boss, dead, name, values):
    sent = {**hidden_fields(boss.get(letter_act(dead, name))), **values}
    later = dead.finished_at + timedelta(seconds=1)
    WorkflowDeliveryAttempt.objects.filter(pk=dead.pk).update(finished_at=later)
    told = text_of(boss.post(letter_act(dead, name), sent, follow=True))
    assert "Nothing was done." in told
    assert WorkflowDeliveryAttempt.objects.get(pk=dead.pk).status == "dead_letter"
    told = text_of(boss.post(letter_act(dead, name), values | {"confirmed": "yes"}, follow=True))
    assert "does not contain the state" in told
    assert WorkflowDeliveryAttempt.objects.get(pk=dead.pk).status == "dead_letter"


def test_b4_a_letter_whose_event_a_worker_has_is_refused_with_that_reason(boss, dead):
    from general_manager.workflow.models import WorkflowOutbox

    WorkflowOutbox.objects.update(status="claimed", claim_token="t")
    assert "delivering its event right now" in text_of(boss.get(letter_act(dead, "requeue")))
    page = select(boss, "requeue_selected", dead, url=LETTERS)
    assert "0 of 1 can be requeued." in text_of(page)
    assert "delivering its event right now" in text_of(page)


def test_i2_letters_in_number_are_those_that_were_confirmed(boss, dead):
    page = select(boss, "discard_selected", dead, url=LETTERS)
    later = dead.finished_at + timedelta(seconds=1)
    WorkflowDeliveryAttempt.objects.filter(pk=dead.pk).update(finished_at=later)
    told = text_of(boss.post(LETTERS, {**hidden_fields(page), "reason": "x"}, follow=True))
    assert "1 skipped:" in told
    assert WorkflowDeliveryAttempt.objects.get(pk=dead.pk).status == "dead_letter"


def test_b11_a_dead_letter_says_how_often_its_handler_was_called_at_most(boss, dead):
    page = reverse("admin:general_manager_deadletter_change", args=[dead.pk])
    assert "1 pass with up to 2 tries each (retries=1): up to 2 calls" in text_of(boss.get(page))


def test_i2_an_event_is_delivered_again_as_it_stood_when_that_was_confirmed(boss, dead):
    event = WorkflowEventRecord.objects.get()
    url = reverse("admin:general_manager_event_deliver_again", args=[event.pk])
    sent = {**hidden_fields(boss.get(url)), "to": ["broken"]}
    WorkflowDeliveryAttempt.objects.update(status="completed")
    told = text_of(boss.post(url, sent, follow=True))
    assert "Its deliveries have changed since you were asked" in told
    assert WorkflowDeliveryAttempt.objects.get().status == "completed"
    assert "Nothing was done." in text_of(boss.post(url, {"to": ["broken"]}, follow=True))
    assert WorkflowDeliveryAttempt.objects.get().status == "completed"


def test_b14_the_values_of_a_creation_are_a_table(boss, outbox):
    event = manager_created_event(
        manager="Project", identification={"id": 42}, values={"name": "Apollo", "password": "q-9"},
        event_id="e",
    )  # fmt: skip
    outbox.publish(event)
    page = text_of(boss.get(reverse("admin:general_manager_event_by_id", args=["e"]), follow=True))
    assert "<tr><th>name</th><td>Apollo</td></tr>" in page
    assert "q-9" not in page


# What is shown


def moments(record):
    return [(one.what, one.about, one.by, one.detail) for one in timeline_of_execution(record)]


def test_b9_results_and_answers_are_shown_once_and_redacted(boss, begin, workers):
    from general_manager.workflow import acting_as

    record = begin(tells_secrets)
    with acting_as("ada"):
        get_workflow_engine().resume(record.execution_id, {"approved": True, "password": "hunter2"})
    workers.run()
    record.refresh_from_db()
    told = moments(record)
    [answered] = [one for one in told if "answer" in one[0] or "resumed" in one[0]]
    assert answered[:3] == ("answered", "approval", "ada")
    assert '"approved": true' in answered[3]
    [made] = [one for one in told if one[:2] == ("step", "make")]
    assert '"number": 7' in made[3]
    for page in (text_of(boss.get(detail(record))), str(told)):
        assert "hunter2" not in page
    page = text_of(boss.get(detail(record)))
    assert page.count("Answer received:") == 1
    assert "&quot;number&quot;: 7" in page


def tells_secrets(input_data):
    from general_manager.workflow import step, wait_for

    step("make", lambda: {"number": 7, "password": "hunter2"})
    return {"answer": wait_for("approval")}


def test_b9_a_large_result_stays_in_the_database(begin):
    record = begin(flows.two_steps)
    WorkflowStep.objects.filter(name="first").update(result="x" * 30_000)
    [first] = [one for one in moments(record) if one[1] == "first"]
    assert re.match(r"30,00\d characters of JSON", first[3])


def test_b9_a_finished_sleep_is_reported_once_and_is_no_missing_answer(boss, begin, workers):
    record = begin(flows.nap)
    WorkflowStep.objects.update(until=timezone.now())
    workers.let_rest_pass()
    workers.run()
    assert state(record) == "completed"
    assert [one[0] for one in moments(record) if one[1] == "a day"] == ["sleeps", "woke"]
    assert "answer" not in text_of(boss.get(detail(record))).lower().split("<fieldset")[0].split(
        "gm-timeline")[-1]  # fmt: skip


def test_b9_a_missing_answer_is_reported_once(begin, workers):
    record = begin(flows.ask)
    WorkflowStep.objects.filter(name="approval").update(until=timezone.now())
    workers.let_rest_pass()
    workers.run()
    told = [one[0] for one in moments(record) if one[1] == "approval"]
    assert told == ["waits", "timed_out"]


def test_b9_a_failed_attempt_is_shown_with_its_number_and_step(boss, begin):
    record = begin(stumbles_in_a_step, ValueError("boom"), retry=Retry(max_attempts=3, base=3600))
    page = text_of(boss.get(detail(record)))
    assert "Attempt 1 failed" in page
    assert "in step “risky”" in page


def stumbles_in_a_step(input_data):
    from general_manager.workflow import step

    step("risky", flows.stumble)


# What is found


def found(client, term, url=EXECUTIONS):
    page = text_of(client.get(url, {"q": term}))
    links = re.findall(r'field-(?:which|name|handler)[^>]*><a href="([^"?]*)', page)
    return {urlsplit(one).path for one in links}, page


def test_b8_the_id_that_the_list_shows_is_found(boss, begin):
    record, other = begin(flows.ask), begin(flows.ask)
    shown = re.findall(r"<code title=\"([^\"]*)\">([^<]*)</code>", text_of(boss.get(EXECUTIONS)))
    short = dict(shown)
    assert set(short) >= {record.execution_id, other.execution_id}
    for one in (record, other):
        assert short[one.execution_id] != one.execution_id
        links, _ = found(boss, short[one.execution_id])
        assert detail(one) in links
        assert found(boss, short[one.execution_id].strip("…").upper())[0] == links


def test_b8_the_event_id_that_the_list_shows_is_found(boss, outbox):
    event = manager_updated_event(manager="Project", identification={"id": 42}, changes={})
    outbox.publish(event)
    outbox.publish(WorkflowEvent("x" * 100, "shop.paid", {}))
    for event_id in (event.event_id, "x" * 100):
        page = text_of(boss.get(EVENTS))
        [short] = re.findall(f'<code title="{event_id}">([^<]*)</code>', page)
        assert short != event_id
        record = WorkflowEventRecord.objects.get(event_id=event_id)
        link = reverse("admin:general_manager_workfloweventrecord_change", args=[record.pk])
        assert found(boss, short, EVENTS)[0] == {link}


def test_b8_loan_1_is_not_loan_13(boss, begin):
    first = begin(flows.ask, correlation_id="loan-1")
    other = begin(flows.ask, correlation_id="loan-13")
    assert found(boss, "loan-1")[0] == {detail(first)}
    assert found(boss, "loan-13")[0] == {detail(other)}
    both, page = found(boss, "loan-")
    assert both == {detail(first), detail(other)}
    assert "These begin with it." in page
    assert found(boss, "loan-2")[0] == set()


@pytest.mark.parametrize("term", ["Project 42", "Project:42", 'Project {"id": 42}', " Project 42 "])
def test_b8_executions_events_and_letters_are_found_by_the_business_object(
    boss, outbox, celery_engine, workers, term
):
    outbox.register("manager_updated", handler=start_from_event)
    outbox.register("manager_updated", handler=break_down, registration_id="broken")
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}
    ):
        for number in (42, 4, 421):
            outbox.publish(
                manager_updated_event(
                    manager="Project", identification={"id": number}, changes={},
                    event_id=f"e{number}",
                )
            )  # fmt: skip
        workers.deliver()
    record = WorkflowExecutionRecord.objects.get(caused_by="e42")
    assert found(boss, term)[0] == {detail(record)}
    event = WorkflowEventRecord.objects.get(event_id="e42")
    link = reverse("admin:general_manager_workfloweventrecord_change", args=[event.pk])
    assert found(boss, term, EVENTS)[0] == {link}
    letter = WorkflowDeliveryAttempt.objects.get(outbox__event=event, status="dead_letter")
    link = reverse("admin:general_manager_deadletter_change", args=[letter.pk])
    assert found(boss, term, LETTERS)[0] == {link}
    assert found(boss, "e42")[0] == {detail(record)}
    [execution] = celery_engine.executions(subject=term.strip())
    assert execution.execution_id == record.execution_id


def start_from_event(event):
    get_workflow_engine().start(WorkflowDefinition("trip", handler=flows.ask))


def test_b8_the_local_engine_finds_by_the_business_object_too(engine, event_registry):
    event_registry.register("manager_updated", handler=start_from_event)
    for number in (42, 4):
        event_registry.publish(
            manager_updated_event(manager="Project", identification={"id": number}, changes={})
        )
    assert engine.executions(subject="Project 42").count() == 1
    assert engine.executions(subject="Project:4").count() == 1
    assert not engine.executions(subject="Project")


def trace(*arguments):
    out = StringIO()
    call_command("workflow_trace", *arguments, stdout=out)
    return out.getvalue()


def test_b8_a_trace_is_found_by_what_people_have_in_hand(outbox, begin, workers):
    record = begin(flows.ask, correlation_id="loan-1")
    other = begin(flows.ask, correlation_id="loan-13")
    for term in ("loan-1", record.execution_id, record.execution_id[:23]):
        assert trace(term).startswith(f"Execution {record.execution_id}\n")
    several = trace("loan-")
    assert "Several match" in several
    assert record.execution_id in several
    assert other.execution_id in several
    found = json.loads(trace("loan-", "--format", "json"))["found"]
    assert {one["id"] for one in found} == {record.execution_id, other.execution_id}
    outbox.register("manager_updated", handler=start_from_event)
    outbox.publish(
        manager_updated_event(
            manager="Project", identification={"id": 7, "year": 2026}, changes={}, event_id="e7"
        )
    )
    assert trace('Project {"year": 2026, "id": 7}').startswith("Event e7\n")
    workers.deliver()
    workers.run()
    [caused] = WorkflowExecutionRecord.objects.filter(caused_by="e7")
    assert caused.execution_id in trace('Project:{"id": 7, "year": 2026}')
    with pytest.raises(CommandError, match="no execution matches 'Project 8'"):
        trace("Project 8")


def test_b9_a_trace_has_results_and_answers_redacted(begin, workers):
    record = begin(tells_secrets)
    get_workflow_engine().resume(record.execution_id, {"approved": True, "password": "hunter2"})
    workers.run()
    text = trace(record.execution_id)
    assert '"number": 7' in text
    assert '"approved": true' in text
    assert "hunter2" not in text
    assert text.count("answered approval") == 1


@pytest.mark.parametrize(
    "term", ["\x00", "a\x00b", "x" * 5000, "[" * 3000, "Project " + "[" * 3000, "…"]
)
@pytest.mark.parametrize("url", [EXECUTIONS, EVENTS, LETTERS])
def test_b8_a_search_for_nonsense_finds_nothing(boss, begin, url, term):
    begin(flows.ask)
    assert boss.get(url, {"q": term}).status_code == 200
