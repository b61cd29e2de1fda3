"""A small model checker: every order in which processes, crashes and the outside world can act.

`explore` goes through the states of a `Model` breadth first, so the trace that it returns for a
violation is a shortest one. A violation is a state that `wrong` objects to, a deadlock, or a state
from which no way without further accidents leads to one that `is_settled`: there is work that
nobody will do. Accidents, that is kills and the events that say so, are bounded by `accidents`.

To explore one protocol by hand, and read its traces: ``python -m tests.models signals``.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.models.model import Event, Model, Running, World
from tests.models.world import ROLLBACK, Address, Blocked, Call, Database, Step

MOST_STATES: Final = 150_000
STUCK: Final = "stuck: nobody will do what is left"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found: *problem* is empty if the rules hold in all *states*."""

    states: int
    problem: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"  {number:2}. {text}" for number, text in enumerate(self.trace, 1)]
        return "\n".join([f"{self.problem or 'holds'} ({self.states:,} states)", *lines])


@dataclass(frozen=True, slots=True)
class Move:
    """A step from one state to the next."""

    text: str
    after: World | None
    """`None` for a deadlock."""
    is_accident: bool = False


def explore(model: Model, most: int = MOST_STATES) -> Verdict:
    """Go through every state of *model*; raises `RuntimeError` if there are more than *most*."""
    return _Search(model, most).run()


class _Search:
    def __init__(self, model: Model, most: int) -> None:
        self._model = model
        self._most = most
        self._next: dict[tuple[Call, tuple[Any, ...]], tuple[Step | None, Call | None]] = {}
        self._came: dict[Any, tuple[Any, str] | None] = {}
        """How each state was reached first."""
        self._before: dict[Any, list[Any]] = {}
        """From which states it is reached without an accident."""
        self._settled: list[Any] = []
        self._ends: set[Any] = set()
        """Where nothing can happen any more, without an accident."""

    def run(self) -> Verdict:
        stored, calls = self._model.begin()
        rows = {(type(row).__name__, key): row for row, key in stored}
        running = frozenset(Running(label, call) for label, call in calls.items())
        world = World(rows, running, self._model.accidents)
        self._came[world.identity] = None
        left = deque([world])
        while left:
            world = left.popleft()
            if problem := self._model.wrong(world):
                return self._verdict(problem, world.identity)
            if self._model.is_settled(world):
                self._settled.append(world.identity)
            self._ends.add(world.identity)
            for move in self._moves(world):
                if not move.is_accident:
                    self._ends.discard(world.identity)
                if move.after is None:
                    return self._verdict(move.text, world.identity)
                if self._is_new(world, move, move.after):
                    left.append(move.after)
            if len(self._came) > self._most:
                raise RuntimeError(f"More than {self._most:,} states: make the model smaller")
        return self._stuck() or Verdict(len(self._came))

    def _is_new(self, world: World, move: Move, after: World) -> bool:
        if not move.is_accident:
            self._before.setdefault(after.identity, []).append(world.identity)
        if after.identity in self._came:
            return False
        self._came[after.identity] = (world.identity, move.text)
        return True

    def _stuck(self) -> Verdict | None:
        good, left = set(self._settled), list(self._settled)
        while left:
            for one in self._before.get(left.pop(), ()):
                if one not in good:
                    good.add(one)
                    left.append(one)
        stuck = [one for one in self._came if one not in good]  # the nearest ones first
        shown = next((one for one in stuck if one in self._ends), next(iter(stuck), None))
        return None if shown is None else self._verdict(STUCK, shown)

    def _verdict(self, problem: str, identity: Any) -> Verdict:
        trace: list[str] = []
        came = self._came[identity]
        while came is not None:
            trace.append(came[1])
            came = self._came[came[0]]
        return Verdict(len(self._came), problem, tuple(reversed(trace)))

    def _moves(self, world: World) -> Iterator[Move]:
        blocked: dict[str, str] = {}
        holders = {address: one.label for one in world.running for address in one.locks}
        for one in sorted(world.running, key=lambda each: each.label):
            others = world.running - {one}
            step, _ = self._step_of(one)
            if step is None:
                raise ValueError(f"The process {one.label!r} has no statement")
            try:
                yield self._stepped(world, one, step, holders)
            except Blocked as error:
                blocked[one.label] = holders[error.address]
            if world.accidents:
                text = f"{one.label}: KILLED before {step.text!r}"
                yield Move(text, World(world.committed, others, world.accidents - 1), True)
        if circle := _circle(blocked):
            yield Move("deadlock of " + ", ".join(sorted(circle)), None)
        for event in self._model.events(world):
            yield from self._happens(world, event, holders)

    def _stepped(self, world: World, one: Running, step: Step, holders: dict[Address, str]) -> Move:
        taken = [address for address, label in holders.items() if label != one.label]
        database = Database(world.committed, dict(one.written), one.locks, taken)
        result = None if step.act is None else step.act(database)
        rows = {**world.committed, **database.effects}
        written, locks = frozenset(database.written.items()), database.locks
        if step.commits:
            rows |= database.written
        if step.commits or step is ROLLBACK:
            written, locks = frozenset(), frozenset()
        after = Running(one.label, one.call, (*one.results, result), written, locks)
        while (found := self._step_of(after))[0] is None and found[1] is not None:
            after = Running(one.label, found[1], (), after.written, after.locks)
        others = world.running - {one}
        running = others if found[0] is None else others | {after}
        said = "" if result is None or result is True else f" -> {_words(result)}"
        return Move(f"{one.label}: {step.text}{said}", World(rows, running, world.accidents))

    def _happens(self, world: World, event: Event, holders: dict[Address, str]) -> Iterator[Move]:
        rows = {(type(row).__name__, key): row for row, key in event.writes}
        is_blocked = not event.ends_all and holders.keys() & rows.keys()
        if is_blocked or (event.is_accident and not world.accidents):
            return
        running = frozenset[Running]() if event.ends_all else world.running
        if event.begins is not None:
            if any(one.label == event.text for one in running):
                return
            running |= {Running(event.text, event.begins)}
        after = World({**world.committed, **rows}, running, world.accidents - event.is_accident)
        if after.identity != world.identity:
            yield Move(event.text, after, event.is_accident)

    def _step_of(self, one: Running) -> tuple[Step | None, Call | None]:
        """The next statement; or else the process that goes on, if there is one."""
        key = (one.call, one.results)
        if key not in self._next:
            process = one.call.run(*one.call.arguments)
            try:
                step = next(process)
                for result in one.results:
                    step = process.send(result)
                self._next[key] = step, None
            except StopIteration as end:
                self._next[key] = None, end.value
        return self._next[key]


def _circle(blocked: dict[str, str]) -> Sequence[str]:
    """Processes that wait for each other."""
    for first in blocked:
        one, seen = first, list[str]()
        while one in blocked and one not in seen:
            seen.append(one)
            one = blocked[one]
        if one in seen:
            return seen[seen.index(one) :]
    return ()


def _words(result: Any) -> str:
    return "nothing" if result is False or result == () else str(result)
