"""What the end of an execution causes: those that wait for it look, and its children are stopped.

An end commits first. It leaves a `wake_at` on its row if there is something to do, so that the
sweep does it if this process dies. Everything here may be repeated.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final

from django.db import transaction
from django.db.models import Q

from general_manager.escaping import get_logger
from general_manager.workflow.core.local_handlers import forget_handler
from general_manager.workflow.core.observers import notify_state
from general_manager.workflow.core.transactions import is_in_transaction
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.exceptions import (
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
)
from general_manager.workflow.executions.cancelling import cancel
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.children.duties import (
    Ended,
    all_done,
    due,
    ended,
    not_done_yet,
)
from general_manager.workflow.models.children.look import STOPS_AT_ONCE, Found, look, release
from general_manager.workflow.models.children.states import IS_HELD, newest_of
from general_manager.workflow.models.children.table import WorkflowChildSlot
from general_manager.workflow.models.execution import Executions

logger = get_logger(__name__)

Runnable = tuple[str, str, str | None]
"""The id, the queue and the limit's key of an execution that may run."""
RunSoon = Callable[[str, str, str | None], object]
"""Gets the parts of a `Runnable`."""

STOPS_OF_A_VERB: Final = STOPS_AT_ONCE
"""Children that `cancel` stops before it returns; the sweep stops the rest."""


def attend(
    executions: Executions, keys: Collection[int], run_soon: RunSoon, *, most: int | None = None
) -> None:
    """Notify those that wait for the ended executions *keys*, and stop their children.

    And so on, for those that are stopped; *most* of them, the sweep does the rest.
    """
    left = deque(keys)
    stopped = 0
    while left and (most is None or stopped < most):
        batch = [left.popleft() for _ in range(min(len(left), STOPS_AT_ONCE))]
        over = ended(executions, batch)
        if not over:
            continue
        new = _look_for(executions, over, run_soon)
        unfinished: list[int] = []
        for one in over:
            mine, is_all = _stop_children(executions, one, run_soon)
            new += mine
            if not is_all:
                unfinished.append(one.key)
        all_done(executions, [one.key for one in over if one.key not in unfinished])
        not_done_yet(executions, unfinished)
        stopped += len(new)
        left.extend([*new, *unfinished])


def attend_soon(executions: Executions, key: int, run_soon: RunSoon) -> None:
    """`attend`, after the commit of a caller's transaction. What fails is done by the sweep."""
    _after_commit(executions, lambda: attend(executions, [key], run_soon, most=STOPS_OF_A_VERB))


def ask_children_soon(executions: Executions, record: Any, run_soon: RunSoon) -> None:
    """`_ask_children`, after the commit of a caller's transaction. The rest is done by its run."""
    execution_id = record.execution_id
    if record.has_children:
        _after_commit(executions, lambda: _ask_children(executions, execution_id, run_soon))


def _ask_children(executions: Executions, execution_id: str, run_soon: RunSoon) -> None:
    """Have the children of an execution at rest that is to end undo and end, and theirs.

    So the code of a child that is running now hears of it before `cancel` returns.
    """
    left = deque([execution_id])
    asked = 0
    while left and asked < STOPS_OF_A_VERB:
        asked += 1
        parent = executions.get(execution_id=left.popleft())
        steps = parent.steps.using(executions.db).filter(status=StepStatus.GATHERING)
        for gather in list(steps.values_list("name", flat=True)):
            found = look(executions, parent.pk, gather, ())
            asked += len(found.stop)
            over = _follow(executions, found, run_soon)
            attend(executions, over, run_soon, most=STOPS_OF_A_VERB)
        children = executions.filter(parent=parent.execution_id, ended_at=None, has_children=True)
        to_end = children.exclude(ending_at=None).order_by("pk")
        left.extend(to_end.values_list("execution_id", flat=True)[:STOPS_OF_A_VERB])


