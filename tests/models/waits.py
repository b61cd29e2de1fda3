"""Waits: one outcome, written by one of these: an answer, the run that times out, an operator.

As in `models/step.py`, `models/executions/verbs.py` and `executions/store.py`: a run that asks a
question records its wait first. An answer locks the execution, then writes the outcome where the
wait is open; waiting becomes ready, and a run in progress finds it. A suspension is one statement
that asks whether the wait is open and not due. A waiting row wakes for its timeout alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import Call, Database, Process, alone, does


class Execution(NamedTuple):
    state: str = "pending"
    token: int = 0
    runs: int = 0
    asks: bool = False
    """Its wait is open."""


class Wait(NamedTuple):
    status: str = "open"
    outcomes: int = 0


class Clock(NamedTuple):
    is_late: bool = False
    answers: int = 0
    """How many answers were accepted."""


@dataclass(eq=False)
class Waits(Model):
    """One execution with one wait, and people who answer it."""

    people: int = 2
    accidents: int = 1
    times_out: bool = False
    answer_locks: bool = True
    suspension_asks: bool = True
    timeout_asks: bool = True
    wakes_waiting: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        return [(Execution(), 1), (Clock(), 1)], {}

    def run(self) -> Process:
        token = yield alone("begin", begin)
        if not token:
            return None
        wait = yield alone("load", lambda db: db.find(Wait))
        if wait is not None and wait.status != "open":
            yield alone("complete", lambda db: leave(db, token, "completed"))
            return None
        if wait is None:
            yield does("lock what is held", lambda db: held(db, token) and lock(db))
            won = yield does("open the wait", lambda db: held(db, token) and db.insert(Wait()))
            yield alone("ask", lambda db: won and db.update(Execution, asks=True))
        if (yield alone("is it late?", lambda db: db.get(Clock).is_late)):
            yield alone("time out", lambda db: held(db, token) and self.end(db, "timed out"))
        yield alone("suspend, if it is open and not due", lambda db: self.suspend(db, token))
        return None

    def suspend(self, db: Database, token: int) -> bool:
        wait, row = db.get(Wait), db.get(Execution)
        is_open = row.asks and wait.status == "open" and not db.get(Clock).is_late
        state = "waiting" if is_open or not self.suspension_asks else "pending"
        return leave(db, token, state)

    def end(self, db: Database, status: str) -> bool:
        """Open to an outcome; returns whether it won."""
        wait = db.get(Wait)
        if wait.status != "open" and self.timeout_asks:
            return False
        return db.put(Wait(status, wait.outcomes + 1)) and db.update(Execution, asks=False)

    def answer(self, number: int) -> Process:
        """`resume`: refused if the wait has its outcome."""
        if self.answer_locks:
            yield does("lock", lock)
        row = yield does("read the execution", lambda db: db.get(Execution))
        if not row.asks:
            return
        won = yield does("answer", lambda db: self.end(db, f"answer {number}"))

        def wake(db: Database) -> bool:
            db.outside(db.get(Clock)._replace(answers=db.get(Clock).answers + won))
            if row.state == "waiting" and self.wakes_waiting:
                return db.update(Execution, state="pending", token=0)
            return True

        yield alone("ready, if it waits", wake)

    def events(self, world: World) -> Iterator[Event]:
        row, clock = world.get(Execution), world.get(Clock)
        if row.state == "pending" and row.runs < 6:
            yield Event(f"run {row.runs + 1}", begins=Call(self.run))
        if row.state == "running" and not world.runs(f"run {row.runs}"):
            yield Event("the lease expires", ((row._replace(state="pending", token=0), 1),))
        if row.state == "waiting" and clock.is_late:
            yield Event("sweep: the wait is due", ((row._replace(state="pending"), 1),))
        if row.asks:
            for number in range(1, self.people + 1):
                yield Event(f"person {number}", begins=Call(self.answer, (number,)))
        if self.times_out and world.find(Wait) and not clock.is_late:
            yield Event("the time is up", ((clock._replace(is_late=True), 1),))

    def wrong(self, world: World) -> str | None:
        wait = world.find(Wait)
        if wait is not None and wait.outcomes > 1:
            return "a wait has two outcomes"
        return None

    def is_settled(self, world: World) -> bool:
        return world.get(Execution).state == "completed"


def begin(db: Database) -> int:
    row = db.get(Execution)
    values: dict[str, Any] = {"state": "running", "token": row.runs + 1, "runs": row.runs + 1}
    won = db.update(Execution, lambda one: one.state == "pending", **values)
    return row.runs + 1 if won else 0


def held(db: Database, token: int) -> bool:
    return db.get(Execution).token == token


def lock(db: Database) -> bool:
    return db.lock(Execution) is not None


def leave(db: Database, token: int, state: str) -> bool:
    return db.update(Execution, lambda row: row.token == token, state=state, token=0)


CASES = (
    holds("two people answer at any moment, and one of them wins", Waits(accidents=2)),
    holds("an answer and a timeout: one outcome", Waits(people=1, times_out=True)),
    fails(
        "an answer that does not lock the execution wakes it by what it has read before",
        Waits(people=1, answer_locks=False, accidents=0),
        "stuck",
    ),
    fails(
        "a suspension that does not ask for the answer sleeps on",
        Waits(people=1, suspension_asks=False, accidents=0),
        "stuck",
    ),
    fails(
        "an answer that leaves the waiting row alone wakes nobody",
        Waits(people=1, wakes_waiting=False, accidents=0),
        "stuck",
    ),
    fails(
        "a timeout that does not ask for the open wait writes a second outcome",
        Waits(people=1, times_out=True, timeout_asks=False, accidents=0),
        "a wait has two outcomes",
    ),
)
