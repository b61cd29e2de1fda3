"""Claims do not wait for the disk; whatever follows them does."""

from datetime import timedelta

import pytest
from django.db import connection, transaction

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from tests.testapp import flows

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.skipif(
        connection.vendor != "postgresql", reason="Only PostgreSQL lets one commit not wait"
    ),
]
LEASE = timedelta(minutes=1)


@pytest.fixture
def claims(outbox, celery_engine):
    """One claim of an entry and one of an execution, each ready to be made."""
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    started = celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    return (
        lambda: WorkflowOutbox.objects.claim(1, lease=LEASE).size,
        lambda: WorkflowExecutionRecord.objects.claim(started.execution_id, lease=LEASE),
    )


def waits_for_disk():
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        return cursor.fetchone() == ("on",)


def check(claim):
    """Make *claim*, in one statement, which waits for the disk only in a transaction."""
    asked = []

    def look(execute, sql, parameters, many, context):
        if "RETURNING" in sql:
            assert sql.endswith("(SELECT set_config('synchronous_commit', 'off', true))") == (
                not connection.in_atomic_block
            )
            asked.append(sql)
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(look):
        assert claim()
    assert len(asked) == 1


def test_a_claim_does_not_wait_for_the_disk_and_what_follows_does(claims):
    for claim in claims:
        check(claim)
        assert waits_for_disk()
        with transaction.atomic():
            assert waits_for_disk()


def test_a_claim_in_a_callers_transaction_leaves_its_commit_alone(claims):
    for claim in claims:
        with transaction.atomic():
            check(claim)
            assert waits_for_disk()