def _after_commit(executions: Executions, do: Callable[[], object]) -> None:
    def act() -> None:
        try:
            do()
        except Exception:  # the end, or the request for it, is committed
            logger.exception("An execution is to end, and its children are stopped later")

    if is_in_transaction(executions.db):
        transaction.on_commit(act, using=executions.db, robust=True)
    else:
        act()


def attend_due(executions: Executions, run_soon: RunSoon) -> int:
    """What was left by processes that died; returns for how many executions there was something."""
    done = 0
    while keys := due(executions):
        attend(executions, keys, run_soon)
        done += len(keys)
    return done


def _look_for(executions: Executions, over: Sequence[Ended], run_soon: RunSoon) -> list[int]:
    """One look for each execution that waits for some of them; returns what that has ended."""
    chains = [one.chain for one in over]
    slots = WorkflowChildSlot.objects.using(executions.db).naming(chains)
    waiting: dict[tuple[int, str], list[str]] = {}
    for key, gather, chain in slots.values_list("execution_id", "gather", "child"):
        waiting.setdefault((key, gather), []).append(chain)
    stopped: list[int] = []
    for (key, gather), mine in sorted(waiting.items()):
        stopped += follow(executions, key, gather, look(executions, key, gather, mine), run_soon)
    return stopped


def follow(
    executions: Executions, key: int, gather: str, found: Found, run_soon: RunSoon
) -> list[int]:
    """Do what follows from a look; returns the keys of executions that this has ended.

    Looks again while there are more children to stop than one look names: what those do that were
    asked, such as undoing, may take days.
    """
    over = _follow(executions, found, run_soon)
    while len(found.stop) == STOPS_AT_ONCE:
        found = look(executions, key, gather, ())
        over += _follow(executions, found, run_soon)
    return over


def _follow(executions: Executions, found: Found, run_soon: RunSoon) -> list[int]:
    for execution_id in found.release:
        child = release(executions, execution_id)
        if child is not None:
            run_soon(execution_id, *child)
    if found.ready is not None:
        record = found.ready
        notify_state(WorkflowState.PENDING, lambda: executions.get(pk=record.pk).snapshot())
        run_soon(record.execution_id, record.queue, record.slot_key)
    over: list[int] = []
    for newest in newest_of(executions, found.stop).values():
        over += stop(executions, newest.execution_id, "Its parent needs it no longer.", run_soon)
    return over


def _stop_children(executions: Executions, one: Ended, run_soon: RunSoon) -> tuple[list[int], bool]:
    """Cancel children of an execution that did not complete; and whether these were the last."""
    if not one.stops_children:
        return [], True
    mine = executions.filter(parent=one.execution_id, ended_at=None)
    mine = mine.filter(Q(abandoned=False) | IS_HELD)
    if not one.is_plain:
        mine = mine.filter(ending_at=None)  # others undo already
    found = list(mine.order_by("pk").values_list("execution_id", flat=True)[: STOPS_AT_ONCE + 1])
    reason = f"Its parent {one.execution_id} is {one.state}."
    over: list[int] = []
    for execution_id in found[:STOPS_AT_ONCE]:
        over += stop(executions, execution_id, reason, run_soon, compensate=not one.is_plain)
    return over, len(found) <= STOPS_AT_ONCE


def stop(
    executions: Executions,
    execution_id: str,
    reason: str,
    run_soon: RunSoon,
    *,
    compensate: bool = True,
) -> list[int]:
    """Cancel a child; returns its key if it is over with that, else nothing."""
    record: Any = None
    with suppress(WorkflowInvalidStateError, WorkflowExecutionNotFoundError):
        record, is_ready = cancel(executions, execution_id, reason, compensate=compensate)
        if is_ready or record.slot_key is not None:  # its slot may be free
            run_soon(record.execution_id, record.queue, record.slot_key)
    if record is None or record.ended_at is None:
        return []
    ended_record: WorkflowExecutionRecord = record
    forget_handler(ended_record.execution_id)
    notify_state(WorkflowState.CANCELLED, ended_record.snapshot)
    return [ended_record.pk]
