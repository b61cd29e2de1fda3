"""Events: a wait is committed before its look, an entry is looked for before it is settled.

An event counts unless it was claimed before the execution started: `seen_at`, written by the first
claim. The drain claims, reads who waits, looks for each, and settles. A run that reaches its open
wait looks as well. A look locks the execution and takes the earliest event that its mailbox has not
taken. A timeout is written by a look that found nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.models.events_rows import (
    Clock,
    Entry,
    Execution,
    Wait,
    begin,
    held,
    is_waiting,
    leave,
    lock,
    time_out,
)
from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import COMMIT, Call, Database, Process, alone, does


@dataclass(eq=False)
class Events(Model):
    """One execution with some waits of one mailbox, and publishers of events."""

    published: int = 1
    waits: int = 1
    accidents: int = 1
    times_out: bool = False
    opens_before: bool = True
    looks_before_settling: bool = True
    timeout_looks: bool = True
    has_cursor: bool = False

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        keys = range(1, self.published + 1)
        publishers = {f"publisher of {one}": Call(self.publish, (one,)) for one in keys}
        return [(Clock(), 1)], publishers

    def publish(self, key: int) -> Process:
        yield does(f"insert event {key}", lambda db: db.insert(Entry(), key))
        yield COMMIT

    def drain(self, key: int) -> Process:
        def claim(db: Database) -> bool:
            one = db.get(Entry, key)
            seen = one.seen_at or db.get(Clock).now
            return db.update(
                Entry, lambda row: row.status == "due", key, status="claimed", seen_at=seen
            )

        if not (yield alone("claim", claim)):
            return None
        settled = alone("settle", lambda db: db.update(Entry, key=key, status="processed"))
        if not self.looks_before_settling:
            yield settled
        if (yield alone("who waits?", is_waiting)):
            yield does("look: lock", lambda db: db.lock(Execution))
            yield does("look", self.settle)
            yield COMMIT
        if self.looks_before_settling:
            yield settled
        return None

    def settle(self, db: Database) -> bool:
        """Give the open wait the earliest event that counts."""
        waits = [key for key, one in db.rows(Wait).items() if one.status == "open"]
        found = [key for key, one in db.rows(Entry).items() if self.counts(db, key, one)]
        if not waits or not found:
            return False
        db.update(Wait, key=waits[0], status="done", event=found[0])
        db.update(Entry, key=found[0], taken_by=waits[0])
        db.update(Execution, lambda row: row.state == "waiting", state="pending")
        return True

    def counts(self, db: Database, key: int, entry: Entry) -> bool:
        row = db.get(Execution)
        is_later = key >= row.first_id if self.has_cursor else True
        in_time = entry.seen_at == 0 or entry.seen_at >= row.started_at
        return in_time and is_later and not entry.taken_by

    def run(self) -> Process:
        token = yield alone("begin", begin)
        if not token:
            return None
        known = yield alone("load", lambda db: tuple(db.rows(Wait).values()))
        place = next((at for at, one in enumerate(known, 1) if one.status == "open"), 0)
        if not place and len(known) == self.waits:
            yield alone("complete", lambda db: leave(db, token, "completed"))
            return None
        if not place:
            place = len(known) + 1
            yield does("lock what is held", lambda db: held(db, token) and lock(db))
            yield does("open the wait", lambda db: held(db, token) and db.insert(Wait(), place))
            if self.opens_before:
                yield COMMIT
        return Call(self.look, (token, place))

    def look(self, token: int, place: int) -> Process:
        yield does("look: lock", lock)
        is_late = yield does("is the wait due?", lambda db: db.get(Clock).is_late)
        is_taken = False
        if self.timeout_looks or not is_late:
            is_taken = yield does("look", lambda db: held(db, token) and self.settle(db))
        if is_late and not is_taken:
            yield does("time out", lambda db: time_out(db, token, place))
        yield COMMIT
        yield does("lock again", lock)

        def suspend(db: Database) -> bool:
            is_open = db.get(Wait, place).status == "open"
            return leave(db, token, "waiting" if is_open else "pending")

        yield alone("suspend, if it is open", suspend)

    def events(self, world: World) -> Iterator[Event]:
        clock, row = world.get(Clock), world.find(Execution)
        if row is None:
            ids = max(world.rows(Entry), default=0) + 1
            later = clock._replace(now=clock.now + 1)
            started = Execution(started_at=later.now, first_id=ids)
            yield Event("start", ((started, 1), (later, 1)))
        elif row.state == "pending" and row.runs < self.waits + 4:
            yield Event(f"run {row.runs + 1}", begins=Call(self.run))
        elif row.state == "running" and not world.runs(f"run {row.runs}"):
            yield Event("the lease expires", ((row._replace(state="pending", token=0), 1),))
        elif row.state == "waiting" and clock.is_late:
            yield Event("sweep: the wait is due", ((row._replace(state="pending"), 1),))
        for key, entry in world.rows(Entry).items():
            if entry.status == "due":
                yield Event(f"drain of {key}", begins=Call(self.drain, (key,)))
            if entry.status == "claimed" and not world.runs(f"drain of {key}"):
                yield Event(f"the lease of {key} expires", ((entry._replace(status="due"), key),))
        if self.times_out and not clock.is_late and world.rows(Wait):
            late = clock._replace(is_late=True, in_time=tuple(world.rows(Entry)))
            yield Event("the time of the wait is up", ((late, 1),))

    def wrong(self, world: World) -> str | None:
        row, entries = world.find(Execution), world.rows(Entry)
        waits = world.rows(Wait).values()
        if row is None:
            return None
        taken = [one.event for one in waits if one.event]
        if any(0 < entries[one].seen_at < row.started_at for one in taken):
            return "an event that was claimed before the start answered a wait"
        if len(taken) != len(set(taken)):
            return "one event answered two waits"
        free = [key for key in world.get(Clock).in_time if not entries[key].taken_by]
        counts = any(not 0 < entries[key].seen_at < row.started_at for key in free)
        if counts and any(one.status == "timed out" for one in waits):
            return "a wait timed out though its event had come"
        return None

    def is_settled(self, world: World) -> bool:
        row, entries = world.find(Execution), world.rows(Entry).values()
        if row is None or world.running or any(one.status != "processed" for one in entries):
            return False
        free = any(one.seen_at >= row.started_at and not one.taken_by for one in entries)
        return row.state == "completed" or (row.state == "waiting" and not free)


CASES = (
    holds("an event that comes at any moment answers the wait", Events()),
    holds("two events answer two waits", Events(2, 2, accidents=0)),
    holds("an event that came in time wins over the timeout", Events(times_out=True)),
    fails(
        "a wait that is not committed before its look is missed by the drain",
        Events(opens_before=False, accidents=0),
        "stuck",
    ),
    fails(
        "an entry that is settled before its look is lost with its drain",
        Events(looks_before_settling=False),
        "stuck",
    ),
    fails(
        "a timeout without a look overtakes an event",
        Events(times_out=True, timeout_looks=False, accidents=0),
        "a wait timed out",
    ),
    fails(
        "a cursor over ids misses an event that is committed late",
        Events(2, 1, has_cursor=True, accidents=0),
        "stuck",
    ),
)
