"""Do in the test what workers would do."""

from django.db import connections, router

from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.backends.local import LocalWorkflowEngine
from general_manager.workflow.executor import run
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.outbox import drain as drain_outbox


def drain() -> int:
    """Deliver every event that is due and run every execution that is ready, until none is left.

    Returns how many deliveries and runs that took. Needs no worker, broker or commit, so it works
    inside a `TestCase`. What rests, sleeps or waits is left alone. With the local engine it fires
    the timers that are due.
    """
    done = 0
    while turns := _drain_once():
        done += turns
    return done


def _drain_once() -> int:
    turns = 0
    engine = get_workflow_engine()
    if isinstance(engine, LocalWorkflowEngine):
        turns += engine.run_due()
    for alias in connections:
        if router.allow_migrate_model(alias, WorkflowExecutionRecord):
            turns += drain_outbox(alias, hand_on=False)
            ready = WorkflowExecutionRecord.objects.using(alias).runnable().order_by("pk")
            turns += sum(run(one, alias) for one in ready.values_list("execution_id", flat=True))
    return turns
