"""The look: what children have come to is copied into slots, and what follows from it.

A look is a transaction of its own, after the commit in which a child ended. It locks the one
execution that waits, then reads the children in new statements, so the two last children cannot
miss each other. It may be repeated at any time. What it finds to release and to stop is done after
its commit, each child in a transaction of its own, and is found again by every later look.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from django.db import transaction
from django.db.models import Exists, OuterRef, Subquery, Value
from django.db.models.functions import Coalesce

from general_manager.workflow.durable.children.specs import RAISE, stored_failure
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.children.starting import released
from general_manager.workflow.models.children.states import (
    GONE,
    IS_HELD,
    ChildState,
    in_chunks,
    newest_of,
)
from general_manager.workflow.models.children.table import SlotQuerySet, WorkflowChildSlot
from general_manager.workflow.models.execution import Executions, WorkflowExecutionRecord
from general_manager.workflow.models.executions.values import due_now, is_overdue, ready_now
from general_manager.workflow.models.sql.columns import DatabaseNow, Utf8TextField

STOPS_AT_ONCE: Final = 200
"""Children that are stopped after one look; their ends cause the next looks."""
DELETED: Final = "Its row was deleted."


class Found(NamedTuple):
    """What follows from a look."""

    ready: WorkflowExecutionRecord | None = None
    """The execution that waited, if it may run now."""
    release: Sequence[str] = ()
    """Ids of held children that may run now."""
    stop: Sequence[str] = ()
    """Chains of children to cancel."""


def look(
    executions: Executions,
    key: int,
    gather: str,
    ended: Collection[str] | None = None,
    *,
    may_time_out: bool = False,
) -> Found:
    """Look at the children of *gather*: at those with the chains *ended*, or at all.

    With *may_time_out* the gather times out if it is due and children are left.
    """
    slots = WorkflowChildSlot.objects.using(executions.db).of(key, gather)
    with transaction.atomic(using=executions.db):
        parent = executions.select_for_update().filter(pk=key).first()
        if parent is None:
            return Found()
        is_bad = _copy_outcomes(executions, slots, ended)
        steps = parent.steps.using(executions.db).filter(name=gather)
        step = steps.filter(status=StepStatus.GATHERING).first()
        if step is None or parent.state not in ACTIVE_STATES:
            return Found(stop=_to_stop(executions, slots))
        plan: dict[str, Any] = step.result or {}
        if (is_bad or ended is None) and plan["on_failure"] == RAISE and not plan.get("fails"):
            if ended is None:
                is_bad = slots.exclude(outcome=None).exclude(outcome="completed").exists()
            if is_bad:
                plan = {**plan, "fails": True}
                steps.update(result=plan)
        if not _waited_for(slots, plan).exists():
            return Found(_settle(executions, parent, step, plan, slots))
        if may_time_out and steps.filter(until__lte=DatabaseNow()).exists():
            slots.stop()
            _end(executions, parent, steps, StepStatus.TIMED_OUT, HistoryKind.WAIT_TIMED_OUT)
            return Found(stop=_to_stop(executions, slots))
        if _ends_early(slots, plan):
            return Found(stop=_to_stop(executions, slots))
        return Found(release=_to_release(executions, slots, plan["at_once"]))


def _waited_for(slots: SlotQuerySet, plan: Mapping[str, Any]) -> SlotQuerySet:
    """A parent that is to end waits for the children that it stops, and for no others."""
    return slots.open().filter(is_stopped=True) if plan.get("closes") else slots.open()


def _ends_early(slots: SlotQuerySet, plan: Mapping[str, Any]) -> bool:
    """Whether no held child starts any more. `close` has marked what is to be stopped."""
    if plan.get("fails"):
        slots.stop()
    return bool(plan.get("fails") or plan.get("closes"))


def close(executions: Executions, record: Any, gather: str, **opening: Any) -> bool:
    """Have the gather end as closed once the children that it stops are over; false without any.

    Those that it has joined, and those with ``abandon=True``, go on.
    *opening* are the values of its row, if the run that began it did not come so far.
    """
    slots = WorkflowChildSlot.objects.using(executions.db).of(record.pk, gather)
    with transaction.atomic(using=executions.db):
        parent = executions.held(record).select_for_update().first()
        steps = record.steps.using(executions.db).filter(name=gather)
        step = steps.first()
        if parent is None or (step is None and not slots.exists()):
            return False
        if step is None:
            step = steps.create(execution=parent, name=gather, **opening)
        _close(slots, steps, step)
        return True


def close_open(executions: Executions, record: Any) -> None:
    """`close` each open gather of an execution that is at rest and is to end.

    The caller locks its row. A run would close them, but what stops the children need not wait.
    """
    steps = record.steps.using(executions.db)
    for step in steps.filter(status=StepStatus.GATHERING):
        slots = WorkflowChildSlot.objects.using(executions.db).of(record.pk, step.name)
        _close(slots, steps.filter(pk=step.pk), step)


def _close(slots: SlotQuerySet, steps: Any, step: Any) -> None:
    if step.status == StepStatus.GATHERING:
        steps.update(result={**step.result, "closes": True})
        slots.stop()


def release(executions: Executions, execution_id: str) -> tuple[str, str | None] | None:
    """Held to ready; returns its queue and its limit's key, or `None` if it is held no longer."""
    mine = executions.filter(IS_HELD, execution_id=execution_id)
    found = mine.values_list("queue", "slot_key", "priority").first()
    if found is None:
        return None
    queue, slot_key, priority = found
    return (queue, slot_key) if mine.update(**released(priority)) else None


