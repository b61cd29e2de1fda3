"""Workers of lanes find their rows by an index, however many events wait in blocked lanes."""

import pytest
from django.db import connection

from general_manager.workflow import WorkflowEvent
from general_manager.workflow.models import WorkflowDeliveryAttempt, WorkflowLane
from general_manager.workflow.models.sql.due import ANY_AGE
from general_manager.workflow.operations.overview import read_overview
from general_manager.workflow.outbox.drain import claim_due, deliver_claim, drain
from general_manager.workflow.outbox.order import deliver_lanes
from tests.integration.models.test_query_plans import plans, update_statistics

pytestmark = pytest.mark.django_db(databases=["default", "archive"])
KEYS, EACH = 20, 100


@pytest.fixture
def blocked(outbox):
    """Two thousand events of twenty blocked keys, and one of a free one."""
    outbox.register("changed", handler=lambda event: None, in_order=True, registration_id="r")
    outbox.publish_many(
        WorkflowEvent(f"{key} {n}", "a.b", {}, "changed", ordering_key=f"blocked {key}")
        for n in range(EACH)
        for key in range(KEYS)
    )
    WorkflowLane.objects.all().delete()
    drain_entries_only()
    WorkflowLane.objects.update(available_at=None, blocked_since="2026-01-01T00:00:00Z")
    outbox.publish(WorkflowEvent("free", "a.b", {}, "changed", ordering_key="free"))
    drain_entries_only()
    for model in (WorkflowLane, WorkflowDeliveryAttempt):
        update_statistics(model)


def drain_entries_only():
    while (claim := claim_due("default", ANY_AGE, 100)).size:
        deliver_claim("default", claim)


@pytest.mark.usefixtures("blocked")
def test_the_next_free_lane_and_its_head_are_found_by_an_index():
    found = plans(lambda: deliver_lanes("default", ANY_AGE, 10), "available_at", "ORDER BY")
    assert all("gm_lane_due" in one for one in found)
    assert WorkflowDeliveryAttempt.objects.get(status="completed").outbox.event.event_id == "free"


@pytest.mark.usefixtures("blocked")
def test_the_head_of_a_lane_is_found_by_an_index():
    found = plans(
        lambda: WorkflowDeliveryAttempt.objects.heads(WorkflowLane.objects.due()),
        "in_lane",
        "LIMIT 1",
    )
    assert all("gm_delivery_lane" in one for one in found)
    assert not any("Sort" in one or "filesort" in one or "TEMP B-TREE" in one for one in found)


@pytest.mark.usefixtures("blocked")
def test_blocked_lanes_are_counted_by_an_index():
    overview = read_overview("default")
    assert (overview.lanes, overview.blocked_lanes) == (KEYS + 1, KEYS)
    rows = WorkflowLane.objects.filter(blocked_since__isnull=False).order_by("blocked_since")[:5]
    assert all("gm_lane_blocked" in one for one in plans(lambda: list(rows), "blocked_since"))


def test_a_delivery_in_order_takes_few_statements(outbox, django_assert_max_num_queries):
    outbox.register("changed", handler=lambda event: None, in_order=True, registration_id="r")
    with django_assert_max_num_queries(30):
        drain()
    per_event = 4 if connection.vendor == "postgresql" else 6
    outbox.publish_many(
        WorkflowEvent(str(key), "a.b", {}, "changed", ordering_key=str(key)) for key in range(40)
    )
    with django_assert_max_num_queries(40 * per_event + 60):
        drain()
    assert WorkflowDeliveryAttempt.objects.filter(status="completed").count() == 40
