"""Signals: a sender writes, commits, then looks; a run that may have missed a look looks itself.

As in `models/executions/looks.py`: a look locks the newest execution of the chain, reads the
signals in a new statement, answers the open wait by the oldest, and leaves `has_signals` on the
row. A suspension is one statement where that is false. The sweep looks for senders that died.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.signals_runs import (
    ACTIVE,
    Clock,
    Execution,
    Runs,
    Signal,
    Wait,
    held,
    lock_of,
    newest_of,
    seen,
    settle,
)
from tests.models.world import COMMIT, Call, Database, Process, alone, does


@dataclass(eq=False)
class Signals(Runs):
    """One chain of executions with waits of one mailbox, and senders of numbered signals."""

    senders: tuple[tuple[int, ...], ...] = ((1,),)
    accidents: int = 1
    freezes: bool = True
    """Accidents include a lease that expires while its run lives."""
    looks_after: bool = True
    has_duty: bool = True
    look_locks: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        senders = {f"sender of {one}": Call(self.send, (one,)) for one in self.senders}
        return [(Execution(), 1), (Clock(), 1)], senders

    def send(self, numbers: tuple[int, ...]) -> Process:
        number, *left = numbers
        newest = yield alone("find the newest", newest_of)
        insert = self._insert(number)
        if not self.looks_after:
            yield does(f"insert signal {number}", insert)
            if (yield does("look", lambda db: seen(db, newest)[0])):
                yield does("settle", lambda db: settle(db, newest))
            yield COMMIT
            return None
        if not (yield alone(f"insert signal {number}, if it is active", insert)):
            return None
        return Call(self.look, (number, tuple(left)))

    def _insert(self, number: int) -> Any:
        def insert(db: Database) -> bool:
            is_active = db.get(Execution, newest_of(db)).state in ACTIVE
            return is_active and db.put(Signal(is_due=self.has_duty), number)

        return insert

    def look(self, number: int, then: tuple[int, ...] = ()) -> Process:
        newest = yield alone("find the newest", newest_of)
        while True:
            if not self.look_locks:
                break
            state = yield does(f"lock execution {newest}", lock_of(newest))
            if state in ACTIVE or newest == (again := (yield does("find it again", newest_of))):
                break
            newest = again
        found = yield does("read the wait and the signals", lambda db: seen(db, newest))
        yield does("settle", lambda db: settle(db, newest, found))
        yield alone("looked", lambda db: db.update(Signal, key=number, is_due=False))
        return Call(self.send, (then,)) if then else None

    def events(self, world: World) -> Iterator[Event]:
        is_late = world.get(Clock).is_late
        for key, row in world.rows(Execution).items():
            if row.state == "pending" and row.runs < self.waits + 5:
                text = f"worker of {key}, run {row.runs + 1}"
                yield Event(text, begins=Call(self.work, (key,)))
            ready = ((row._replace(state="pending", token=0), key),)
            if row.state == "running":
                dead = not world.runs(f"worker of {key}, run {row.runs}")
                if dead or self.freezes:
                    yield Event(f"sweep: the lease of {key} has expired", ready, None, not dead)
            if row.state == "waiting" and is_late:
                yield Event(f"sweep: the wait of {key} is due", ready)
        for number, signal in world.rows(Signal).items():
            if signal.is_due and not world.runs("sender"):
                yield Event(f"sweep: look for {number}", begins=Call(self.look, (number,)))
        if self.times_out and not is_late and world.rows(Wait):
            in_time = tuple(world.rows(Signal))
            yield Event("the time of the wait is up", ((Clock(True, in_time), 1),))

    def wrong(self, world: World) -> str | None:
        taken = [one.signal for one in world.rows(Wait).values() if one.signal]
        if len(taken) != len(set(taken)):
            return "one signal answered two waits"
        kept = [key for key, one in world.rows(Signal).items() if one.status == "kept"]
        own = [one for one in self.senders if set(one) >= {*kept[:1], *taken[-1:]}]
        if own and kept and taken and kept[0] < taken[-1]:
            return "a signal was taken before one that had been accepted earlier"
        if any(one.status == "timed out" for one in world.rows(Wait).values()) and (
            set(world.get(Clock).in_time) & set(kept)
        ):
            return "a wait timed out though its signal had been accepted in time"
        return None

    def is_settled(self, world: World) -> bool:
        kept = any(one.status == "kept" for one in world.rows(Signal).values())
        states = [one.state for one in world.rows(Execution).values()]
        over = all(one == "completed" for one in states)
        idle = all(one in {"completed", "waiting"} for one in states)
        return not world.running and (over or (idle and not kept))


@dataclass(eq=False)
class Crossed(Model):
    """Two executions, each in an atomic step that signals the other one."""

    accidents: int = 0
    look_is_part: bool = False

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        steps = {f"step of {one}": Call(self.step, (one, 3 - one)) for one in (1, 2)}
        return [(Execution("running", 1), 1), (Execution("running", 1), 2)], steps

    def step(self, own: int, other: int) -> Process:
        yield does(f"insert a signal to {other}", lambda db: db.put(Signal(), other))
        if self.look_is_part:
            yield does(f"look: lock {other}", lock_of(other))
        yield does(f"checkpoint: lock {own}", held(own, 1))
        yield COMMIT

    def is_settled(self, world: World) -> bool:
        return not world.running


STUCK = "stuck"
CASES = (
    holds("a signal sent at any moment is taken by the wait", Signals(accidents=2)),
    holds("two signals of one sender are taken in order", Signals(senders=((1, 2),), waits=2)),
    holds("two senders answer two waits", Signals(senders=((1,), (2,)), waits=2, accidents=0)),
    holds("a signal that came in time wins over the timeout", Signals(times_out=True)),
    holds(
        "an execution that continues as new leaves its signals to the next one",
        Signals(senders=((1, 2),), continues=True),
    ),
    holds("atomic steps that signal each other lock nothing of each other", Crossed()),
    fails(
        "a look in the sender's transaction misses a wait that opens meanwhile",
        Signals(looks_after=False, has_duty=False, accidents=0),
        STUCK,
    ),
    fails(
        "looks in the transactions of atomic steps wait for each other",
        Crossed(look_is_part=True),
        "deadlock",
    ),
    fails("a signal without a duty is lost with its sender", Signals(has_duty=False), STUCK),
    fails(
        "a look without a lock misses the wait",
        Signals(look_locks=False, accidents=0),
        STUCK,
    ),
    fails(
        "a suspension that ignores what a look has left misses the signal",
        Signals(suspends_unless_signalled=False, accidents=0),
        STUCK,
    ),
    fails(
        "a timeout that does not ask for signals overtakes one",
        Signals(times_out=True, time_out_asks=False),
        "a wait timed out",
    ),
    fails(
        "a next execution that does not inherit has_signals misses the signal",
        Signals(senders=((1, 2),), continues=True, carries=False),
        STUCK,
    ),
)
