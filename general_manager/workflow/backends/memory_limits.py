"""Limits and rates in memory: a run begins only with a slot, which it gives back as it ends."""

from collections import deque
from datetime import datetime, timedelta
from heapq import heappop, heappush

from general_manager.workflow.backends.memory_records import Clock, Record
from general_manager.workflow.core.limits import Line, Numbers, declared_numbers


class _Slots:
    """The slots of one key, and the line of those that wait for one."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.runs = 0
        """Runs that are in progress, also of executions that were ended meanwhile."""
        self.ends: deque[datetime] = deque()
        """When each start no longer counts for the rate, in order."""
        self.returning: list[tuple[int, Record]] = []
        """A heap, by number: those that a rate has let start before."""
        self.fresh: list[tuple[int, Record]] = []
        """A heap, by number: the others. Both may contain some that left the line."""

    @property
    def numbers(self) -> Numbers:
        return declared_numbers(self.line.scope) or self.line.numbers


class MemoryLimits:
    """The lines of one engine. Call every method under the memory's lock.

    A slot belongs to a run, not to an execution: code that goes on after a cancellation keeps it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._slots: dict[str, _Slots] = {}

    def take(self, record: Record) -> bool:
        """Take a slot for a run of *record*, if it is its turn; else it waits in line."""
        if record.line is None:
            return True
        if record.has_slot:
            record.has_slot = False
            return True
        slots = self._slots.setdefault(record.line.key, _Slots(record.line))
        if not record.in_line:
            record.in_line = True
            has_token = slots.numbers.rate is not None and record.has_token
            heappush(slots.returning if has_token else slots.fresh, (record.number, record))
        if self._head(slots) is not record:
            return False
        heappop(slots.returning if _first(slots.returning) is record else slots.fresh)
        record.in_line = False
        slots.runs += 1
        if not record.has_token and (per := slots.numbers.per) is not None:
            slots.ends.append(self._clock() + per)
        record.has_token = True
        return True

    def give_back(self, record: Record) -> None:
        """A run of *record* is over."""
        slots = None if record.line is None else self._slots.get(record.line.key)
        if slots is not None:
            slots.runs -= 1

    def pass_on(self, record: Record, new: Record) -> None:
        """*new* goes on for *record* in its slot."""
        new.line, new.has_token = record.line, record.has_token
        new.has_slot, record.line = record.line is not None, None

    def give_back_unused(self, record: Record) -> None:
        """If *record* was left a slot, and was ended before it ran."""
        if record.has_slot and not record.is_active:
            record.has_slot = False
            self.give_back(record)

    def next_of(self, record: Record) -> Record | None:
        """The execution in the line of *record* whose turn it is."""
        slots = None if record.line is None else self._slots.get(record.line.key)
        if slots is None:
            return None
        return self._head_or_forget(slots)

    def due(self) -> list[Record]:
        """The first of each line in which somebody may run now."""
        heads = [self._head_or_forget(slots) for slots in list(self._slots.values())]
        return [one for one in heads if one is not None]

    def place(self, record: Record) -> int | None:
        """Its place in line, from 1; `None` if it does not wait for a slot."""
        slots = None if record.line is None else self._slots.get(record.line.key)
        if slots is None or not record.waits_for_slot:
            return None
        line = [one for heap in (slots.returning, slots.fresh) for _, one in sorted(heap)]
        return 1 + [one for one in line if one.waits_for_slot].index(record)

    def timers(self) -> list[datetime]:
        """When a rate lets the first of its line start, by itself."""
        return [
            slots.ends[0]
            for slots in self._slots.values()
            if slots.ends and self._head(slots) is None and _first(slots.fresh) is not None
        ]

    def timers_of(self, record: Record) -> list[datetime]:
        """When the rate for which *record* waits next lets one start."""
        slots = None if record.line is None else self._slots.get(record.line.key)
        if slots is None or not record.waits_for_slot or record.has_token:
            return []
        return list(slots.ends)[:1]

    def move_timers(self, by: timedelta) -> None:
        for slots in self._slots.values():
            slots.ends = deque(one - by for one in slots.ends)

    def _head_or_forget(self, slots: _Slots) -> Record | None:
        """The first that may run now; a key that nobody uses and no start counts for is deleted."""
        head = self._head(slots)
        if head is None and not (slots.runs or slots.returning or slots.fresh or slots.ends):
            self._slots.pop(slots.line.key, None)
        return head

    def _head(self, slots: _Slots) -> Record | None:
        """The first of the line that may run now; those that need no start of the rate precede."""
        most, rate, per = slots.numbers
        self._forget_ends(slots, per)
        if most is not None and slots.runs >= most:
            return None
        if (returning := _first(slots.returning)) is not None:
            return returning
        if rate is not None and len(slots.ends) >= rate:
            return None
        return _first(slots.fresh)

    def _forget_ends(self, slots: _Slots, per: timedelta | None) -> None:
        now = self._clock()
        if per is not None and slots.ends and slots.ends[-1] > now + per:  # a clock was set back
            slots.ends = deque(min(one, now + per) for one in slots.ends)
        while slots.ends and slots.ends[0] <= now:
            slots.ends.popleft()


def _first(heap: list[tuple[int, Record]]) -> Record | None:
    """The first that still waits; drops those before it."""
    while heap and not heap[0][1].waits_for_slot:
        heappop(heap)[1].in_line = False
    return heap[0][1] if heap else None
