"""Repairs of stored executions by operators: continue, wake, time out.

Each rule is here once: the verb checks it under the row's lock, the admin pages beforehand.
"""

from collections.abc import Callable, Collection, Mapping

from django.db import transaction
from django.db.models import F

from general_manager.workflow.core.ids import new_id
from general_manager.workflow.core.redaction import redact
from general_manager.workflow.durable.continuation import (
    CONTINUABLE,
    NEVER_RAN,
    NotContinuableError,
    Plan,
    Resolutions,
    RetryPreview,
    forgotten_in_words,
    fresh_ending,
    fresh_metadata,
    plan_or_refuse,
    preview,
)
from general_manager.workflow.durable.ending import ending_of
from general_manager.workflow.durable.forgetting import (
    key_is_taken,
    resolution_in_words,
    was_continued,
)
from general_manager.workflow.durable.records import (
    StepStatus,
    WaitSnapshot,
    wait_snapshot,
)
from general_manager.workflow.engine import (
    ACTIVE_STATES,
    WorkflowState,
)
from general_manager.workflow.events import subject_of
from general_manager.workflow.executions.children.counting import children_of
from general_manager.workflow.executions.rules import (
    open_wait,
    refuse_to_continue,
    refuse_to_wake,
    too_late,
    why_not_woken,
)
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models import (
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowSignal,
    WorkflowStep,
    WorkflowTakenEvent,
)
from general_manager.workflow.models.children.keeping import keep_children
from general_manager.workflow.models.execution import Executions
from general_manager.workflow.models.executions.ending import request_end
from general_manager.workflow.models.executions.looks import settle
from general_manager.workflow.models.executions.renewal import FAMILY
from general_manager.workflow.models.executions.taking import chain_of, chain_values
from general_manager.workflow.models.executions.values import dedup_key

CARRIED = (
    "workflow_id", "version", "handler_path", "input_data", "retry", "timeout", "lifetime", "queue",
    "priority", "subject", "attributes", "slot_key", "rate_per", "limits",
)  # fmt: skip
"""Columns that a fresh execution copies from the one that it continues."""


def continue_as_fresh(
    executions: Executions,
    execution_id: str,
    resolved: Resolutions,
    *,
    before: str | None = None,
    repeat_once: bool = False,
) -> WorkflowExecutionRecord:
    """A fresh execution with the finished steps of one that failed or was cancelled.

    *resolved* maps the names of `once=True` steps to ``(happened, result)``. *before* names a step
    that is forgotten, with everything that ended after it.

    Raises `WorkflowInvalidStateError` if the execution cannot be continued, see
    `why_not_continued`; if another step is in doubt; and if a `once=True` step would run again,
    unless *repeat_once*.
    """
    with transaction.atomic(using=executions.db):
        old = executions.select_for_update().by_id(execution_id)
        why = why_not_continued(executions, [old]).get(old.pk, "")
        if why or old.state not in CONTINUABLE:
            raise refuse_to_continue(execution_id, old.state, why)
        rows = WorkflowStep.objects.using(executions.db)
        found = list(rows.filter(execution=old).order_by("pk"))
        try:
            records = [row.as_record() for row in found]
            plan = plan_or_refuse(records, resolved, before, repeat_once=repeat_once)
        except NotContinuableError as error:
            raise refuse_to_continue(execution_id, old.state, str(error)) from None
        new = _fresh(executions, old, plan)
        kept = _kept_rows(found, plan)
        for row in kept:
            row.pk, row.execution = None, new
        rows.bulk_create(kept)
        _note(executions.db, old, new, plan, resolved)
        return new


