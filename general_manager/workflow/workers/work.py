"""What a worker does with a nudge: empty a queue of deliveries and executions, in turns.

It looks until it finds nothing. Work that takes long is not held: after `SLOW_SECONDS` of one turn,
what was taken and not begun is given back, and another worker is called. Work grows by larger
batches, not by more messages: see docs/tuning.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from time import monotonic
from typing import Final

from general_manager.conf import get_workflow_settings
from general_manager.cursors import shared_cursor
from general_manager.escaping import get_logger
from general_manager.workflow.admission.lines import look_at_due_lines, look_now
from general_manager.workflow.core.connections import persist
from general_manager.workflow.core.leases import can_renew, start_calling
from general_manager.workflow.core.limits import has_rates
from general_manager.workflow.core.shutdown import is_announced
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.executions.runner import run_here
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.executions.claims import take_ready
from general_manager.workflow.models.executions.parking import look_again
from general_manager.workflow.models.queue import is_any_due
from general_manager.workflow.models.sql.due import Share
from general_manager.workflow.outbox.chunk import Chunk
from general_manager.workflow.outbox.drain import claim_due, deliver_claim, release
from general_manager.workflow.outbox.order import LaneSlice, deliver_lanes
from general_manager.workflow.transport import get_transport
from general_manager.workflow.transport.nudges import send_nudge, will_look_again
from general_manager.workflow.workers.busy import Busy
from general_manager.workflow.workers.pace import Pace
from general_manager.workflow.workers.running import Running

logger = get_logger(__name__)

SLICE_SECONDS: Final = 1.0
"""After so long a worker ends its task and calls another one: other tasks have their turn."""

SLOW_SECONDS: Final = 0.25
"""After so long with one turn, what is not begun is left to other workers."""

WATCH_EVERY: Final = timedelta(seconds=0.1)

MANY: Final = 10
"""A worker that finds so many rows calls one more worker to help."""

EXECUTIONS_PART: Final = 0.75
"""The part of a turn for executions, which have begun, where both kinds wait."""

entries_pace: Final = Pace()
lanes_pace: Final = Pace()
executions_pace: Final = Pace()

_begin_with: dict[tuple[str, str], int] = {}
"""By database and queue, what the next turn begins with: what comes after the kind that was slow,
so that slow handlers of one kind do not keep this process from the others."""


def empty(using: str, queue: str = "") -> None:
    """Deliver due events and run ready executions of *queue* until there are none.

    If this thread is at it already, it will look again: there is nothing to do here.
    """
    with will_look_again(using, queue) as is_first:
        if is_first:
            _Shift(using, queue).run()


def _meet_new() -> None:
    """New work waits for the whole turn, so each kind of work in it takes less time."""
    for pace in (entries_pace, lanes_pace, executions_pace):
        pace.meet_new()


class _Shift:
    """One task of a worker in one queue."""

    def __init__(self, using: str, queue: str) -> None:
        self._using = using
        self._queue = queue
        self._executions = WorkflowExecutionRecord.objects.using(using)
        self._transport = get_transport().here()
        self._is_alone = self._transport.runs_at_once()
        """Tasks run where they are sent: there is no other worker."""
        self._has_called = False
        self._busy = Busy(using, queue)
        self._turns = 0
        self._has_worked = False
        self._has_many_entries = self._has_many_lanes = self._has_many_executions = False
        self._turn_began = monotonic()
        self._is_slow = self._was_slow = False
        self._chunk: Chunk | None = None
        self._lanes: LaneSlice | None = None
        self._has_lanes = get_event_registry().has_ordered()
        self._running: Running | None = None

    def run(self) -> None:
        try:
            if self._look_until_empty():
                return
        except BaseException:
            if self._has_worked:
                with suppress(Exception):
                    self._hand_over()
            raise
        self._hand_over()

    def _look_until_empty(self) -> bool:
        """False if this worker must stop before that."""
        began, found = monotonic(), MANY
        with self._watched(), shared_cursor(self._using):
            while not is_announced():
                if not can_renew():
                    return True  # another call would come back to this process at once
                self._turn_began, self._is_slow = monotonic(), False
                found = self._take_turn() if self._is_worth_a_turn(found) else 0
                if not (found or self._busy.is_said or self._turns or self._has_lanes):
                    self._has_lanes = True  # the nudge was for lanes of what is no longer ordered
                    found = self._deliver_in_order()
                if found:
                    self._turns += 1
                    self._say_busy(found)
                elif self._busy.is_said:
                    self._busy.clear()  # and look once more: others have relied on it
                else:
                    return True
                if not self._is_alone and monotonic() - began > SLICE_SECONDS:
                    break
        return False

    def _is_worth_a_turn(self, found: int) -> bool:
        """After a small turn there is most likely nothing: one look says so, not a claim of each
        kind. *found* is what the last turn has found.
        """
        if self._is_alone or not self._turns or found >= MANY or has_rates():
            return True
        return persist(self._using, lambda: is_any_due(self._using, self._queue), patience=0)

    def _take_turn(self) -> int:
        """A batch of each kind, until one of them was slow. Returns how much was found."""
        kinds = (self._deliver, self._deliver_in_order, self._run_executions)
        first = _begin_with.pop((self._using, self._queue), None)
        self._was_slow, first = first is not None, first or 0
        found = 0
        for place in range(first, first + len(kinds)):
            found += kinds[place % len(kinds)]()
            if self._is_slow:
                _begin_with[self._using, self._queue] = (place + 1) % len(kinds)
                break
        return found

    def _deliver(self) -> int:
        settings = get_workflow_settings()
        most = settings.outbox_process_chunk_size
        if self._has_many_executions:
            part = 1 - EXECUTIONS_PART
            most = min(most, max(1, int(settings.outbox_batch_size * part)))
        size = entries_pace.size(most)
        claim = claim_due(self._using, self._share(is_behind=self._has_many_entries), size)
        self._has_many_entries = claim.size == size
        if not claim.size:
            return 0
        self._has_worked = True
        if claim.newest:
            _meet_new()
        self._call_help(claim.size)
        began = monotonic()
        deliver_claim(
            self._using,
            claim,
            queue=self._queue,
            watch=self._watch,
            is_late=lambda: self._is_slow,
        )
        entries_pace.learn(claim.size, monotonic() - began)
        return claim.size

    def _share(self, *, is_behind: bool) -> Share:
        return Share(self._queue, is_behind, self._turns, oldest_first=self._was_slow)

    def _watch(self, chunk: Chunk) -> None:
        self._chunk = chunk

    def _deliver_in_order(self) -> int:
        """Costs no statement where nothing asks for it, except for a nudge that finds nothing."""
        if self._chunk is not None and self._chunk.in_order.lanes:
            self._has_lanes = True
        if self._is_slow or not self._has_lanes:
            return 0
        settings = get_workflow_settings()
        most = settings.outbox_process_chunk_size
        if self._has_many_executions or self._has_many_entries:
            most = min(most, max(1, int(settings.outbox_batch_size * (1 - EXECUTIONS_PART))))
        size, began = lanes_pace.size(most), monotonic()
        found = deliver_lanes(
            self._using,
            self._share(is_behind=self._has_many_lanes),
            size,
            queue=self._queue,
            is_late=lambda: self._is_slow,
            watch=self._watch_lanes,
        )
        if found is None:
            self._has_many_lanes = False
            return 0
        self._has_many_lanes = found.claimed == size
        lanes_pace.learn(found.delivered, monotonic() - began)
        return found.claimed

    def _watch_lanes(self, lanes: LaneSlice) -> None:
        self._lanes = lanes
        self._has_worked = True
        self._call_help(lanes.claimed)

    def _run_executions(self) -> int:
        most = get_workflow_settings().outbox_batch_size
        if self._has_many_entries or self._has_many_lanes:
            most = max(1, int(most * EXECUTIONS_PART))
        size = executions_pace.size(most)
        if self._is_slow:
            return 0
        share = self._share(is_behind=self._has_many_executions)
        if has_rates():
            look_at_due_lines(self._using, run_here)
        taken = take_ready(self._executions, size, share)
        self._has_many_executions = taken.size == size
        if not taken.size:
            return 0
        self._has_worked = True
        if taken.is_mixed:
            _meet_new()
        self._call_help(taken.size)
        began = monotonic()
        freed = {*taken.freed, *look_again(self._executions, taken.parked).lines}
        for line in {*taken.lines, *freed}:
            look_now(self._using, line, run_here)
        self._running = running = Running(
            self._using, taken, lambda: self._is_slow, in_batches=not self._is_alone
        )
        done = running.run(executions_pace)
        executions_pace.learn(done, monotonic() - began)
        return taken.size

    def _say_busy(self, found: int) -> None:
        """One event on an idle system is done in one turn: then nobody needs to be told."""
        if self._is_alone or (self._turns == 1 and found < MANY):
            return
        self._busy.say()

    def _hand_over(self) -> None:
        """Stop without a last look: nobody may rely on it, but on the worker that is called."""
        self._busy.hand_over()
        self._call_another()

    def _call_help(self, found: int) -> None:
        if found >= MANY and not self._has_called:
            self._has_called = True
            self._call_another()

    def _call_another(self) -> None:
        if not self._is_alone:
            send_nudge(self._transport, self._using, self._queue)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        if self._is_alone:
            yield
            return
        stop = start_calling(self._look_at_clock, WATCH_EVERY, is_lease=False)
        try:
            yield
        finally:
            stop()

    def _look_at_clock(self) -> None:
        """In another thread: a slow turn holds back nothing that others could do."""
        if self._is_slow or monotonic() - self._turn_began < SLOW_SECONDS:
            return
        self._is_slow = True
        chunk = self._chunk
        if chunk is not None and (keys := chunk.take_back()):
            release(self._using, chunk.token, keys)
        if self._lanes is not None:
            self._lanes.take_back()
        if self._running is not None:
            self._running.give_back()
        self._busy.clear_late()  # nobody may rely on the next look
        self._call_another()
        if self._running is not None:  # last: it may wait for a lock of the handler's
            self._running.write_ends(waits=False)
