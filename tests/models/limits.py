"""Limits: at most so many executions of a key run their code, and what waits for a slot gets one.

As in `models/executions/lines.py`: everybody writes, commits, then looks. A look locks the key's
row, counts in a new statement who holds a slot, and admits the oldest of the line. An execution
that suspends or is delayed gives its slot up, and joins the line again as it comes back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.explore import STUCK
from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import COMMIT, Call, Database, Process, alone, does


class Key(NamedTuple):
    """The row that a look locks."""

    used: int = 0
    """Slots in use, if they are counted there."""


class Execution(NamedTuple):
    """*slot* is empty, or says that it ``waits`` in line or ``holds`` one."""

    state: str = "pending"
    slot: str = ""
    run: int = 0
    """Number of the run that may write."""
    rests: bool = False
    """It will suspend, or be delayed, once."""


class Code(NamedTuple):
    """The code of a run is in progress, whatever became of its execution."""

    run: int = 0


ACTIVE = ("pending", "running", "asleep", "delayed")


@dataclass(eq=False)
class Limits(Model):
    """One key with one slot, and executions that start, run, rest, end, or are cancelled."""

    executions: int = 2
    accidents: int = 1
    rest: str = ""
    """What the first execution does once: ``asleep`` or ``delayed``."""
    cancels: bool = False
    lapses: bool = False
    locks: bool = True
    counts_after_locking: bool = True
    looks_after_commit: bool = True
    sweeps: bool = True
    cancel_frees: bool = False
    has_counter: bool = False
    rejoins: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        numbers = range(1, self.executions + 1)
        return [(Key(), 1)], {f"start {one}": Call(self.start, (one,)) for one in numbers}

    def start(self, key: int) -> Process:
        row = Execution(slot="waits", rests=bool(self.rest) and key == 1)
        yield does("insert", lambda db: db.insert(row, key))
        if self.looks_after_commit:
            yield COMMIT
            return Call(self.look)
        free = yield does("count", self.free)
        if free > 0:
            yield does("admit", lambda db: admit(db, free))
        yield COMMIT
        return None

    def look(self) -> Process:
        free = 0
        if not self.counts_after_locking:
            free = yield does("count", self.free)
        if self.locks:
            yield does("lock the key", lambda db: bool(db.lock(Key)))
        if self.counts_after_locking:
            free = yield does("count", self.free)
        yield alone("admit", lambda db: admit(db, free, counts=self.has_counter))
        return None

    def free(self, db: Database) -> int:
        return 1 - (db.get(Key).used if self.has_counter else held(db.rows(Execution)))

    def work(self, key: int, run: int) -> Process:
        """A claim, the code, and what it comes to; each write names the run."""

        def claim(db: Database) -> bool:
            took = db.update(
                Execution, lambda one: is_ready(one) and one.run == run - 1, key,
                state="running", run=run,
            )  # fmt: skip
            return took and db.outside(Code(run), key)

        def end(db: Database) -> bool:
            row = db.get(Execution, key)
            state = self.rest if row.rests else "over"
            db.outside(Code(), key)
            if self.has_counter:
                db.put(Key(db.get(Key).used - 1))
            mine = db.update(
                Execution, lambda one: (one.state, one.run) == ("running", run), key,
                state=state, slot="", rests=False,
            )  # fmt: skip
            return mine or db.update(
                Execution, lambda one: (one.state, one.run) == ("over", run), key, slot=""
            )

        if not (yield alone("claim", claim)):
            return None
        yield alone("end, rest, or notice the cancellation", end)
        return Call(self.look)

    def cancel(self, key: int) -> Process:
        def write(db: Database) -> bool:
            row = db.get(Execution, key)
            keeps = row.state == "running" and not self.cancel_frees
            if self.has_counter and row.slot == "holds" and not keeps:
                db.put(Key(db.get(Key).used - 1))
            return db.update(
                Execution, lambda one: one.state in ACTIVE, key,
                state="over", slot=row.slot if keeps else "",
            )  # fmt: skip

        yield alone("cancel", write)
        return Call(self.look)

    def come_back(self, key: int) -> Process:
        """The sweep wakes it, or a claim finds it due: it joins the line, and then comes a look."""
        values = {"slot": "waits"} if self.rejoins else {}
        yield alone(
            "join the line",
            lambda db: db.update(
                Execution, lambda one: one.state in ("asleep", "delayed"), key,
                state="pending", **values,
            ),
        )  # fmt: skip
        return Call(self.look)

    def events(self, world: World) -> Iterator[Event]:
        for key, row in world.rows(Execution).items():
            code, label = world.find(Code, key) or Code(), f"worker at {key}, run {row.run}"
            if is_ready(row):
                run = row.run + 1
                yield Event(f"worker at {key}, run {run}", begins=Call(self.work, (key, run)))
            if row.state in ("asleep", "delayed"):
                yield Event(f"{key} is due", begins=Call(self.come_back, (key,)))
            is_lost = code.run != 0 and not world.runs(label)
            if (is_lost or self.lapses) and row.state == "running" and code.run == row.run:
                again = (row._replace(state="pending"), key), (Code(), key)
                yield Event(f"lease of {key} ends", again, is_accident=not is_lost)
            if is_lost and row.state == "over" and row.slot:
                yield Event(f"lease of {key} ends", ((row._replace(slot=""), key), (Code(), key)))
            if self.cancels and key == 1 and row.state in ACTIVE:
                yield Event("cancel 1", begins=Call(self.cancel, (key,)))
        waits = any(one.slot == "waits" for one in world.rows(Execution).values())
        if self.sweeps and waits:
            yield Event("sweep", begins=Call(self.look))

    def wrong(self, world: World) -> str | None:
        if held(world.rows(Execution)) > 1:
            return "two hold the slot"
        running = [key for key, one in world.rows(Code).items() if one.run]
        if len(running) > 1:
            return "the code of two runs at once"
        return None

    def is_settled(self, world: World) -> bool:
        rows = world.rows(Execution).values()
        return not world.running and all((one.state, one.slot) == ("over", "") for one in rows)


def held(rows: dict[int, Execution]) -> int:
    return sum(one.slot == "holds" for one in rows.values())


def is_ready(one: Execution) -> bool:
    return one.state == "pending" and one.slot != "waits"


def admit(db: Database, free: int, *, counts: bool = False) -> bool:
    """Those that wait, the oldest first."""
    for key, row in db.rows(Execution).items():
        if row.slot == "waits" and free > 0:
            db.put(row._replace(slot="holds"), key)
            free -= 1
            if counts:
                db.put(Key(db.get(Key).used + 1))
    return True


CASES = (
    holds("a slot is given once, and all get one, whatever dies", Limits()),
    holds("three executions share a slot", Limits(3, accidents=0)),
    holds("one that sleeps gives its slot up, and comes back in line", Limits(rest="asleep")),
    holds("so does one that is delayed before its next attempt", Limits(rest="delayed")),
    holds("a cancelled run keeps the slot until it notices", Limits(cancels=True)),
    fails(
        "a look that counts before it has the lock counts what was there",
        Limits(counts_after_locking=False, accidents=0),
        "two hold the slot",
    ),
    fails("without a lock two looks give one slot", Limits(locks=False, accidents=0), "two hold"),
    fails(
        "starts that look within their own transactions give one slot twice",
        Limits(looks_after_commit=False, sweeps=False, accidents=0),
        "two hold the slot",
    ),
    fails("without a sweep a death before the look holds up the line", Limits(sweeps=False), STUCK),
    fails(
        "a cancellation that frees the slot of a run lets the next one run beside it",
        Limits(cancels=True, cancel_frees=True, accidents=0),
        "the code of two runs at once",
    ),
    fails(
        "a counter is given back twice by a worker that has lost its lease",
        Limits(3, lapses=True, has_counter=True),
        "two hold the slot",
    ),
    fails(
        "one that comes back and does not join the line runs beside the one with the slot",
        Limits(rest="asleep", rejoins=False, accidents=0),
        "the code of two runs at once",
    ),
)
