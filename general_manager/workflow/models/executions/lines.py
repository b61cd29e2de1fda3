"""The look at the line of a limit: the only code that gives slots.

Everybody writes, commits, then looks: who starts, ends, suspends, delays, wakes or cancels. A look
is a transaction of its own. It locks the row of the key, and counts in a new statement: one that
waits for the lock counts what it saw before. A slot is a column of its holder, never a counter, so
whatever frees the holder frees the slot, once.
"""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

from django.db import models, transaction
from django.db.models import Count, Max, Min, Q

from general_manager.workflow.core.limits import Line, declared_numbers
from general_manager.workflow.engine import ACTIVE_STATES, TERMINAL_STATES, WorkflowState
from general_manager.workflow.models.executions.values import (
    NEEDS_SLOT,
    due_now,
    is_runnable,
    ready_now,
)
from general_manager.workflow.models.limit_key import ABOUT_A_MINUTE, WorkflowLimitKey
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now, not_indexed
from general_manager.workflow.models.sql.commits import bookkeeping

Update = Callable[..., int]
"""`QuerySet.update` as a function, in a transaction whose commit need not wait for the disk."""

LOOK_BATCH: Final = 1_000
"""Executions that one look admits at most; then another look follows."""


class Admitted(NamedTuple):
    """An execution that a look made ready."""

    key: int
    execution_id: str
    queue: str
    priority: int


class _Free(NamedTuple):
    """How many more may be admitted, and when that changes by itself."""

    slots: int
    starts: int
    at: datetime | None


def look(executions: Any, key: str) -> list[Admitted]:
    """Give free slots of *key* to the oldest of its line; returns those that are ready now.

    At most `LOOK_BATCH`. Idempotent; a transaction of its own, after the caller's commit.
    """
    keys = WorkflowLimitKey.objects.using(executions.db)
    with bookkeeping(executions.db) as update:
        row = _lock(executions, keys, key)
        if row is None:
            return []
        free = _free(executions, row)
        line = executions.filter(waits_slot=key).order_by("rate_until", "pk")
        give = partial(_give, executions, row, update)
        admitted, is_left = _admit(line, row, free, give)
        _plan(keys, row, update, is_left=is_left, has_moved=bool(admitted), at=free.at)
        return admitted


def _lock(executions: Any, keys: Any, key: str) -> Any:
    """The row of *key*, locked, with the numbers in force; `None` if nobody waits or has waited."""
    row = keys.locked(key)
    if row is None:
        line = executions.filter(waits_slot=key).order_by("rate_until", "pk")
        stored = line.values_list("limits", flat=True).first()
        if stored is None:
            return None
        keys.add(Line.from_json(key, stored))
        row = keys.locked(key)
    numbers = None if row is None else declared_numbers(row.scope)
    if numbers is not None and numbers != row.numbers:
        keys.adopt(row, numbers)
    return row


def _free(executions: Any, row: Any) -> _Free:
    slots = starts = LOOK_BATCH
    times: list[datetime] = []
    if row.most is not None:
        holders = holding(executions, row.key)
        found = holders.aggregate(count=Count("pk"), until=Min("slot_until"))
        slots = min(slots, row.most - found["count"])
        times += [one for one in (found["until"],) if one is not None]
    if row.rate is not None and row.per is not None:
        admitted = executions.filter(holds_rate=row.key)
        unstarted = admitted.filter(rate_until=None).count()
        counting = admitted.filter(rate_until__gt=DatabaseNow())
        found = counting.aggregate(
            count=Count("pk"), first=Min("rate_until"), last=Max("rate_until")
        )
        starts = min(starts, row.rate - unstarted - found["count"])
        latest = row.asked_at + row.per
        if found["last"] is not None and found["last"] > latest:
            # The clock was set back since; what started just now is not changed.
            wrong = admitted.filter(rate_until__gt=from_now(row.per))
            wrong.update(rate_until=from_now(row.per))
        firsts = [found["first"]] if found["first"] is not None else []
        times.append(min([*firsts, latest]))
    return _Free(max(0, slots), max(0, starts), min(times, default=None))


def holding(executions: Any, key: str) -> Any:
    """The executions that hold a slot of *key* now."""
    ended = Q(slot_until__isnull=False, slot_until__lte=DatabaseNow())
    return executions.filter(holds_slot=key).exclude(ended)


