"""Sagas and failing steps on the pages: what was undone, what is left, and "Undo first"."""

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command

from general_manager.workflow import WorkflowDefinition
from general_manager.workflow.models import WorkflowExecutionRecord
from tests.integration.admin.test_operating import act, text_of
from tests.integration.conftest import confirm
from tests.integration.executions.killing import pass_time, state_at_the_end
from tests.testapp import plays
from tests.testapp.models import Tag
from tests.testapp.plays import stage

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture(autouse=True)
def _stage():
    plays.reset()
    yield
    plays.reset()


@pytest.fixture
def boss(client):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    return client


@pytest.fixture
def begin(celery_engine, workers):
    def start(handler, **data):
        key = celery_engine.start(WorkflowDefinition("trip", handler=handler), data).execution_id
        workers.run()
        return WorkflowExecutionRecord.objects.get(execution_id=key)

    return start


def page_of(boss, record):
    return text_of(boss.get(f"/admin/general_manager/workflowexecutionrecord/{record.pk}/change/"))


def test_an_execution_is_cancelled_with_undo_first(boss, begin):
    record = begin(plays.book_trip, waits=True)
    assert "Undo first" in text_of(boss.get(act(record, "cancel")))
    confirm(boss, act(record, "cancel"), reason="enough", undo_first="on")
    record.refresh_from_db()
    assert record.state == "pending"
    assert state_at_the_end(record.execution_id) == "cancelled"
    assert not Tag.objects.exists()
    page = page_of(boss, record)
    for words in ("Saga begun:", "To be undone and ended", "Undoing saga", "Undone by", "undo b",
                  "Saga undone:", "Closed, as its saga is undone:"):  # fmt: skip
        assert words in page, words


def test_without_the_box_it_is_cancelled_at_once_and_nothing_is_undone(boss, begin):
    record = begin(plays.book_trip, waits=True)
    confirm(boss, act(record, "cancel"), reason="enough")
    record.refresh_from_db()
    assert (record.state, record.ending) == ("cancelled", None)
    assert Tag.objects.count() == 2


def test_what_was_not_undone_is_named_on_the_page_and_the_rest_is_retried(boss, begin):
    stage.failing |= {"c", "undo b"}
    record = begin(plays.book_trip)
    pass_time()
    page = page_of(boss, record)
    for words in (
        "compensation incomplete",
        "Saga not undone completely:",
        "Undo failed for good:",
    ):
        assert words in page, words
    asked = text_of(boss.get(act(record, "retry")))
    assert "<bdi>undone, but for: undo b</bdi>" in asked
    assert "undos" not in asked
    stage.failing.clear()
    confirm(boss, act(record, "retry"))
    again = WorkflowExecutionRecord.objects.latest("pk")
    assert state_at_the_end(again.execution_id) == "failed"
    assert not Tag.objects.exists()


def test_a_step_that_waits_for_its_next_attempt_and_one_that_failed_are_shown(boss, begin, capsys):
    stage.troubles[:] = [ValueError("full")] * 3
    record = begin(plays.book_or_fail)
    page = page_of(boss, record)
    for words in ("Waiting for the next attempt of step", "Attempt 1 failed", "in step “seat”"):
        assert words in page, words
    pass_time()
    pass_time()
    page = page_of(boss, record)
    for words in ("Step failed for good:", "failed after 3 attempts: full"):
        assert words in page, words
    call_command("workflow_trace", record.execution_id)
    assert "step failed seat" in capsys.readouterr().out


def test_the_trace_says_how_an_execution_is_to_end(begin, celery_engine, capsys):
    record = begin(plays.book_trip, waits=True)
    celery_engine.cancel(record.execution_id, compensate=True)
    call_command("workflow_trace", record.execution_id)
    said = capsys.readouterr().out
    assert "ends as" in said
    assert "cancelled" in said
