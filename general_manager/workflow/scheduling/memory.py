"""Schedules of local mode: in the memory of this process, lost with it."""

from dataclasses import dataclass, field
from datetime import datetime
from threading import RLock
from typing import Any, Final
from weakref import WeakKeyDictionary

from general_manager.escaping import get_logger
from general_manager.workflow.core.slots import Timing
from general_manager.workflow.engine import (
    ACTIVE_STATES,
    WorkflowExecution,
    WorkflowExecutionNotFoundError,
)
from general_manager.workflow.exceptions import ends_the_process
from general_manager.workflow.schedules import Schedule, ScheduleRefusedError
from general_manager.workflow.scheduling.rules import SLOTS_PER_TICK, Take, next_take
from general_manager.workflow.scheduling.starting import notify_fired, start_by_hand, start_slot

logger = get_logger(__name__)


@dataclass(slots=True)
class State:
    """What this process knows of one schedule."""

    version: str
    next_at: datetime | None
    last_slot: datetime | None = None
    paused: bool = False
    executions: list[str] = field(default_factory=list)
    """Ids of the executions that were active when it last looked, and of the latest one."""


class MemorySchedules:
    """The schedules of one engine. A slot is taken under the lock, and started outside it."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.states: dict[str, State] = {}

    def state(self, schedule: Schedule, now: datetime) -> State:
        """The state of *schedule*: new after *now* if it was not known, or has changed."""
        with self.lock:
            known = self.states.get(schedule.name)
            if known is None or known.version != schedule.version:
                timing = timing_of(schedule)
                fresh = State(schedule.version, timing.after(now))
                if known is not None:
                    fresh.paused, fresh.executions = known.paused, known.executions
                known = self.states[schedule.name] = fresh
            return known

    def take(self, schedule: Schedule, now: datetime) -> Take | None:
        """Take the next due slot; `None` if there is none, or the schedule is paused."""
        with self.lock:
            state = self.state(schedule, now)
            if state.paused or state.next_at is None:
                return None
            take = next_take(timing_of(schedule), state.next_at, now, schedule.missed)
            if take is not None:
                state.next_at, state.last_slot = take.following, take.slot
            return take


_by_engine: Final["WeakKeyDictionary[Any, MemorySchedules]"] = WeakKeyDictionary()
_lock: Final = RLock()


def memory_of(engine: Any) -> MemorySchedules:
    with _lock:
        return _by_engine.setdefault(engine, MemorySchedules())


def timing_of(schedule: Schedule) -> Timing:
    if schedule.timing is None:
        raise ScheduleRefusedError(schedule.name, schedule.problem)
    return schedule.timing


def fire_in_memory(engine: Any, schedules: dict[str, Schedule], now: datetime) -> int:
    """Start the due slots of *schedules* in this process; returns how many were started."""
    memory, started = memory_of(engine), 0
    for schedule in schedules.values():
        try:
            for _ in range(SLOTS_PER_TICK):
                take = memory.take(schedule, now)
                if take is None:
                    break
                started += _start(engine, memory, schedule, take)
        except BaseException as error:
            if ends_the_process(error):
                raise
            logger.exception("Schedule %r could not start a slot", schedule.name)
    return started


def _start(engine: Any, memory: MemorySchedules, schedule: Schedule, take: Take) -> int:
    if take.dropped:
        notify_fired(schedule, take.slot, "missed", count=take.dropped)
    if not take.starts:
        return 0
    state = memory.states[schedule.name]
    if schedule.overlap == "skip" and active_in_memory(engine, state):
        notify_fired(schedule, take.slot, "skipped")
        return 0
    execution = start_slot(schedule, take.slot)
    _remember(engine, state, execution)
    notify_fired(schedule, take.slot, "started", execution.execution_id)
    return 1


def run_in_memory(engine: Any, schedule: Schedule, now: datetime) -> WorkflowExecution:
    state = memory_of(engine).state(schedule, now)
    if schedule.overlap == "skip" and active_in_memory(engine, state):
        raise ScheduleRefusedError(schedule.name, "an execution of it is still active")
    execution = start_by_hand(schedule, now)
    _remember(engine, state, execution)
    return execution


def pause_in_memory(engine: Any, schedule: Schedule, now: datetime, *, paused: bool) -> bool:
    """Whether that changed anything. Slots of a pause are not missed ones."""
    memory = memory_of(engine)
    with memory.lock:
        state = memory.state(schedule, now)
        changed, state.paused = state.paused != paused, paused
        if changed and not paused:
            since = now if state.last_slot is None else max(now, state.last_slot)
            first = timing_of(schedule).after(since)
            if state.next_at is None or state.next_at <= now:
                state.next_at = first
        return changed


def active_in_memory(engine: Any, state: State) -> list[str]:
    """Ids of the schedule's executions that are active."""
    found = []
    for execution_id in state.executions:
        try:
            if engine.status(execution_id).state in ACTIVE_STATES:
                found.append(execution_id)
        except WorkflowExecutionNotFoundError:
            continue  # finished long ago
    return found


def _remember(engine: Any, state: State, execution: WorkflowExecution) -> None:
    state.executions = [*active_in_memory(engine, state), execution.execution_id]