def _admit(
    line: Any, row: Any, free: _Free, give: Callable[..., None]
) -> tuple[list[Admitted], bool]:
    """Those that a rate has admitted before need no more than a slot, and come first."""
    columns = ("pk", "execution_id", "queue", "priority")
    # One that somebody's open transaction holds, perhaps to cancel it, must not hold up the line.
    unlocked = line.select_for_update(skip_locked=True)
    returning: list[Admitted] = []
    if row.rate is not None:
        again = unlocked.filter(rate_until__isnull=False).values_list(*columns)
        returning = [Admitted(*one) for one in again[: free.slots + 1]]
    left = max(0, min(free.slots - len(returning), free.starts))
    fresh = unlocked if row.rate is None else unlocked.filter(rate_until=None)
    found = [Admitted(*one) for one in fresh.values_list(*columns)[: left + 1]]
    is_left = len(returning) > free.slots or len(found) > left
    returning, found = returning[: free.slots], found[:left]
    give(returning)
    # The numbers in force, which may be others than when it was started.
    give(found, **({} if row.rate is None else {"holds_rate": row.key, "rate_per": row.per}))
    return [*returning, *found], is_left


def _give(
    executions: Any, row: Any, update: Update, admitted: Collection[Admitted], **values: Any
) -> None:
    for priority in {one.priority for one in admitted}:
        mine = [one.key for one in admitted if one.priority == priority]
        rows = executions.filter(pk__in=mine, waits_slot=row.key)
        values |= {"waits_slot": None, "holds_slot": row.key, "wake_at": due_now(priority)}
        update(rows, ready=True, **values)


def _plan(
    keys: Any, row: Any, update: Update, *, is_left: bool, has_moved: bool, at: datetime | None
) -> None:
    """Write when somebody must look again, unless that is written already."""
    mine = keys.filter(pk=row.pk)
    if not is_left:
        if row.look_at is not None:
            update(mine, look_at=None, moved_at=None)
        return
    now, then = row.asked_at, row.asked_at + ABOUT_A_MINUTE
    then = then if at is None else min(at, then)
    is_planned = row.look_at is not None and now < row.look_at <= then
    begins = row.moved_at is None
    is_old = has_moved and not begins and row.moved_at < now - ABOUT_A_MINUTE
    if not is_planned or begins or is_old:
        values = {"moved_at": now} if begins or is_old else {}
        update(mine, look_at=then, **values)


def join_line(executions: Any, execution_id: str) -> str | None:
    """A due execution without a slot joins its line. Returns the key at which to look.

    Also of one that is in line already, or parked: that has given up a slot.
    """
    is_active = not_indexed("state", *ACTIVE_STATES)
    mine = executions.filter(NEEDS_SLOT, is_active, execution_id=execution_id)
    key: str | None = mine.values_list("slot_key", flat=True).first()
    if key is not None:
        mine.filter(is_runnable()).update(**ready_now(DatabaseNow()), state=WorkflowState.PENDING)
    return key


def free_slot(executions: Any, record: Any) -> None:
    """The run of *record* is over: if others ended it meanwhile, its slot is free now."""
    is_over = not_indexed("state", *TERMINAL_STATES)
    over = executions.filter(is_over, pk=record.pk, runs=record.runs)
    over.filter(holds_slot__isnull=False).update(holds_slot=None, slot_until=None)


def keep_slot(executions: Any, record: Any, lease: timedelta) -> int:
    """The run of *record* goes on, though others have ended it: its slot is not free yet."""
    ended = executions.filter(pk=record.pk, runs=record.runs, slot_until__isnull=False)
    changed: int = ended.filter(holds_slot__isnull=False).update(slot_until=from_now(lease))
    return changed


def place_in_line(executions: Any, record: Any, most: int) -> int:
    """Its place in its line, from 1; ``most + 1`` for later places."""
    line = executions.filter(waits_slot=record.waits_slot)
    earlier = line.filter(pk__lt=record.pk).order_by()
    if record.limits and record.limits["rate"] is not None:
        has_started = record.rate_until is not None
        before = Q(rate_until__isnull=False)
        earlier = line.filter(
            before & Q(rate_until__lt=record.rate_until) if has_started
            else before | Q(pk__lt=record.pk)
        )  # fmt: skip
    place: int = 1 + earlier.values("pk")[:most].count()
    return place


def forget_idle_keys(executions: Any, after: int, limit: int) -> int:
    """Delete those of the next *limit* keys after *after* that have no line and no holder.

    A later look adds them again. Returns the key's number to continue after; 0 after the last one.
    """
    keys = WorkflowLimitKey.objects.using(executions.db)
    rows = executions.model._base_manager.using(executions.db)
    used = rows.filter(holds_slot=models.OuterRef("key"))
    waits = rows.filter(waits_slot=models.OuterRef("key"))
    counts = rows.filter(holds_rate=models.OuterRef("key"), rate_until__gt=DatabaseNow())
    idle = keys.filter(~models.Exists(used), ~models.Exists(waits), ~models.Exists(counts))
    asked = list(keys.filter(pk__gt=after).order_by("pk").values_list("pk", flat=True)[:limit])
    if not asked:
        return 0
    with transaction.atomic(using=executions.db):
        free = idle.filter(pk__in=asked, look_at=None).select_for_update(skip_locked=True)
        found = list(free.values_list("pk", flat=True))
        if found:
            keys.filter(pk__in=found).delete()
    return asked[-1] if len(asked) == limit else 0
