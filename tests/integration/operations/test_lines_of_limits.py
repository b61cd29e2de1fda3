"""Lines of limits in health, metrics, the overview, traces and commands."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from prometheus_client import CollectorRegistry

from general_manager.workflow import Limit, WorkflowDefinition
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowLimitKey
from general_manager.workflow.models.sql.columns import from_now
from general_manager.workflow.operations import metrics
from general_manager.workflow.operations.health import check_health
from general_manager.workflow.operations.lines import lines_in_use
from general_manager.workflow.operations.trace import find_trace
from tests.testapp import limited

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture
def ids(celery_engine):
    """One with the slot, and three in line behind it."""
    flow = WorkflowDefinition("orders", handler=limited.play, limit=Limit(1, key="key"))
    return [
        celery_engine.start(flow, {"name": f"e{n}", "key": "<b>7</b>"}).execution_id
        for n in range(4)
    ]


def troubles():
    return {one.code: one for one in check_health().troubles}


def test_l1_a_line_that_does_not_move_is_named(ids):
    assert "standing-lines" not in troubles()
    WorkflowLimitKey.objects.update(moved_at=from_now(-timedelta(minutes=61)))
    trouble = troubles()["standing-lines"]
    assert "limit orders: key=<b>7</b> nobody got a slot for an hour" in trouble.message
    assert trouble.count == 1
    WorkflowLimitKey.objects.update(rate=1, per=timedelta(hours=2))
    assert "standing-lines" not in troubles(), "it moves that slowly by its rate"


def test_health_and_metrics_count_lines(ids):
    assert check_health().to_json()["lines"] == {"count": 1, "executions": 3}
    registry = CollectorRegistry()
    metrics.install(registry)
    try:
        found = {
            name: registry.get_sample_value(f"general_manager_{name}", {"database": "default"})
            for name in ("limit_lines", "limit_waiting", "limit_lines_standing")
        }
    finally:
        metrics.uninstall(registry)
    assert found == {"limit_lines": 1, "limit_waiting": 3, "limit_lines_standing": 0}
    out = StringIO()
    with pytest.raises(SystemExit):  # something else is wrong: no worker runs here
        call_command("workflow_status", stdout=out)
    assert "limits        3 executions in 1 line\n" in out.getvalue()


def test_the_lines_that_stand_for_longest_come_first(ids):
    [line] = lines_in_use("default")
    assert (line.label, line.numbers) == ("orders: key=<b>7</b>", "1 at once")
    assert (line.waiting, line.holders) == (3, 1)


def test_o1_a_trace_says_for_what_an_execution_waits_and_its_place(ids):
    first, last = find_trace(ids[0]), find_trace(ids[3])
    assert first is not None
    assert last is not None
    assert first.facts["limit"] == "orders: key=<b>7</b> (1 at once)"
    assert "in_line_for" not in first.facts
    assert last.facts["in_line_for"] == "orders: key=<b>7</b>, place 3"


def test_o1_the_pages_show_the_line_and_escape_its_label(ids, admin_client):
    last = WorkflowExecutionRecord.objects.get(execution_id=ids[3])
    base = "/admin/general_manager/"
    page = admin_client.get(f"{base}workflowexecutionrecord/{last.pk}/change/").content.decode()
    assert "orders: key=&lt;b&gt;7&lt;/b&gt;, place 3" in page
    changes = admin_client.get(f"{base}workflowexecutionrecord/").content.decode()
    assert changes.count("in line for orders: key=&lt;b&gt;7&lt;/b&gt;") == 3
    overview = admin_client.get(f"{base}overview/").content.decode()
    assert "Lines of limits" in overview
    assert "3 in line, 1 with a slot" in overview
    assert "<b>7</b>" not in page + changes + overview