def _copy_outcomes(
    executions: Executions, slots: SlotQuerySet, ended: Collection[str] | None
) -> bool:
    """Copy the outcomes of children that are over; returns whether one did not complete."""
    left = slots.open() if ended is None else slots.open().naming(ended)
    is_bad = False
    for chains in in_chunks(sorted(set(left.values_list("child", flat=True)))):
        over = {
            chain: newest
            for chain, newest in newest_of(executions, chains).items()
            if newest.is_over
        }
        is_bad = is_bad or any(one.state != WorkflowState.COMPLETED for one in over.values())
        _copy(executions, slots, over)
    return is_bad


def _copy(executions: Executions, slots: SlotQuerySet, over: Mapping[str, ChildState]) -> None:
    plain = [chain for chain, one in over.items() if one.execution_id == chain]
    if plain:
        _copy_of(executions, slots.open().naming(plain), OuterRef("child"))
    for chain, one in over.items():
        mine = slots.open().naming([chain])
        if one is GONE:
            mine.update(outcome=one.state, ended_as=chain, error=DELETED)
        elif one.execution_id != chain:
            _copy_of(executions, mine, Value(one.execution_id))


def _copy_of(executions: Executions, slots: SlotQuerySet, execution_id: Any) -> None:
    """From row to row, so that no output passes through this process."""
    child = WorkflowExecutionRecord.objects.using(executions.db).filter(execution_id=execution_id)
    error = Coalesce(Subquery(child.values("error")), Value(""), output_field=Utf8TextField())
    slots.update(
        outcome=Subquery(child.values("state")),
        ended_as=execution_id
        if isinstance(execution_id, Value)
        else Subquery(child.values("execution_id")),
        result=Subquery(child.values("output_data")),
        error=error,
    )


def _to_stop(executions: Executions, slots: SlotQuerySet) -> list[str]:
    """Children that are not needed any more and that nobody has asked to end."""
    asked = executions.filter(execution_id=OuterRef("child"), ending_at__isnull=False)
    marked = slots.open().filter(~Exists(asked), is_stopped=True).order_by("place")
    found: list[str] = []
    for chains in in_chunks(list(marked.values_list("child", flat=True))):
        newest = newest_of(executions, chains)
        found += [one for one in chains if not (newest[one].is_over or newest[one].is_ending)]
        if len(found) >= STOPS_AT_ONCE:
            break
    return found[:STOPS_AT_ONCE]


