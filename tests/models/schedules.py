"""Schedules: the row of a schedule makes a slot run once, with any number of ticks.

As in `scheduling/rows.py`: a tick reads the row plainly; then, in one transaction, it takes the
slot if the row still says the same and is not paused, and starts the execution. A version that was
in force before is never written back by an older process.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import COMMIT, Call, Database, Process, alone, does


class Schedule(NamedTuple):
    """Slots are whole numbers, in each version."""

    next_at: int = 1
    last_slot: int = 0
    is_paused: bool = False
    paused_with: int = 0
    """The last slot before the pause."""
    version: int = 1
    versions: tuple[int, ...] = (1,)


class Slot(NamedTuple):
    """What was started for it."""

    starts: int = 0
    is_active: bool = False
    """Its correlation id is in use: it is, until the execution fails."""


class Outside(NamedTuple):
    """What stands outside: the time, and what has happened."""

    now: int = 0
    pauses: int = 0
    written_back: bool = False


@dataclass(eq=False)
class Schedules(Model):
    """One schedule with ticks in two processes."""

    versions: tuple[int, int] = (1, 1)
    """Of the schedule, as each process registers it."""
    until: int = 2
    accidents: int = 1
    pauses: bool = False
    compares: bool = True
    is_one_commit: bool = True
    asks_for_pause: bool = True
    remembers: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        return [(Schedule(), 1), (Outside(), 1)], {}

    def tick(self, version: int) -> Process:
        row, now = yield alone("read", lambda db: (db.get(Schedule), db.get(Outside).now))
        is_new = version not in (row.versions if self.remembers else (row.version,))
        if is_new:
            following = max(now, row.last_slot) + 1
            if not (yield alone("adopt", lambda db: self.adopt(db, row, version, following))):
                return None
            row = row._replace(version=version, next_at=following)
        if row.is_paused or row.next_at > now:
            return None
        return Call(self.fire, (row, now))

    def adopt(self, db: Database, row: Schedule, version: int, following: int) -> bool:
        seen = db.get(Schedule).versions
        if version in seen:
            db.outside(db.get(Outside)._replace(written_back=True))
        return db.update(
            Schedule,
            lambda one: (one.version, one.next_at) == (row.version, row.next_at),
            version=version,
            versions=(*seen, version),
            next_at=following,
        )

    def fire(self, row: Schedule, now: int) -> Process:
        """The latest slot that is due; those before it are missed."""

        def is_same(one: Schedule) -> bool:
            same = (one.next_at, one.version) == (row.next_at, row.version)
            return (same or not self.compares) and not (self.asks_for_pause and one.is_paused)

        def take(db: Database) -> bool:
            return db.update(Schedule, is_same, next_at=now + 1, last_slot=now)

        if not (yield does("take the slot", take)):
            return None
        if not self.is_one_commit:
            yield COMMIT
        yield alone(f"start {now}", lambda db: start(db, now))
        return None

    def pause(self) -> Process:
        row = yield does("lock", lambda db: db.lock(Schedule))
        yield alone(
            "pause", lambda db: db.update(Schedule, is_paused=True, paused_with=row.last_slot)
        )

    def unpause(self) -> Process:
        """Slots of the pause are not missed ones."""
        row = yield does("lock", lambda db: db.lock(Schedule))

        def go_on(db: Database) -> bool:
            following = max(db.get(Outside).now, row.last_slot) + 1
            return db.update(Schedule, is_paused=False, next_at=following)

        yield alone("unpause", go_on)

    def events(self, world: World) -> Iterator[Event]:
        outside = world.get(Outside)
        for number, version in enumerate(self.versions):
            yield Event(f"tick of process {number}", begins=Call(self.tick, (version,)))
        if outside.now < self.until:
            later = outside._replace(now=outside.now + 1)
            yield Event(f"it is {later.now}", ((later, 1),))
        if self.pauses and not outside.pauses:
            counted = ((outside._replace(pauses=1), 1),)
            yield Event("operator pauses", counted, Call(self.pause))
        if world.get(Schedule).is_paused:
            yield Event("operator unpauses", begins=Call(self.unpause))
        for key, slot in world.rows(Slot).items():
            if slot.is_active:
                failed = ((slot._replace(is_active=False), key),)
                yield Event(f"the execution of {key} fails", failed)

    def wrong(self, world: World) -> str | None:
        row, outside = world.get(Schedule), world.get(Outside)
        if any(slot.starts > 1 for slot in world.rows(Slot).values()):
            return "a slot was started twice"
        if outside.written_back:
            return "an older version was written back"
        if row.last_slot and not world.running and not world.find(Slot, row.last_slot):
            return "a slot was taken and not started"
        started = [key for key, slot in world.rows(Slot).items() if slot.starts]
        if started and max(started) > row.last_slot and not world.running:
            return "a slot was started and not taken"
        if row.is_paused and row.last_slot != row.paused_with:
            return "a slot was started in a pause"
        return None

    def is_settled(self, world: World) -> bool:
        row, now = world.get(Schedule), world.get(Outside).now
        return now == self.until and row.next_at > now and not row.is_paused


def start(db: Database, slot: int) -> bool:
    """The correlation id refuses a second execution, unless the first one has failed."""
    known = db.find(Slot, slot) or Slot()
    return known.is_active or db.put(Slot(known.starts + 1, is_active=True), slot)


CASES = (
    holds("a slot runs once, whatever dies, though its execution fails", Schedules()),
    holds("a slot runs once beside pauses", Schedules(pauses=True, until=1)),
    holds("in a rolling deploy a slot runs once", Schedules(versions=(1, 2), until=2)),
    fails(
        "a correlation id alone starts a slot again whose execution has failed",
        Schedules(compares=False, accidents=0),
        "a slot was started twice",
    ),
    fails(
        "a slot that is taken in a commit of its own is lost with its tick",
        Schedules(is_one_commit=False),
        "a slot was taken and not started",
    ),
    fails(
        "a tick that asks for the pause only when it reads starts a slot in the pause",
        Schedules(pauses=True, asks_for_pause=False, accidents=0),
        "a slot was started in a pause",
    ),
    fails(
        "an older process that knows only the version in force writes its own back",
        Schedules(versions=(1, 2), remembers=False, accidents=0),
        "an older version was written back",
    ),
)
