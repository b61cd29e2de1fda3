"""Ages are told by the database's clock, whatever that of the process says that looks."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.admin.filters import EndedFilter, OverdueFilter
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowHeartbeat
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now
from general_manager.workflow.operations.health import check_health
from general_manager.workflow.operations.overview import read_details, read_overview
from general_manager.workflow.workers.tick import tick
from tests.integration.conftest import data_statements
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
HOUR = timedelta(hours=1)


@pytest.fixture(params=[-2, 2], ids=["a clock behind", "a clock ahead"])
def wrong_clock(request: Any, monkeypatch: Any) -> Any:
    """From when it is called, this process's clock is two days off."""
    really = timezone.now

    def turn() -> None:
        monkeypatch.setattr(timezone, "now", lambda: really() + timedelta(days=request.param))

    return turn


@pytest.fixture
def story(outbox: Any, celery_engine: Any) -> None:
    """An event that is owed, a tick, a worker, and executions that ended and that are late."""
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    tick()
    WorkflowHeartbeat.objects.beat("worker:one@host", "x")
    for _ in range(3):
        celery_engine.start(WorkflowDefinition("w", handler=flows.start_from_event))
    ended, late, _ = WorkflowExecutionRecord.objects.order_by("pk")
    rows = WorkflowExecutionRecord.objects
    rows.filter(pk=ended.pk).update(state="failed", ended_at=DatabaseNow(), wake_at=None)
    rows.filter(pk=late.pk).update(wake_at=from_now(-HOUR))


def test_what_is_seen_does_not_depend_on_the_clock_of_the_process(story, wrong_clock):
    right, closer = read_overview(), read_details()
    troubles = [one.code for one in check_health().troubles]
    wrong_clock()
    seen = read_overview()
    assert abs(seen.at - right.at) < HOUR
    assert (seen.states, seen.workers) == (right.states, right.workers)
    assert (seen.states["failed"], seen.late_executions) == (1, 1)
    assert [one.code for one in check_health().troubles] == troubles
    now = read_details(at=seen.at)
    assert now.failed_by_workflow == closer.failed_by_workflow == [("w", 1)]
    assert now.hours[-1].ended + now.hours[-2].ended == 1


@pytest.mark.parametrize(
    ("kind", "value"), [(OverdueFilter, "yes"), (EndedFilter, "day")], ids=["overdue", "ended"]
)
def test_what_a_list_of_the_admin_shows_does_not_either(story, wrong_clock, kind, value):
    wrong_clock()
    rows = WorkflowExecutionRecord.objects.all()
    asked: Any = kind(None, {kind.parameter_name: [value]}, WorkflowExecutionRecord, None)
    assert asked.queryset(None, rows).count() == 1


def test_it_takes_four_statements(story):
    with data_statements() as statements:
        read_overview()
    assert len(statements) == 4


def test_where_nothing_was_ever_done_the_present_is_now(outbox):
    before = timezone.now()
    assert before - HOUR < read_overview().at < before + HOUR
