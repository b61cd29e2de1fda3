"""What an operator may do to stored executions besides the four verbs of every engine.

Each rule is asked here once: by the verb, under the row's lock, and by the pages beforehand.
"""

from collections.abc import Collection, Mapping

from django.db import transaction

from general_manager.workflow.checkpoints import (
    CONTINUABLE,
    NEVER_RAN,
    NotContinuableError,
    Plan,
    Resolutions,
    RetryPreview,
    forgotten_in_words,
    fresh_metadata,
    key_is_taken,
    plan_or_refuse,
    preview,
    verdict_on,
    wait_snapshot,
    was_continued,
    why_not_woken,
)
from general_manager.workflow.engine import (
    ACTIVE_STATES,
    HistoryKind,
    WorkflowState,
    WorkflowWaitMismatchError,
)
from general_manager.workflow.events import subject_of
from general_manager.workflow.exceptions import WorkflowCancelledError, WorkflowInvalidStateError
from general_manager.workflow.ids import new_id
from general_manager.workflow.models import (
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowStep,
)
from general_manager.workflow.models.execution import ExecutionQuerySet
from general_manager.workflow.models.execution_values import dedup_key
from general_manager.workflow.redaction import redact
from general_manager.workflow.rules import refusal
from general_manager.workflow.steps import StepRecord, StepStatus, WaitSnapshot

CARRIED = ("workflow_id", "version", "handler_path", "input_data", "retry", "timeout")
"""What a fresh execution takes over from the one that it continues."""


def continue_as_fresh(
    executions: ExecutionQuerySet,
    execution_id: str,
    resolved: Resolutions,
    *,
    before: str | None = None,
    repeat_once: bool = False,
) -> WorkflowExecutionRecord:
    """A fresh execution with the finished steps of one that failed or was cancelled.

    *resolved* maps the names of `once=True` steps to ``(happened, result)``. *before* forgets that
    name and what ended after it. Raises `WorkflowInvalidStateError` if the execution cannot be
    continued, see `why_not_continued`; if another step is in doubt; and if a `once=True` step would
    run again, unless *repeat_once*.
    """
    with transaction.atomic(using=executions.db):
        old = executions.select_for_update().by_id(execution_id)
        refusal = why_not_continued(executions, [old]).get(old.pk, "")
        if refusal or old.state not in CONTINUABLE:
            raise _refusal(old, refusal)
        rows = WorkflowStep.objects.using(executions.db)
        found = list(rows.filter(execution=old).order_by("pk"))
        try:
            records = [row.as_record() for row in found]
            plan = plan_or_refuse(records, resolved, before, repeat_once=repeat_once)
        except NotContinuableError as error:
            raise _refusal(old, str(error)) from None
        new = _fresh(executions, old, plan)
        kept = _kept_rows(found, plan)
        for row in kept:
            row.pk, row.execution = None, new
        rows.bulk_create(kept)
        _write_down(executions.db, old, new, plan, resolved)
        return new


def _fresh(
    executions: ExecutionQuerySet, old: WorkflowExecutionRecord, plan: Plan
) -> WorkflowExecutionRecord:
    key = new_id()
    known = executions.start_once(
        **{name: getattr(old, name) for name in CARRIED},
        execution_id=key,
        metadata=fresh_metadata(old.metadata, old.execution_id, plan),
        correlation_id=old.correlation_id,
        dedup_key=dedup_key(old.workflow_id, old.correlation_id),
        caused_by=old.caused_by,
        state=WorkflowState.PENDING,
    )
    if known is not None:  # started since it was asked for
        raise _refusal(old, key_is_taken(known.execution_id, known.state))
    new = executions.by_id(key)
    # Not its first run: there are steps to read.
    executions.filter(pk=new.pk).update(runs=old.runs)
    return new


def _kept_rows(rows: Collection[WorkflowStep], plan: Plan) -> list[WorkflowStep]:
    """In the order in which they were made."""
    kept = {step.name: step for step in plan.kept}
    for row in rows:
        if row.name in kept:
            row.status, row.result = kept[row.name].status, kept[row.name].result
    return [row for row in rows if row.name in kept]


def _write_down(
    using: str,
    old: WorkflowExecutionRecord,
    new: WorkflowExecutionRecord,
    plan: Plan,
    resolved: Resolutions,
) -> None:
    history = WorkflowHistory.objects.using(using)
    history.note(HistoryKind.CONTINUED, execution=old, detail=new.execution_id)
    history.note(HistoryKind.CONTINUES, execution=new, detail=old.execution_id)
    forgotten = forgotten_in_words(plan)
    if forgotten:
        history.note(HistoryKind.FORGOTTEN, execution=new, detail=forgotten)
    for name in resolved:
        detail = verdict_on(name, resolved)
        history.note(HistoryKind.RESOLVED, execution=new, detail=detail, step=name)


