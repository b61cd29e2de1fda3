"""Signals on the operator's pages: what became of each, and sending one."""

import pytest
from django.contrib.admin.models import LogEntry

from general_manager.workflow import WorkflowDefinition, acting_as
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowSignal
from general_manager.workflow.operations.trace import find_trace
from tests.integration.admin.test_operating import (
    act,
    boss,
    buttons,
    detail,
    text_of,
    user_with,
)
from tests.integration.conftest import confirm, hidden_fields
from tests.testapp import plays

__all__ = ["boss"]

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

BOTH = WorkflowDefinition("trip", handler=plays.pay_then_sign)


@pytest.fixture
def waiting(celery_engine, workers):
    plays.reset()
    key = celery_engine.start(BOTH).execution_id
    workers.run()
    return WorkflowExecutionRecord.objects.get(execution_id=key)


def send(engine, record, name, value):
    with acting_as("the <bank>"):
        engine.signal(record.execution_id, name, value)


def test_o1_the_page_and_the_trace_show_what_became_of_each_signal(
    boss, celery_engine, workers, waiting
):
    for name, value in (("paid", 17), ("refunded", 18), ("signed", 19)):
        send(celery_engine, waiting, name, value)
    text = text_of(boss.get(detail(waiting)))
    assert "taken by the wait “paid”" in text
    assert "kept until a wait asks for it" in text
    workers.run()
    text = text_of(boss.get(detail(waiting)))
    assert "unread: it ended without asking for it" in text
    assert "Ended without reading the signal" in text
    assert "the &lt;bank&gt;" in text
    trace = find_trace(waiting.execution_id)
    assert trace is not None
    told = [(one.what, one.about, one.by, one.detail) for one in trace.moments]
    assert ("signal", "paid", "the <bank>", "17") in told
    assert ("answered", "paid", "the <bank>", "17") in told
    assert ("signal_unread", "refunded", "", "") in told


def test_o1_a_withdrawn_signal_is_shown_as_such(boss, celery_engine, workers, waiting):
    send(celery_engine, waiting, "paid", 17)
    celery_engine.cancel(waiting.execution_id)
    page = text_of(boss.get(act(waiting, "retry", "?before=paid")))
    assert "Withdrawn, so that no wait gets it again: the signal <bdi>paid</bdi>" in page
    fresh = celery_engine.retry_from_checkpoint(waiting.execution_id, before="paid")
    assert "withdrawn: its answer was taken back" in text_of(boss.get(detail(waiting)))
    record = WorkflowExecutionRecord.objects.get(execution_id=fresh.execution_id)
    assert "Signal withdrawn:" in text_of(boss.get(detail(record)))


def test_an_operator_sends_a_signal(client, celery_engine, workers, waiting):
    ada = user_with(client, "signal_execution")
    assert buttons(text_of(ada.get(detail(waiting)))) == ["Send a signal…"]
    confirm(ada, act(waiting, "signal"), signal="paid", value='{"amount": 3}')
    [signal] = WorkflowSignal.objects.all()
    assert (signal.name, signal.value, signal.sent_by) == ("paid", {"amount": 3}, "ada")
    assert LogEntry.objects.filter(user__username="ada").exists()
    workers.run()
    waiting.refresh_from_db()
    assert waiting.waiting_for == "signed"


def test_a_form_that_is_sent_twice_sends_one_signal(boss, celery_engine, waiting):
    url = act(waiting, "signal")
    sent = {**hidden_fields(boss.get(url)), "signal": "later", "value": "1"}
    send(celery_engine, waiting, "later", 2)  # by somebody else
    boss.post(url, sent)
    again = text_of(boss.post(url, sent, follow=True))
    assert "Nothing was done. You have sent it a signal since you opened the form." in again
    assert [one.value for one in WorkflowSignal.objects.order_by("pk")] == [2, 1]
    confirm(boss, url, signal="later", value="3")
    assert WorkflowSignal.objects.count() == 3


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"signal": "paid", "value": ""}, "tick the box"),
        ({"signal": "paid", "value": "{"}, "not JSON"),
        ({"signal": "a\u202eb", "value": "1"}, "control character"),
        ({"signal": "", "value": "1"}, "required"),
    ],
)
def test_a_signal_that_cannot_be_meant_is_not_sent(boss, waiting, values, error):
    assert error in text_of(confirm(boss, act(waiting, "signal"), **values))
    assert not WorkflowSignal.objects.exists()


def test_o2_nobody_sends_a_signal_without_the_permission(client, waiting):
    ada = user_with(client, "resume_execution")
    assert "Send a signal…" not in buttons(text_of(ada.get(detail(waiting))))
    assert ada.get(act(waiting, "signal")).status_code == 403
    assert ada.post(act(waiting, "signal"), {"signal": "paid", "value": "1"}).status_code == 403


def test_one_that_has_ended_is_sent_nothing(boss, celery_engine, waiting):
    celery_engine.cancel(waiting.execution_id)
    assert "Send a signal…" not in buttons(text_of(boss.get(detail(waiting))))
    assert "It has ended." in text_of(boss.get(act(waiting, "signal")))
