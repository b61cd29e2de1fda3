"""What follows a run: its children may run, and others may wait for its end."""

from collections.abc import Collection
from functools import partial

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.admission.lines import RunHere, look_soon
from general_manager.workflow.executions.children.attending import attend, attend_due
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.transport.in_process import perform_soon
from general_manager.workflow.transport.nudges import nudge

logger = get_logger(__name__)


def run_later(
    execution_id: str, queue: str, slot_key: str | None, using: str, run_here: RunHere
) -> None:
    """Run it by a worker, or here, after the work or the transaction in progress.

    With a limit it runs if it gets a slot.
    """
    if slot_key is not None:
        look_soon(using, slot_key, run_here)
    elif get_workflow_settings().run_async:
        nudge(using, queue)
    else:
        perform_soon(lambda: run_here(execution_id, using), using)


def attend_to(keys: Collection[int], using: str, run_here: RunHere) -> None:
    """Notify those that wait for the ended executions *keys*, and stop their children.

    If it fails, the sweep does it later.
    """
    executions = WorkflowExecutionRecord.objects.using(using)
    try:
        attend(executions, keys, partial(run_later, using=using, run_here=run_here))
    except Exception:
        logger.exception("Executions ended, and those that wait for them are notified later")


def attend_left(using: str, run_here: RunHere) -> int:
    """Attend to what ended without that: a process died. For how many there was something."""
    executions = WorkflowExecutionRecord.objects.using(using)
    return attend_due(executions, partial(run_later, using=using, run_here=run_here))
