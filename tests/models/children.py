"""Children: an end leaves a duty, and a look under the parent's lock copies it into the slot.

A run starts children and slots in one commit, opens the gather, looks, and suspends unless the
gather has its outcome. The end of a child commits with its duty; then those that wait for it look.
A look marks which held child may run; each is released after the look's commit, and again by every
later look. The sweep attends to duties that are left.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.models.children_rows import (
    Child,
    Parent,
    Slot,
    begin,
    held,
    lock,
    mark,
    release,
)
from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import COMMIT, Call, Database, Process, alone, does


@dataclass(eq=False)
class Children(Model):
    """One parent with some children, of which `at_once` may run at once."""

    count: int = 2
    at_once: int = 2
    accidents: int = 1
    joins: bool = False
    """The children are others', and are joined: who ends them need not know the parent."""
    look_locks: bool = True
    has_duty: bool = True
    run_looks: bool = True
    suspends_with_care: bool = True
    repeats_releases: bool = True
    marks_joined: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        others = [(Child("ready"), key) for key in self.keys] if self.joins else []
        return [(Parent(), 1), *others], {}

    @property
    def keys(self) -> range:
        return range(1, self.count + 1)

    def run(self) -> Process:
        token = yield alone("begin", begin)
        if not token:
            return None
        if not (yield alone("known?", lambda db: len(db.rows(Slot)))):
            yield does("lock what is held", lambda db: held(db, token) and lock(db))
            yield alone("start children and slots", lambda db: self.start(db, token))
        yield alone("open the gather", lambda db: self.open(db, token))
        if self.joins and self.marks_joined:
            for key in self.keys:
                yield alone(f"mark {key} as awaited", lambda db: mark(db, key))  # noqa: B023 - called before the loop goes on
        suspend = Call(self.suspend, (token,))
        return Call(self.look, (suspend,)) if self.run_looks else suspend

    def start(self, db: Database, token: int) -> bool:
        if not held(db, token):
            return False
        for key in self.keys:
            is_held = key > self.at_once
            db.insert(Slot(is_held=is_held), key)
            if not self.joins:
                db.insert(Child("held" if is_held else "ready", has_duty=False), key)
        return True

    def open(self, db: Database, token: int) -> bool:
        return db.update(Parent, lambda one: one.token == token and not one.gather, gather="open")

    def suspend(self, token: int) -> Process:
        def leave(db: Database) -> bool:
            is_open = db.get(Parent).gather == "open" or not self.suspends_with_care
            return db.update(Parent, state="waiting" if is_open else "pending", token=0)

        if (yield does("lock what is held", lambda db: held(db, token) and lock(db))):
            yield alone("suspend, unless the gather has its outcome", leave)

    def copy(self, db: Database, ended: int) -> tuple[int, ...]:
        """The outcome of the child that *ended*, or of all; returns the slots that are open."""
        rows = db.rows(Child)
        for key, one in db.rows(Slot).items():
            if not one.outcome and rows[key].state == "done" and ended in {0, key}:
                db.update(Slot, key=key, outcome="done")
        return tuple(key for key, one in db.rows(Slot).items() if not one.outcome)

    def settle(self, db: Database, left: tuple[int, ...]) -> tuple[int, ...]:
        """Settle or mark; returns whom to release after the commit."""
        slots, parent = db.rows(Slot), db.get(Parent)
        if parent.gather == "open" and not left:
            state = "pending" if parent.state == "waiting" else parent.state
            db.update(Parent, gather="done", state=state)
        free = self.at_once - sum(not slots[key].is_held for key in left)
        fresh = [key for key in left if slots[key].is_held][: max(free, 0)]
        for key in fresh:
            db.update(Slot, key=key, is_held=False)
        again = [key for key in left if not slots[key].is_held] if self.repeats_releases else []
        rows = db.rows(Child)
        return tuple(key for key in (*again, *fresh) if rows[key].state == "held")

    def look(self, then: Call, ended: int = 0) -> Process:
        if self.look_locks:
            yield does("look: lock", lock)
        left = yield does("copy outcomes", lambda db: self.copy(db, ended))
        marked = yield does("settle, or mark", lambda db: self.settle(db, left))
        yield COMMIT
        for key in marked:
            yield alone(f"release {key}", lambda db: release(db, key))  # noqa: B023 - called before the loop goes on
        return then

    def work(self, key: int) -> Process:
        """The child's run, to its end, and what follows."""

        def end(db: Database) -> bool:
            duty = self.has_duty and (not self.joins or db.get(Child, key).has_duty)
            return db.update(
                Child, lambda one: one.state == "ready", key, state="done", has_duty=duty
            )

        if (yield alone("end, and leave a duty", end)):
            return Call(self.attend, (key,))
        return None

    def attend(self, key: int) -> Process:
        if self.joins and not (yield alone("a duty?", lambda db: db.get(Child, key).has_duty)):
            return None
        done = Call(self.done, (key,))
        is_named = yield alone("does a slot name it?", lambda db: db.find(Slot, key) is not None)
        return Call(self.look, (done, key)) if is_named else done

    def done(self, key: int) -> Process:
        yield alone("no duty left", lambda db: db.update(Child, key=key, has_duty=False))

    def events(self, world: World) -> Iterator[Event]:
        parent = world.get(Parent)
        if parent.state == "pending" and parent.gather != "done" and parent.runs < 3:
            yield Event(f"run {parent.runs + 1}", begins=Call(self.run))
        if parent.state == "running" and not world.runs(f"run {parent.runs}"):
            ready = ((parent._replace(state="pending", token=0), 1),)
            yield Event("sweep: the lease of the parent expires", ready)
        for key, child in world.rows(Child).items():
            if child.state == "ready":
                yield Event(f"worker of {key}", begins=Call(self.work, (key,)))
            if child == ("done", True) and not world.runs(f"worker of {key}"):
                yield Event(f"sweep: attend to {key}", begins=Call(self.attend, (key,)))

    def wrong(self, world: World) -> str | None:
        ready = sum(one.state == "ready" for one in world.rows(Child).values())
        return "more children than at_once" if ready > self.at_once else None

    def is_settled(self, world: World) -> bool:
        parent = world.get(Parent)
        return (parent.gather, parent.state) == ("done", "pending") and not world.running


CASES = (
    holds("a gather is settled once, whatever dies", Children()),
    holds("held children are released one after the other", Children(at_once=1)),
    holds("a joined child that ends at any moment is not missed", Children(1, joins=True)),
    fails(
        "two last children whose looks do not lock the parent miss each other",
        Children(look_locks=False, accidents=0),
        "stuck",
    ),
    fails("a child without a duty dies before its look", Children(has_duty=False), "stuck"),
    fails(
        "a run that does not look misses a child that ended before it was marked",
        Children(1, joins=True, run_looks=False, accidents=0),
        "stuck",
    ),
    fails(
        "a suspension that does not ask for the outcome sleeps on",
        Children(suspends_with_care=False, accidents=0),
        "stuck",
    ),
    fails(
        "a look that does not repeat a release leaves a child held",
        Children(at_once=1, repeats_releases=False),
        "stuck",
    ),
    fails(
        "a joined child that is not marked ends without a word",
        Children(1, joins=True, marks_joined=False, accidents=0),
        "stuck",
    ),
)
