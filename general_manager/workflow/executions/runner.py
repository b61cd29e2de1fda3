"""Run one stored execution: claim it, call its handler, record the outcome."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Final, TypeAlias, cast

from django.db import DatabaseError

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.admission.lines import look_soon
from general_manager.workflow.core.connections import unit_of_work
from general_manager.workflow.core.encoding import error_text
from general_manager.workflow.core.isolation import RunSavepoints, isolated
from general_manager.workflow.core.leases import can_renew, renewing
from general_manager.workflow.core.local_handlers import find_handler, forget_handler
from general_manager.workflow.core.spreading import spread
from general_manager.workflow.durable.renewal import ContinuedAsNew
from general_manager.workflow.durable.run import Run
from general_manager.workflow.durable.stops import (
    Interrupted,
    Retrying,
)
from general_manager.workflow.engine import WorkflowHandler, WorkflowState
from general_manager.workflow.exceptions import (
    ExecutionOverdue,
    WorkerDied,
    ends_the_process,
)
from general_manager.workflow.executions.children.afterwards import attend_to, run_later
from general_manager.workflow.executions.children.attending import Runnable
from general_manager.workflow.executions.handler_modules import not_importable, resolve_handler
from general_manager.workflow.executions.renewal import renew
from general_manager.workflow.executions.runs.outcomes import settle
from general_manager.workflow.executions.settling import (
    fail,
    leave_if_possible,
    notify,
    settle_failure,
    to_end_soon,
)
from general_manager.workflow.executions.store import DatabaseRunStore
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.execution import Executions
from general_manager.workflow.models.executions.claims import begin
from general_manager.workflow.models.executions.lines import free_slot, join_line
from general_manager.workflow.transport.nudges import nudge

logger = get_logger(__name__)

Keys: TypeAlias = deque[int] | list[int]
"""Keys of executions that have ended."""

MISSING_HANDLER_DELAY: Final = 15.0
"""Seconds, roughly, until another process may try an execution whose handler this one cannot
import, for example during a rolling release."""

MISSING_HANDLER_RUNS: Final = 40
"""Claims without the handler after which the execution fails: no process has it."""


def run(execution_id: str, using: str) -> bool:
    """Run the execution if it is runnable and not claimed; false if there was nothing to run.

    For callers that have an id; workers take due executions, see `run_taken`.

    An exception of the handler is the execution's failure. An error outside the handler, such as
    an unreachable database, is not: the execution runs again soon. If even that cannot be recorded
    within `PERSIST_SECONDS`, or if the process is ended (`SystemExit`, `KeyboardInterrupt`), the
    execution is recovered when its lease expires. A process that cannot renew leases runs nothing.
    """
    lease = get_workflow_settings().execution_lease
    claim = partial(WorkflowExecutionRecord.objects.using(using).claim, lease=lease)
    has_run, following = False, execution_id
    while following:
        current = following
        record, following = _run_once(using, partial(claim, current))
        if record is None and _joins_line(current, using):
            record, following = _run_once(using, partial(claim, current))
        has_run = has_run or record is not None
        if following != current:
            forget_handler(current)
        if record is not None and following and get_workflow_settings().run_async:
            nudge(using, record.queue)
            break
    return has_run


def run_taken(key: int, token: str, using: str, ended: Keys | None = None) -> bool:
    """Run an execution that this worker has taken with *token*, like `run`.

    Its end is attended to at once, or later by the caller, who finds its key in *ended*.
    """
    lease = get_workflow_settings().execution_lease
    executions = WorkflowExecutionRecord.objects.using(using)
    take = partial(begin, executions, key, token, lease=lease)
    return _finish_run(*_run_once(using, take, ended), using) is not None


def _finish_run(
    record: WorkflowExecutionRecord | None, following: str, using: str
) -> WorkflowExecutionRecord | None:
    if record is not None and following:
        nudge(using, record.queue)
    if record is not None and following != record.execution_id:
        forget_handler(record.execution_id)
    return record


def run_begun(record: WorkflowExecutionRecord, using: str, ended: Keys | None = None) -> None:
    """Run an execution that its batch has begun, like `run_taken`."""
    if _finish_run(*_run_once(using, lambda: record, ended), using) is None:
        record.batch.give_back(record)  # this process cannot renew its lease


def run_here(execution_id: str, using: str) -> None:
    """`run`, in this process, but not as a part of a run that is in progress in this thread."""
    with isolated(atomic=False):
        run(execution_id, using)


def _run_once(
    using: str,
    claim: Callable[[], WorkflowExecutionRecord | None],
    ended: Keys | None = None,
) -> tuple[WorkflowExecutionRecord | None, str]:
    """What it has run, if anything, and the execution to run next; empty for none."""
    if not can_renew():
        return None, ""
    children: list[Runnable] = []
    with unit_of_work():
        record = claim()
        following = "" if record is None else _run_record(record, using, children)
    if record is not None and record.slot_key is not None:
        with suppress(DatabaseError):  # the sweep looks
            free_slot(WorkflowExecutionRecord.objects.using(using), record)
            look_soon(using, record.slot_key, run_here)
    for child in children:
        run_later(*child, using, run_here)
    if record is not None and record.leaves_duty:
        if ended is None:
            attend_to([record.pk], using, run_here)
        else:
            ended.append(record.pk)
    return record, following


def _joins_line(execution_id: str, using: str) -> bool:
    """Whether the execution needs a slot of its limit first; then it is in line, or parked."""
    key = join_line(WorkflowExecutionRecord.objects.using(using), execution_id)
    if key is not None:
        look_soon(using, key, run_here)
    return key is not None


def _run_record(record: WorkflowExecutionRecord, using: str, children: list[Runnable]) -> str:
    """The execution that must run next: this one once more, or the one as which it continued.

    *children* gets the ids and queues of those that may run here afterwards.
    """
    settings = get_workflow_settings()
    lease = settings.execution_lease
    executions = WorkflowExecutionRecord.objects.using(using)
    if record.crashes >= settings.max_crashes:
        died = WorkerDied(f"Workflow {record.workflow_id}", record.crashes)
        return record.execution_id if fail(record, using, died) else ""
    with renewing(lambda: executions.renew(record, lease=lease), lease):
        try:
            return _run_claimed(record, executions, children)
        except Interrupted as stopped:  # nothing may be built on a step that is gone
            is_ready = leave_if_possible(record, using, stopped.error)
        except Exception as error:
            logger.exception("Execution %s was interrupted", record.execution_id)
            is_ready = leave_if_possible(record, using, error)
    return _once_more(record, is_ready=is_ready)


def give_up(execution_id: str, using: str) -> None:
    """Take the execution from an overdue run, which counts as a failed attempt.

    The run itself cannot be stopped from here, but its further writes are refused. The sweep then
    runs what is ready.
    """
    executions = WorkflowExecutionRecord.objects.using(using)
    lease = get_workflow_settings().execution_lease
    record = executions.seize_overdue(execution_id, lease=lease)
    if record is not None and record.timeout is not None:
        settle_failure(record, using, ExecutionOverdue(execution_id, record.timeout))
    if record is None:
        return
    if record.slot_key is not None:
        look_soon(using, record.slot_key, run_here)
    if record.leaves_duty:
        attend_to([record.pk], using, run_here)


def _run_claimed(
    record: WorkflowExecutionRecord, executions: Executions, children: list[Runnable]
) -> str:
    """Returns the execution to run next, or empty: this one, if its answer has come meanwhile or it
    is to undo; or the one as which it continued.
    """
    using = executions.db
    try:
        handler = _handler_of(record)
    except Exception as error:  # noqa: BLE001 - a module that is half deployed raises anything
        return _once_more(record, is_ready=_leave_to_another_worker(record, using, error))
    executions.found_handler(record)
    notify(WorkflowState.RUNNING, record, using)
    store = DatabaseRunStore(record, using)
    store.to_run = children
    run_ = Run(record.execution_id, store)
    # Inside a caller's transaction the handler's failure undoes its own writes, no more.
    savepoints = RunSavepoints()
    try:
        with savepoints:
            output = {} if handler is None else run_.call(handler, record.input_data)
    except BaseException as error:
        if ends_the_process(error):
            raise
        if savepoints.is_undone:
            store.write_back()
        if isinstance(error, Interrupted):
            raise
        outcomes = run_.outcomes
        is_ready = settle_failure(
            record,
            using,
            outcomes.origin(error),
            step=outcomes.where(error),
            is_final=outcomes.is_final(error),
            sagas=run_.sagas.open_names,
        )
        return _once_more(record, is_ready=is_ready)
    stopped = run_.stopped
    if isinstance(stopped, ContinuedAsNew):
        following = renew(record, using, stopped.input_data, run_.closings)
        return following or _once_more(record, is_ready=to_end_soon(record, using) is not None)
    state = settle(record, executions, run_, store, output)
    if state is not None:
        notify(state, record, using)
    is_ready = state is WorkflowState.PENDING and not isinstance(stopped, Retrying)
    return _once_more(record, is_ready=is_ready)


def _once_more(record: WorkflowExecutionRecord, *, is_ready: bool) -> str:
    return record.execution_id if is_ready else ""


def _handler_of(record: WorkflowExecutionRecord) -> WorkflowHandler | None:
    if record.handler_path is None:
        return None
    own = find_handler(record.execution_id)
    return own or cast(WorkflowHandler, resolve_handler(record.handler_path))


def _leave_to_another_worker(record: WorkflowExecutionRecord, using: str, error: Exception) -> bool:
    """For example during a rolling release; at most `MISSING_HANDLER_RUNS` times."""
    if record.missing_handler_runs >= MISSING_HANDLER_RUNS:
        path = str(record.handler_path)
        is_local = "<" in path  # a function inside a function, or a lambda
        return fail(record, using, not_importable(record.workflow_id, path) if is_local else error)
    logger.warning("%s; leaving execution %s to another worker", error, record.execution_id)
    delay = timedelta(seconds=spread(MISSING_HANDLER_DELAY, 0.5, 1.5))
    WorkflowExecutionRecord.objects.using(using).put_back(record, delay, error_text(error))
    return False