def _to_release(executions: Executions, slots: SlotQuerySet, at_once: int | None) -> list[str]:
    """Mark as many held children as may run, and return all that are marked and held still."""
    if at_once is None:
        return []
    free = at_once - slots.running().values("child").distinct().count()
    if free > 0:
        waiting = slots.open().filter(is_held=True).order_by("place")
        keys = list(waiting.values_list("pk", flat=True)[:free])
        slots.filter(pk__in=keys).update(is_held=False)
    mine = slots.open().filter(is_held=False, is_own=True)
    marked = list(mine.values_list("child", flat=True))
    rows = executions.filter(IS_HELD, execution_id__in=marked).order_by("pk")
    return list(rows.values_list("execution_id", flat=True))


def _settle(
    executions: Executions, parent: Any, step: Any, plan: Mapping[str, Any], slots: SlotQuerySet
) -> WorkflowExecutionRecord | None:
    """All are over: write what the gather came to; the execution, if it may run now."""
    steps = parent.steps.using(executions.db).filter(pk=step.pk)
    bad = slots.exclude(outcome=None).exclude(outcome="completed")
    values: dict[str, Any] = {"result": {"children": slots.count(), "failed": bad.count()}}
    status = StepStatus.DONE
    if plan.get("closes"):
        status = StepStatus.CLOSED
    elif plan["on_failure"] == RAISE and values["result"]["failed"]:
        status = StepStatus.FAILED
        first = bad.order_by("is_stopped", "place")[0]  # those that were stopped come last
        values |= {"failure": stored_failure(step.name, first.as_outcome()), "attempts": 1}
    return _end(executions, parent, steps, status, HistoryKind.CHILDREN_ENDED, **values)


def _end(
    executions: Executions,
    parent: Any,
    steps: Any,
    status: StepStatus,
    kind: HistoryKind,
    **values: Any,
) -> WorkflowExecutionRecord | None:
    """Write the gather's outcome; waiting becomes ready. A run in progress finds it."""
    name = steps.values_list("name", flat=True).get()
    steps.update(status=status, finished_at=DatabaseNow(), **values)
    waits = parent.state == WorkflowState.WAITING
    ready = {"state": WorkflowState.PENDING, **ready_now(due_now(parent.priority))}
    cleared = {"attempts": 0, "crashes": 0, **({"waiting_since": None} if waits else {})}
    executions.filter(pk=parent.pk).update(**cleared, **(ready if waits else {}))
    executions.note(kind, [parent.pk], name, step=name)
    return parent if waits else None


def suspend(executions: Executions, record: Any, gather: str) -> WorkflowState | None:
    """Running to waiting; or to pending and ready, if the gather has its outcome or is due.

    Returns the new state, or `None` if the run no longer holds the execution.
    """
    with transaction.atomic(using=executions.db):
        held = executions.held(record).exclude(is_overdue())
        row = held.select_for_update().first()
        if row is None:
            return None
        steps = record.steps.using(executions.db)
        waits = steps.filter(name=gather, status=StepStatus.GATHERING)
        step = waits.exclude(until__lte=DatabaseNow()).first()
        is_closing = step is not None and step.result.get("closes")
        values: dict[str, Any] = {"ready": True, "wake_at": due_now(record.priority)}
        state = WorkflowState.PENDING
        if step is not None and (is_closing or row.ending_at is None):
            state = WorkflowState.WAITING
            until = None if is_closing else step.until
            values = {"wake_at": until, "waiting_for": None, "waiting_since": step.started_at}
            values["holds_slot"] = None  # a slot is for running code
        held.update(claim_token=None, state=state, **values)
        return state