def _fresh(
    executions: Executions, old: WorkflowExecutionRecord, plan: Plan
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
    if known is not None:  # another was started meanwhile
        why = key_is_taken(known.execution_id, known.state)
        raise refuse_to_continue(old.execution_id, old.state, why)
    new = executions.by_id(key)
    chain, signals = chain_of(old), WorkflowSignal.objects.using(executions.db)
    signals.give_back(plan.returned)
    signals.withdraw(plan.withdrawn)
    taken = WorkflowTakenEvent.objects.using(executions.db)
    taken.give_back(chain, plan.events(is_own=False))
    taken.withdraw(chain, plan.events(is_own=True))
    # Not the first run, so that the run reads the copied steps.
    executions.filter(pk=new.pk).update(
        **chain_values(old), runs=old.runs, has_signals=signals.kept(chain).exists(),
        has_children=keep_children(executions.db, old, new, plan),
        **{name: getattr(old, name) for name in FAMILY},
    )  # fmt: skip
    ending = fresh_ending(ending_of(old.ending), old.state, plan)
    if ending is not None:
        request_end(executions, new, ending)
    return new


def _kept_rows(rows: Collection[WorkflowStep], plan: Plan) -> list[WorkflowStep]:
    """The rows to copy, in the order of their creation."""
    kept = {step.name: step for step in plan.kept}
    for row in rows:
        if row.name in kept:
            one = kept[row.name]
            row.status, row.result, row.failure = one.status, one.result, one.failure
    return [row for row in rows if row.name in kept]


def _note(
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
    for kind, names in plan.notes.items():
        history.note(kind, execution=new, detail=names)
    for name in resolved:
        detail = resolution_in_words(name, resolved)
        history.note(HistoryKind.RESOLVED, execution=new, detail=detail, step=name)


def why_not_continued(
    executions: Executions, records: Collection[WorkflowExecutionRecord]
) -> Mapping[int, str]:
    """Why each of *records* cannot be continued, apart from its steps; two statements for all."""
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
    executions: Executions,
    records: Collection[WorkflowExecutionRecord],
    status: StepStatus,
) -> dict[int, list[str]]:
    """The names of `once=True` steps with this status, by execution; one statement.

    Only of executions that can be continued: there, steps that only started are in doubt.
    """
    rows = WorkflowStep.objects.using(executions.db).filter(status=status, once=True)
    found: dict[int, list[str]] = {}
    over = [one.pk for one in records if one.state in CONTINUABLE]
    mine = rows.filter(execution__in=over).order_by("pk")
    for key, name in mine.values_list("execution_id", "name"):
        found.setdefault(key, []).append(name)
    return found


def preview_retry(
    executions: Executions, execution_id: str, before: str | None, *, repeat_once: bool
) -> RetryPreview:
    old = executions.by_id(execution_id)
    steps = WorkflowStep.objects.using(executions.db).filter(execution=old).order_by("pk")
    undos = dict(steps.filter(saga=F("name")).values_list("pk", "result"))
    found = list(steps.defer("result"))
    for row in found:
        row.result = undos.get(row.pk)  # those of the steps themselves may be large
    return preview(
        execution_id,
        [row.as_record() for row in found],
        before,
        repeat_once=repeat_once,
        refusal=why_not_continued(executions, [old]).get(old.pk, ""),
    )


def wake(executions: Executions, execution_id: str) -> WorkflowExecutionRecord:
    """End an execution's sleep, or its delay before the next attempt, now.

    Raises `WorkflowInvalidStateError` if it is neither sleeping nor delayed.
    """
    with transaction.atomic(using=executions.db):
        record = executions.select_for_update().by_id(execution_id)
        is_delayed = not record.ready and not record.is_held
        children = children_of(executions, record) is not None
        about = {"is_delayed": is_delayed, "children": children}
        detail = why_not_woken(record.state, record.waiting_for, **about)
        if detail:
            raise refuse_to_wake(execution_id, record.state, detail)
        executions.wake_now(record)
        return record


def time_out(
    executions: Executions,
    execution_id: str,
    wait: str | None,
    run_soon: Callable[[str, str, str | None], object],
) -> tuple[WorkflowExecutionRecord, bool]:
    """Time the open wait out now; also returns whether that made the execution ready."""
    with transaction.atomic(using=executions.db):
        record = executions.select_for_update().by_id(execution_id)
        name = open_wait(execution_id, "time out", record.state, record.waiting_for, wait)
        is_answered = settle(executions, record)  # until the timeout is written, a signal wins
        if not is_answered:
            timing_out = WorkflowStep.objects.using(executions.db).timing_out_now(record, name)
            if not executions.wait_ended(record, HistoryKind.WAIT_ENDED, timing_out):
                raise too_late(execution_id, "time out", record.state, name)
    if is_answered:
        run_soon(record.execution_id, record.queue, record.slot_key)
        raise too_late(execution_id, "time out", record.state, name)
    return record, record.state == WorkflowState.WAITING


def find_wait(executions: Executions, execution_id: str, name: str) -> WaitSnapshot | None:
    """The wait *name* as it is now; `None` if the execution has not reached it."""
    record = executions.by_id(execution_id)
    row = WorkflowStep.objects.using(executions.db).filter(execution=record, name=name).first()
    if row is None or not row.answerable:
        return None
    step = row.as_record()
    is_active = record.state in ACTIVE_STATES
    return wait_snapshot(
        step,
        execution_id=record.execution_id,
        is_asked=is_active and record.waiting_for == name,
        subject=record.subject or _subject(executions.db, record),
    )


def _subject(using: str, record: WorkflowExecutionRecord) -> str:
    if record.caused_by is None:
        return ""
    events = WorkflowEventRecord.objects.using(using).filter(event_id=record.caused_by)
    payload = events.values_list("payload", flat=True).first()
    return (subject_of(redact(payload)) or "") if isinstance(payload, dict) else ""
