"""The scans that run all the time use the index on what is owed, however much is settled."""

import pytest
from django.db import connection, transaction

from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from general_manager.workflow.models.columns import DatabaseNow

pytestmark = pytest.mark.django_db(databases=["default", "archive"])


def plan(queryset):
    with transaction.atomic():
        if connection.vendor == "postgresql":  # tables of a test are too small to need an index
            with connection.cursor() as cursor:
                for way in ("seqscan", "bitmapscan", "sort"):
                    cursor.execute(f"SET LOCAL enable_{way} = off")
        return queryset.explain()


def test_e12_a_claim_scans_the_owed_entries_in_order():
    text = plan(WorkflowOutbox.objects.due().order_by("available_at")[:50])
    assert "gm_outbox_owed" in text
    assert "Sort" not in text
    assert "TEMP B-TREE" not in text


def test_a_sweep_scans_the_owed_executions_in_order():
    due = WorkflowExecutionRecord.objects.filter(wake_at__lte=DatabaseNow())
    text = plan(due.order_by("wake_at")[:200])
    assert "gm_execution_owed" in text
    assert "Sort" not in text
    assert "TEMP B-TREE" not in text
