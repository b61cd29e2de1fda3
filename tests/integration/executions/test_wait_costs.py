"""What a wait and its answer cost in statements; and that completing finds its row by the key."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from general_manager.workflow import WorkflowDefinition
from general_manager.workflow.executions.runner import run
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    ("handler", "most"),
    [(flows.wait_once, (1, 2, 4, 3)), (flows.ask, (1, 10, 4, 3))],
    ids=["without a question", "with a question"],
)
def test_a_wait_and_its_answer_cost_few_statements(celery_engine, handler, most):
    """To start, to suspend, to answer and to complete, with what begins and ends transactions."""
    definition = WorkflowDefinition("w", handler=handler)
    for _ in range(2):  # what is asked once a process is asked in the first
        counts = []
        with CaptureQueriesContext(connection) as start:
            execution = celery_engine.start(definition)
        with CaptureQueriesContext(connection) as suspend:
            run(execution.execution_id, "default")
        with CaptureQueriesContext(connection) as answer:
            celery_engine.resume(execution.execution_id, {"ok": True})
        with CaptureQueriesContext(connection) as complete:
            run(execution.execution_id, "default")
        counts = [len(one) for one in (start, suspend, answer, complete)]
    assert celery_engine.status(execution.execution_id).state == "completed"
    # Elsewhere what is written together takes statements of its own, and a transaction to suspend.
    more = (0, 0, 0, 0) if connection.vendor == "postgresql" else (1, 4, 3, 2)
    most = tuple(map(sum, zip(most, more, strict=True)))
    assert all(count <= limit for count, limit in zip(counts, most, strict=True)), counts
