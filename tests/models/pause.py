"""Pause: the claim reads the pause in its own statement, and looks once more after its commit.

What is due and paused is parked by its claim. Unpausing lifts the pause, commits, and releases what
is parked, unless it is paused again. A claim that saw the pause may commit after that: so it looks
again, and a lifted pause is kept for longer than a claim lasts, so that ticks go on releasing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import COMMIT, Call, Database, Process, alone, does


class Row(NamedTuple):
    """An execution, or an entry for one registration."""

    state: str = "due"
    token: int = 0


class Pause(NamedTuple):
    state: str = ""
    """On, lifted, or over; empty without a row."""
    times: int = 0


class Ghost(NamedTuple):
    broken: bool = False
    """A claim took the row though the pause was in force when it began."""


@dataclass(eq=False)
class Pauses(Model):
    """One row, workers, and an operator who pauses and unpauses."""

    times: int = 1
    accidents: int = 1
    reads_in_claim: bool = True
    looks_again: bool = True
    is_kept: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        return [(Row(), 1), (Pause(), 1), (Ghost(), 1)], {}

    def work(self) -> Process:
        cached = None
        if not self.reads_in_claim:
            cached = yield alone("is it paused?", is_on)
        parked = yield does("claim, or park", lambda db: self.claim(db, cached))
        yield COMMIT
        if parked is None:
            return None
        if not parked:
            yield alone("work", lambda db: db.update(Row, is_taken, state="done"))
            return None
        if self.looks_again and not (yield alone("is it paused still?", is_on)):
            yield alone("release", release)
        return None

    def claim(self, db: Database, cached: bool | None) -> bool | None:
        """Whether it is parked; `None` if there is nothing to claim."""
        if db.get(Row).state != "due" or db.is_locked(Row):
            return None
        is_paused = is_on(db) if cached is None else cached
        if is_on(db) and not is_paused:
            db.put(Ghost(broken=True))
        db.update(Row, state="parked" if is_paused else "taken")
        return is_paused

    def pause(self) -> Process:
        yield alone("pause", lambda db: db.put(Pause("on", db.get(Pause).times + 1)))

    def unpause(self) -> Process:
        won = yield alone(
            "lift", lambda db: db.update(Pause, lambda one: one.state == "on", state="lifted")
        )
        return Call(self.release) if won else None

    def release(self) -> Process:
        if not (yield alone("is it paused again?", is_on)):
            yield alone("release what is parked", release)

    def events(self, world: World) -> Iterator[Event]:
        row, pause = world.get(Row), world.get(Pause)
        if row.state == "due":
            for name in ("worker A", "worker B"):
                yield Event(name, begins=Call(self.work))
        if row.state == "taken" and not world.runs("worker"):
            yield Event("the lease expires", ((Row(), 1),))
        if pause.state != "on" and pause.times < self.times:
            yield Event("operator pauses", begins=Call(self.pause))
        if pause.state == "on":
            yield Event("operator unpauses", begins=Call(self.unpause))
        if pause.state == "lifted":
            yield Event("tick releases", begins=Call(self.release))
            if not (self.is_kept and world.runs("worker")) and row.state != "parked":
                over = pause._replace(state="over")
                yield Event("nothing is parked, and it is long ago", ((over, 1),))

    def wrong(self, world: World) -> str | None:
        return "a claim took what was paused" if world.get(Ghost).broken else None

    def is_settled(self, world: World) -> bool:
        return world.get(Row).state == "done"


def is_on(db: Database) -> bool:
    return db.get(Pause).state == "on"


def is_taken(row: Row) -> bool:
    return row.state == "taken"


def release(db: Database) -> bool:
    """What is parked and committed is due now; a row that is locked is passed over."""
    return not db.is_locked(Row) and db.update(Row, lambda one: one.state == "parked", state="due")


CASES = (
    holds("no claim that follows a pause takes what is paused", Pauses()),
    holds("what is paused twice is released in the end", Pauses(times=2)),
    fails(
        "a claim that remembers an earlier answer takes what is paused",
        Pauses(reads_in_claim=False, accidents=0),
        "a claim took what was paused",
    ),
    fails(
        "a claim that does not look again leaves a row parked",
        Pauses(looks_again=False, is_kept=False, accidents=0),
        "stuck",
    ),
    fails(
        "a lifted pause that is not kept leaves a row parked by a claim that was killed",
        Pauses(is_kept=False),
        "stuck",
    ),
)
