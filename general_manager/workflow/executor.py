"""Run one stored execution: claim it, call its handler, write what came of it."""

from contextlib import nullcontext, suppress
from datetime import timedelta
from random import uniform
from typing import Final, cast

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.aside import tell_state
from general_manager.workflow.connections import persist, unit_of_work
from general_manager.workflow.encoding import error_text, traceback_text
from general_manager.workflow.engine import WorkflowHandler, WorkflowState
from general_manager.workflow.exceptions import (
    ExecutionOverdue,
    HandlerNotImportableError,
    WorkerDied,
    ends_the_process,
)
from general_manager.workflow.handler_modules import resolve_handler
from general_manager.workflow.leases import can_renew, keeping
from general_manager.workflow.local_handlers import find_handler, forget_handler
from general_manager.workflow.messages import run_execution_soon
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.rules import next_attempt_in
from general_manager.workflow.run_store import DatabaseRunStore
from general_manager.workflow.runs import Interrupted, Run, Suspended
from general_manager.workflow.transactions import caller_savepoints

logger = get_logger(__name__)

MISSING_HANDLER_REST: Final = 15.0
"""Seconds, about, after which an execution is shown to another process because this one cannot
import its handler, as happens while a new release is rolled out."""

INTERRUPTED_REST: Final = timedelta(seconds=1)

MOST_INTERRUPTIONS: Final = 10
"""So often in a row, without a step done, the database may interrupt an execution; the next time it
counts as a failed attempt, so that what no database takes comes to an end."""

MISSING_HANDLER_RUNS: Final = 40
"""So often; then the handler is not coming, and the execution fails."""


def run(execution_id: str, using: str) -> bool:
    """Run the execution if it is runnable and nobody else has it; false if there was nothing.

    An exception of the handler is the execution's failure. Trouble around it, such as a database
    that is away, leaves the execution to another run, which is not charged with it; only if that
    cannot be written for `PATIENCE_SECONDS` either, to the end of its lease. So does what ends the
    process (`SystemExit`, `KeyboardInterrupt`), which goes on to end it. A process that cannot
    renew leases runs nothing.
    """
    if not can_renew():
        return False
    with unit_of_work():
        is_ready = _run(execution_id, using)
    if not is_ready:
        forget_handler(execution_id)
    if is_ready and get_workflow_settings().run_async:
        run_execution_soon(execution_id, using)
    elif is_ready:
        run(execution_id, using)
    return is_ready is not None


def _run(execution_id: str, using: str) -> bool | None:
    """Whether it is to be run once more; `None` if there was nothing to run."""
    settings = get_workflow_settings()
    lease = settings.execution_lease
    executions = WorkflowExecutionRecord.objects.using(using)
    record = executions.claim(execution_id, lease=lease)
    if record is None:
        return None
    if record.crashes >= settings.max_crashes:
        _fail(record, using, WorkerDied(f"Workflow {record.workflow_id}", record.crashes))
        return False
    with keeping(lambda: executions.renew(record, lease=lease), lease):
        try:
            return _run_claimed(record, using)
        except Exception as error:
            logger.exception("Execution %s was interrupted", execution_id)
            with suppress(Exception):
                _leave_interrupted(record, using, error)
    return False


def give_up(execution_id: str, using: str) -> None:
    """Take the execution from a run that takes longer than its workflow may: an attempt failed.

    The run itself cannot be stopped from here; whatever it still writes is refused.
    """
    executions = WorkflowExecutionRecord.objects.using(using)
    lease = get_workflow_settings().execution_lease
    record = executions.seize_overdue(execution_id, lease=lease)
    if record is not None and record.timeout is not None:
        _settle_failure(record, using, ExecutionOverdue(execution_id, record.timeout))


def _run_claimed(record: WorkflowExecutionRecord, using: str) -> bool:
    """Says whether it is to be run once more: what it was to wait for has come meanwhile."""
    executions = WorkflowExecutionRecord.objects.using(using)
    try:
        handler = _handler_of(record)
    except Exception as error:  # noqa: BLE001 - a module that is half deployed raises anything
        _leave_to_another(record, using, error)
        return False
    executions.found_handler(record)
    _tell(WorkflowState.RUNNING, record, using)
    store = DatabaseRunStore(record, using)
    run_ = Run(record.execution_id, store)
    # Inside a caller's transaction the handler's failure undoes its own writes, no more.
    savepoints = caller_savepoints()
    try:
        with savepoints or nullcontext():
            output = {} if handler is None else run_.call(handler, record.input_data)
    except BaseException as error:
        if ends_the_process(error):
            raise
        if savepoints is not None:
            store.write_back()
        _settle_failure(record, using, error, step=run_.where(error))
        return False
    stopped = run_.stopped
    state = None
    if isinstance(stopped, Interrupted):
        _leave_interrupted(record, using, stopped.error, store.uncalled)
    elif isinstance(stopped, Suspended):
        state = persist(using, lambda: executions.suspend(record, stopped))
        state = state or executions.state_after(record)
    elif stopped is None:
        is_done = persist(using, lambda: executions.complete(record, output))
        state = WorkflowState.COMPLETED if is_done else executions.state_after(record)
    if state is not None:
        _tell(state, record, using)
    return state is WorkflowState.PENDING


