"""Plans beside what is parked: a claim does not see it, and costs the statements that it cost."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from django.db import connection
from django.db.models import Model
from django.utils import timezone

from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowLane,
    WorkflowOutbox,
    WorkflowPause,
)
from general_manager.workflow.models.executions.claims import take_ready
from general_manager.workflow.models.sql.due import ANY_AGE
from general_manager.workflow.pauses import PauseKind
from tests.integration.conftest import data_statements
from tests.integration.models.test_query_plans import plans, update_statistics

pytestmark = pytest.mark.django_db(databases=["default", "archive"])

PARKED = 1_000
LEASE = timedelta(seconds=60)
CLAIMS: dict[type[Model], Callable[[], object]] = {
    WorkflowExecutionRecord: partial(take_ready, WorkflowExecutionRecord.objects.all(), 5, ANY_AGE),
    WorkflowOutbox: partial(WorkflowOutbox.objects.claim, 5, lease=LEASE),
    WorkflowLane: partial(WorkflowLane.objects.claim, 5, lease=LEASE),
}
DUE: dict[type[Model], tuple[str, tuple[str, ...]]] = {
    WorkflowExecutionRecord: ("wake_at", ("gm_execution_ready", "gm_execution_due")),
    WorkflowOutbox: ("available_at", ("gm_outbox_due",)),
    WorkflowLane: ("available_at", ("gm_lane_due",)),
}
PAUSES = ((PauseKind.WORKFLOW, "paused"), (PauseKind.REGISTRATION, "paused"))


def add_rows(name, number, **values):
    """*number* executions, entries and lanes of what *name* says."""
    ids = [f"{name} {one}" for one in range(number)]
    parked = values.get("parked_at")
    due = None if parked else timezone.now()
    WorkflowExecutionRecord.objects.bulk_create(
        WorkflowExecutionRecord(
            execution_id=one, workflow_id=name, parked_at=parked, ready=True, wake_at=due
        )
        for one in ids
    )
    events = WorkflowEventRecord.objects.bulk_create(
        WorkflowEventRecord(event_id=one, event_type="a.b", payload={}) for one in ids
    )
    entries = WorkflowOutbox.objects.bulk_create(
        WorkflowOutbox(event=one, status="paused" if parked else "pending", available_at=due)
        for one in events
    )
    if parked:
        WorkflowDeliveryAttempt.objects.bulk_create(
            WorkflowDeliveryAttempt(outbox=one, registration_id=name, status="paused")
            for one in entries
        )
    WorkflowLane.objects.bulk_create(
        WorkflowLane(
            lane=one, registration_id=name, ordering_key=one, parked_at=parked, available_at=due
        )
        for one in ids
    )


@pytest.fixture
def pauses():
    for kind, name in PAUSES:
        WorkflowPause.objects.pause(kind, name, "")


def test_o8_a_thousand_parked_rows_cost_a_claim_nothing(pauses):
    add_rows("free", 3)
    before = {}
    for table, claim in CLAIMS.items():
        with data_statements() as statements:
            claim()
        before[table] = len(statements)
    add_rows("paused", PARKED, parked_at=timezone.now())
    add_rows("freed", 3)
    for table, claim in CLAIMS.items():
        with data_statements() as statements:
            claim()
        assert len(statements) == before[table], table
        column, indexes = DUE[table]
        add_rows(f"more {table._meta.model_name}", 3)
        update_statistics(table)
        texts = plans(claim, column, "LIMIT")
        for text in texts:
            assert any(name in text for name in indexes), text
            assert "Seq Scan" not in text


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL is asked")
def test_o8_the_index_of_what_is_due_has_nothing_that_is_parked():
    with connection.cursor() as cursor:
        for column, (name, *_) in DUE.values():
            cursor.execute("SELECT indexdef FROM pg_indexes WHERE indexname = %s", [name])
            [[definition]] = cursor.fetchall()
            assert f"{column} IS NOT NULL" in definition
