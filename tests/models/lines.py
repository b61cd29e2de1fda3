"""Lines of limits: looks that are lost, planned or too late, and keys that are forgotten.

As in `models/executions/lines.py`: who starts, ends, sleeps or is cancelled writes, commits, then
looks. A look locks the key's row, counts the holders in a new statement, makes the oldest of the
line ready, and plans the sweep's look if a line is left. Keys that nobody uses are deleted.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.models.lines_rows import (
    Execution,
    Key,
    ended,
    holders,
    line,
    slots,
)
from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import Call, Database, Process, alone, does


@dataclass(eq=False)
class Lines(Model):
    """Executions of one key, of which one may run at once."""

    executions: int = 2
    accidents: int = 1
    sleeps: bool = False
    """The first one sleeps once, and gives its slot back for so long."""
    cancels: bool = False
    """Execution 2 may be cancelled before it runs."""
    forgets: bool = False
    plans: bool = True
    gives_to_the_line: bool = True
    freezes: bool = False

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        keys = range(1, self.executions + 1)
        return [], {f"starter of {one}": Call(self.start, (one,)) for one in keys}

    def start(self, key: int) -> Process:
        yield alone("insert, in the line", lambda db: db.insert(Execution(), key))
        return Call(self.look)

    def look(self) -> Process:
        if (yield does("lock the key", lambda db: db.lock(Key))) is None:
            if not (yield does("does anybody wait?", line)):
                return None
            yield does("insert the key, or lock it", lambda db: db.insert(Key()) or db.lock(Key))
        held, waiting = yield does("count the holders, read the line", slots)
        is_free = not held and bool(waiting)
        if is_free:
            yield does(f"give to {waiting[0]}", lambda db: self.give(db, waiting[0]))
        is_left = self.plans and len(waiting) > is_free
        yield alone("plan the next look", lambda db: db.update(Key, will_look=is_left))
        return None

    def give(self, db: Database, key: int) -> bool:
        """Made ready, if it still waits."""
        return db.update(
            Execution,
            lambda row: row.in_line or not self.gives_to_the_line,
            key,
            in_line=False,
            has_slot=True,
            is_due=True,
        )

    def work(self, key: int, token: int) -> Process:
        def is_ready(row: Execution) -> bool:
            return row.state == "pending" and row.is_due and row.has_slot

        values = {"state": "running", "token": token, "is_due": False}
        if not (yield alone("begin", lambda db: db.update(Execution, is_ready, key, **values))):
            return None
        if (
            self.sleeps
            and key == 1
            and (yield alone("load", lambda db: not db.get(Execution, key).has_slept))
        ):
            asleep = {"state": "waiting", "token": 0, "has_slept": True}
            slot = {"has_slot": False}
            won = yield alone(
                "sleep",
                lambda db: db.update(
                    Execution, lambda row: row.token == token, key, **asleep, **slot
                ),
            )
        else:
            won = yield alone(
                "complete",
                lambda db: db.update(
                    Execution, lambda row: row.token == token, key, **ended("done")
                ),
            )
        return Call(self.look) if won else None

    def wake(self, key: int) -> Process:
        """The sweep, at the end of a sleep: back into the line."""

        def ready(db: Database) -> bool:
            has_slot = db.get(Execution, key).has_slot
            values = {"state": "pending", "in_line": not has_slot, "is_due": has_slot}
            return db.update(Execution, lambda row: row.state == "waiting", key, **values)

        return Call(self.look) if (yield alone("wake", ready)) else None

    def cancel(self, key: int) -> Process:
        yield does("lock", lambda db: db.lock(Execution, key))
        won = yield alone(
            "cancel",
            lambda db: db.update(
                Execution, lambda row: row.state == "pending", key, **ended("cancelled")
            ),
        )
        return Call(self.look) if won else None

    def forget(self) -> Process:
        """Delete the key, if it seems unused; skipped if a look has locked it."""
        is_idle = yield does(
            "is the key unused, and not locked?",
            lambda db: (
                db.find(Key) == Key()
                and not db.is_locked(Key)
                and not (line(db) or holders(db))
                and bool(db.lock(Key))
            ),
        )
        if is_idle:
            yield alone("delete the key", lambda db: db.delete(Key))

    def events(self, world: World) -> Iterator[Event]:
        rows = world.rows(Execution)
        for key, row in rows.items():
            if row.state == "pending" and row.is_due and row.token < 4:
                text = f"worker of {key}, run {row.token + 1}"
                yield Event(text, begins=Call(self.work, (key, row.token + 1)))
            dead = not world.runs(f"worker of {key}, run {row.token}")
            if row.state == "running" and (dead or self.freezes):
                lapsed = row._replace(state="pending", is_due=True)
                yield Event(f"sweep: the lease of {key} expires", ((lapsed, key),), None, not dead)
            if row.state == "waiting":
                yield Event(f"sweep: wake {key}", begins=Call(self.wake, (key,)))
        known = world.find(Key)
        is_lost = self.plans and any(row.in_line for row in rows.values())
        if (is_lost or (known and known.will_look)) and not world.running:
            yield Event("sweep: look", begins=Call(self.look))
        if self.forgets and known == Key():
            yield Event("sweep: forget", begins=Call(self.forget))
        if self.cancels and 2 in rows and rows[2].state == "pending":
            yield Event("somebody cancels 2", begins=Call(self.cancel, (2,)))

    def wrong(self, world: World) -> str | None:
        rows = world.rows(Execution).values()
        if sum(row.state == "running" for row in rows) > 1:
            return "two executions run at once"
        if sum(row.has_slot for row in rows) > 1:
            return "two executions hold one slot"
        if any(row.has_slot and row.state in {"done", "cancelled"} for row in rows):
            return "an execution that is over holds a slot"
        if any(row.has_slot and row.state == "waiting" for row in rows):
            return "an execution that sleeps holds a slot"
        return None

    def is_settled(self, world: World) -> bool:
        rows = world.rows(Execution).values()
        over = all(row.state in {"done", "cancelled"} for row in rows)
        return over and not world.running


CASES = (
    holds("a line moves on, whatever dies", Lines()),
    holds("a slot is free while its execution sleeps", Lines(sleeps=True, accidents=0)),
    holds("what is cancelled in the line gets no slot", Lines(cancels=True, accidents=0)),
    holds("a key that is forgotten comes back with its line", Lines(forgets=True, accidents=0)),
    holds("a lapsed lease keeps its slot", Lines(freezes=True)),
    fails("a line without a planned look is lost with a look", Lines(plans=False), "stuck"),
    fails(
        "a look that does not ask whether the execution still waits gives to a cancelled one",
        Lines(cancels=True, gives_to_the_line=False, accidents=0),
        "an execution that is over holds a slot",
    ),
)