def why_not_continued(
    executions: ExecutionQuerySet, records: Collection[WorkflowExecutionRecord]
) -> Mapping[int, str]:
    """Why these cannot be continued, apart from their steps; two statements for all of them."""
    over = [one for one in records if one.state in CONTINUABLE]
    if not over:
        return {one.pk: f"It is {one.state}." for one in records}
    history = WorkflowHistory.objects.using(executions.db)
    continued = history.filter(kind=HistoryKind.CONTINUED, execution__in=[one.pk for one in over])
    successors = dict(continued.values_list("execution_id", "detail"))
    keys = {one.pk: dedup_key(one.workflow_id, one.correlation_id) for one in over}
    holders = executions.filter(dedup_key__in={key for key in keys.values() if key is not None})
    taken = {one.dedup_key: one for one in holders.only("dedup_key", "execution_id", "state")}
    found: dict[int, str] = {}
    for one in records:
        holder = taken.get(keys.get(one.pk))
        if one.state not in CONTINUABLE:
            found[one.pk] = f"It is {one.state}."
        elif one.handler_path is None:
            found[one.pk] = NEVER_RAN
        elif one.pk in successors:
            found[one.pk] = was_continued(successors[one.pk])
        elif holder is not None:
            found[one.pk] = key_is_taken(holder.execution_id, holder.state)
    return found


def once_steps(
    executions: ExecutionQuerySet,
    records: Collection[WorkflowExecutionRecord],
    status: StepStatus,
) -> dict[int, list[str]]:
    """The names of `once=True` steps with this status, by execution; one statement.

    Only of what could be continued: there, those that have only begun are in doubt.
    """
    rows = WorkflowStep.objects.using(executions.db).filter(status=status, once=True)
    found: dict[int, list[str]] = {}
    over = [one.pk for one in records if one.state in CONTINUABLE]
    mine = rows.filter(execution__in=over).order_by("pk")
    for key, name in mine.values_list("execution_id", "name"):
        found.setdefault(key, []).append(name)
    return found


def preview_retry(
    executions: ExecutionQuerySet, execution_id: str, before: str | None, *, repeat_once: bool
) -> RetryPreview:
    old = executions.by_id(execution_id)
    return preview(
        execution_id,
        steps_of(executions, old),
        before,
        repeat_once=repeat_once,
        refusal=why_not_continued(executions, [old]).get(old.pk, ""),
    )


def steps_of(executions: ExecutionQuerySet, record: WorkflowExecutionRecord) -> list[StepRecord]:
    rows = WorkflowStep.objects.using(executions.db).filter(execution=record).order_by("pk")
    return [row.as_record() for row in rows]


def _refusal(old: WorkflowExecutionRecord, detail: str) -> WorkflowInvalidStateError:
    if old.state not in CONTINUABLE:
        detail = ""
    return refusal(old.execution_id, "continue", old.state, CONTINUABLE, detail)


def wake_early(executions: ExecutionQuerySet, execution_id: str) -> WorkflowExecutionRecord:
    """End the rest or the sleep of an execution now.

    Raises `WorkflowInvalidStateError` for one that does neither, or that waits for an answer.
    """
    with transaction.atomic(using=executions.db):
        record = executions.select_for_update().by_id(execution_id)
        detail = why_not_woken(record.state, record.waiting_for, rests=not record.ready)
        if detail:
            resting = (WorkflowState.PENDING, WorkflowState.WAITING)
            raise refusal(execution_id, "wake", record.state, resting, detail)
        executions.wake_now(record)
        return record


def time_out_early(
    executions: ExecutionQuerySet, execution_id: str, wait: str | None
) -> tuple[WorkflowExecutionRecord, bool]:
    """Time the open wait out now; also says whether the execution is ready because of that."""
    with transaction.atomic(using=executions.db):
        record = executions.select_for_update().by_id(execution_id)
        name = record.waiting_for
        is_waiting = record.state == WorkflowState.WAITING
        if name is None or record.state not in ACTIVE_STATES:
            kind = WorkflowInvalidStateError
            if record.state == WorkflowState.CANCELLED:
                kind = WorkflowCancelledError
            detail = "It is sleeping; no wait is open." if is_waiting else "No wait is open."
            allowed = (WorkflowState.WAITING,)
            raise kind(execution_id, "time out", record.state, allowed, detail)
        if wait is not None and wait != name:
            raise WorkflowWaitMismatchError(
                execution_id, "time out", record.state, (record.state,),
                f"It waits for {name!r}, not for {wait!r}.",
            )  # fmt: skip
        if not WorkflowStep.objects.using(executions.db).time_out_now(record, name):
            raise WorkflowInvalidStateError(
                execution_id, "time out", record.state, (record.state,),
                f"The wait for {name!r} has ended.",
            )  # fmt: skip
        executions.wait_ended(record, HistoryKind.WAIT_ENDED)
        return record, is_waiting


def find_wait(executions: ExecutionQuerySet, execution_id: str, name: str) -> WaitSnapshot | None:
    """One wait as it stands; `None` if the execution has not come to it, or never will."""
    record = executions.by_id(execution_id)
    row = WorkflowStep.objects.using(executions.db).filter(execution=record, name=name).first()
    if row is None or not row.answerable:
        return None
    step = row.as_record()
    is_active = record.state in ACTIVE_STATES
    return wait_snapshot(
        step,
        is_asked=is_active and record.waiting_for == name,
        subject=_subject(executions.db, record),
    )


def _subject(using: str, record: WorkflowExecutionRecord) -> str:
    if record.caused_by is None:
        return ""
    events = WorkflowEventRecord.objects.using(using).filter(event_id=record.caused_by)
    payload = events.values_list("payload", flat=True).first()
    return (subject_of(redact(payload)) or "") if isinstance(payload, dict) else ""
