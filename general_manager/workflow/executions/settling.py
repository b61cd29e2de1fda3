"""The outcomes of runs: completed, failed, delayed, undone; each under the run's claim."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final

from django.db import transaction

from general_manager.durations import in_words
from general_manager.escaping import get_logger
from general_manager.workflow.core.encoding import error_text, traceback_text
from general_manager.workflow.core.local_handlers import find_handler
from general_manager.workflow.core.observers import notify_state
from general_manager.workflow.durable.ending import Ending, ending_of
from general_manager.workflow.durable.errors import CompensationIncomplete
from general_manager.workflow.durable.options import next_attempt_in
from general_manager.workflow.durable.stops import EndRequested, Interrupted, StopRun
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.exceptions import (
    StepInDoubt,
    parts,
)
from general_manager.workflow.executions.commits import persist_for
from general_manager.workflow.executions.ending import complete as end_completed
from general_manager.workflow.executions.ending import end_as
from general_manager.workflow.executions.ending import fail as end_failed
from general_manager.workflow.executions.handler_modules import not_importable
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.executions.ending import (
    left_undone,
    open_sagas,
    release_to_end,
    undo_instead,
)

logger = get_logger(__name__)

INTERRUPTED_RUN_DELAY: Final = timedelta(seconds=1)

MOST_INTERRUPTIONS: Final = 10
"""Interruptions by the database in a row, without a completed step, after which the next one counts
as a failed attempt: otherwise a write that every database refuses would repeat indefinitely."""


def complete(
    record: WorkflowExecutionRecord,
    using: str,
    output: dict[str, Any],
    closings: Sequence[Callable[[], None]],
) -> bool:
    """Running to completed, and its sagas to closed, in one commit; whether it won."""
    executions = WorkflowExecutionRecord.objects.using(using)
    if not closings:
        return end_completed(executions, record, output)
    try:
        with suppress(EndRequested, _NotCompletedError), transaction.atomic(using=using):
            for close in closings:
                close()
            if not end_completed(executions, record, output):
                raise _NotCompletedError
            return True
    except StopRun as stop:  # a closing finds that the run holds the execution no longer
        if isinstance(stop, Interrupted):
            raise
    return False


class _NotCompletedError(Exception):
    """Rolls the closing of sagas back."""


def to_end_soon(record: WorkflowExecutionRecord, using: str) -> WorkflowState | None:
    """Pending, if the execution was asked to end meanwhile: another run undoes and ends it."""
    executions = WorkflowExecutionRecord.objects.using(using)
    is_ready = persist_for(record, using, lambda: release_to_end(executions, record))
    return WorkflowState.PENDING if is_ready else None


def end_now(record: WorkflowExecutionRecord, using: str, ending: Ending) -> WorkflowState | None:
    executions = WorkflowExecutionRecord.objects.using(using)
    if not persist_for(record, using, lambda: end_as(executions, record, ending)):
        return None
    logger.info(
        "Workflow %s (%s) is undone, and %s",
        record.workflow_id, record.execution_id, ending.state,
    )  # fmt: skip
    return ending.state


def leave_interrupted(
    record: WorkflowExecutionRecord, using: str, error: BaseException, uncalled: str | None = None
) -> bool:
    """Let another run continue soon, at most `MOST_INTERRUPTIONS` times without a completed step.

    The step *uncalled* is not in doubt: this run knows that it was not called. Returns whether the
    execution is ready, to undo.
    """
    record.commits = None  # nothing is built on steps that a crash may have undone
    is_local = find_handler(record.execution_id) is not None  # no other run could continue
    if is_local or record.interruptions >= MOST_INTERRUPTIONS:
        return settle_failure(record, using, error)
    logger.warning(
        "The database interrupted execution %s; retrying in %s",
        record.execution_id, in_words(INTERRUPTED_RUN_DELAY), exc_info=error,
    )  # fmt: skip
    executions = WorkflowExecutionRecord.objects.using(using)
    why = error_text(error)
    if persist_for(
        record,
        using,
        lambda: executions.leave_interrupted(record, INTERRUPTED_RUN_DELAY, why, uncalled),
    ):
        notify(WorkflowState.PENDING, record, using)
    return False


def leave_if_possible(record: WorkflowExecutionRecord, using: str, error: BaseException) -> bool:
    """`leave_interrupted`; if that fails too, the sweep recovers the execution."""
    with suppress(Exception):
        return leave_interrupted(record, using, error)
    return False


def settle_failure(
    record: WorkflowExecutionRecord,
    using: str,
    error: BaseException,
    *,
    step: str = "",
    is_final: bool = False,
    sagas: Sequence[str] | None = None,
) -> bool:
    """Delay the next attempt, if there is one; not if every run would raise the same again.

    *sagas* as for `fail`, and what is returned.
    """
    retry = (
        None if is_final else persist_for(record, using, lambda: _delay_after(record, using, error))
    )
    if retry is not None and find_handler(record.execution_id) is not None:
        cause, path = error, str(record.handler_path)
        retry, error = None, not_importable(record.workflow_id, path)
        error.__cause__ = cause
    if retry is None:
        return fail(record, using, error, failed_attempts=1, sagas=sagas)
    executions = WorkflowExecutionRecord.objects.using(using)
    delay, number = retry
    why = error_text(error)
    if persist_for(
        record, using, lambda: executions.postpone(record, delay, why, step=step, number=number)
    ):
        logger.warning(
            "Workflow %s (%s) failed (attempt %d); retrying in %s",
            record.workflow_id, record.execution_id, number, in_words(delay), exc_info=error,
        )  # fmt: skip
        notify(WorkflowState.PENDING, record, using)
    return False


def _delay_after(
    record: WorkflowExecutionRecord, using: str, error: BaseException
) -> tuple[timedelta, int] | None:
    """The delay before the next attempt and the number of the failed one; `None` for no retry."""
    if record.retry is None:
        return None
    attempts = WorkflowExecutionRecord.objects.using(using).attempts_of(record) + 1
    delay = next_attempt_in(record.retry, attempts, error)
    return None if delay is None else (delay, attempts)


def fail(
    record: WorkflowExecutionRecord,
    using: str,
    error: BaseException,
    *,
    failed_attempts: int = 0,
    sagas: Sequence[str] | None = None,
) -> bool:
    """Running to failed; or to ready, to undo the *sagas* that are open before it fails.

    They are looked up if the caller does not know them. Returns whether it is ready. A step in
    doubt is resolved first.
    """
    executions = WorkflowExecutionRecord.objects.using(using)
    left = (
        persist_for(record, using, lambda: open_sagas(executions, record))
        if sagas is None
        else sagas
    )
    ending = ending_of(record.ending)
    in_doubt = any(isinstance(one, StepInDoubt) for one in parts(error))
    if left and ending is None and not in_doubt:
        cause = Ending(WorkflowState.FAILED, error_text(error), traceback_text(error))
        logger.error(
            "Workflow %s (%s) failed, and undoes what it did",
            record.workflow_id, record.execution_id, exc_info=error,
        )  # fmt: skip
        return persist_for(record, using, lambda: undo_instead(executions, record, cause))
    if ending is not None and not in_doubt and not isinstance(error, CompensationIncomplete):
        if not left:
            _notify_if(end_now(record, using, ending), record, using)
            return False
        names = persist_for(record, using, lambda: left_undone(executions, record)) or left
        incomplete = CompensationIncomplete(names, ending.error)
        incomplete.__cause__, error = error, incomplete
    why, trace = error_text(error), traceback_text(error)
    end = partial(
        end_failed,
        executions,
        record,
        error=why,
        traceback=trace,
        failed_attempts=failed_attempts,
    )
    if persist_for(record, using, end):
        logger.error(
            "Workflow %s (%s) failed", record.workflow_id, record.execution_id, exc_info=error
        )
        notify(WorkflowState.FAILED, record, using)
    return False


def _notify_if(state: WorkflowState | None, record: WorkflowExecutionRecord, using: str) -> None:
    if state is not None:
        notify(state, record, using)


def notify(state: WorkflowState, record: WorkflowExecutionRecord, using: str) -> None:
    rows = WorkflowExecutionRecord.objects
    notify_state(state, lambda: rows.using(using).get(pk=record.pk).snapshot())