def _leave_interrupted(
    record: WorkflowExecutionRecord, using: str, error: BaseException, uncalled: str | None = None
) -> None:
    """To another run, soon; and for a bounded number of times, until a step is done.

    The step *uncalled* is not in doubt: this run knows that it was not called.
    """
    is_local = find_handler(record.execution_id) is not None  # no other run could go on
    if is_local or record.interruptions >= MOST_INTERRUPTIONS:
        _settle_failure(record, using, error)
        return
    logger.warning(
        "Execution %s was interrupted by the database; it goes on in %s",
        record.execution_id, INTERRUPTED_REST, exc_info=error,
    )  # fmt: skip
    executions = WorkflowExecutionRecord.objects.using(using)
    why = error_text(error)
    if persist(
        using, lambda: executions.leave_interrupted(record, INTERRUPTED_REST, why, uncalled)
    ):
        _tell(WorkflowState.PENDING, record, using)


def _handler_of(record: WorkflowExecutionRecord) -> WorkflowHandler | None:
    if record.handler_path is None:
        return None
    own = find_handler(record.execution_id)
    return own or cast(WorkflowHandler, resolve_handler(record.handler_path))


def _leave_to_another(record: WorkflowExecutionRecord, using: str, error: Exception) -> None:
    """As happens while a release is rolled out; for a bounded number of times."""
    if record.strays >= MISSING_HANDLER_RUNS:
        is_local = "<" in str(record.handler_path)  # a function inside a function, or a lambda
        _fail(record, using, _not_importable(record) if is_local else error)
        return
    logger.warning("%s; execution %s is left to another process", error, record.execution_id)
    rest = timedelta(seconds=MISSING_HANDLER_REST * uniform(0.5, 1.5))  # noqa: S311 - spread
    WorkflowExecutionRecord.objects.using(using).put_back(record, rest, error_text(error))


def _settle_failure(
    record: WorkflowExecutionRecord, using: str, error: BaseException, *, step: str = ""
) -> None:
    rest = persist(using, lambda: _rest_after(record, using, error))
    if rest is not None and find_handler(record.execution_id) is not None:
        rest, cause, error = None, error, _not_importable(record)
        error.__cause__ = cause
    if rest is None:
        _fail(record, using, error)
        return
    executions = WorkflowExecutionRecord.objects.using(using)
    delay, number = rest
    why = error_text(error)
    if persist(using, lambda: executions.postpone(record, delay, why, step=step, number=number)):
        logger.warning(
            "Workflow %s (%s) failed; the next attempt follows in %s",
            record.workflow_id, record.execution_id, delay, exc_info=error,
        )  # fmt: skip
        _tell(WorkflowState.PENDING, record, using)


def _not_importable(record: WorkflowExecutionRecord) -> Exception:
    return HandlerNotImportableError(record.workflow_id, str(record.handler_path))


def _rest_after(
    record: WorkflowExecutionRecord, using: str, error: BaseException
) -> tuple[timedelta, int] | None:
    """How long until the next attempt, and which one failed; `None` if there is no other."""
    if record.retry is None:
        return None
    attempts = WorkflowExecutionRecord.objects.using(using).attempts_of(record) + 1
    delay = next_attempt_in(record.retry, attempts, error)
    return None if delay is None else (delay, attempts)


def _fail(record: WorkflowExecutionRecord, using: str, error: BaseException) -> None:
    held = WorkflowExecutionRecord.objects.using(using).held(record)
    why, trace = error_text(error), traceback_text(error)
    failed = WorkflowState.FAILED
    if persist(using, lambda: held.end(failed, error=why, traceback=trace)):
        logger.error(
            "Workflow %s (%s) failed", record.workflow_id, record.execution_id, exc_info=error
        )
        _tell(WorkflowState.FAILED, record, using)


def _tell(state: WorkflowState, record: WorkflowExecutionRecord, using: str) -> None:
    executions = WorkflowExecutionRecord.objects.using(using)
    tell_state(state, lambda: executions.get(pk=record.pk).snapshot())
