"""Commits that do not wait for the disk, and deliveries that share a transaction.

As in `models/sql/commits.py`, `executions/commits.py` and `outbox/group.py`. The log of a database
keeps its order: a crash loses a suffix of it. What is lost must happen again, and nothing that the
outside has heard may be lost. A deadlock's victim has nothing left of its transaction.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import Call

WAITS = frozenset({"resume", "cancel", "begun", "sent", "charged", "ended"})
"""Commits that wait; a delivery, an atomic step and a look without an answer do not."""


class Disk(NamedTuple):
    """Commits in order; the first *flushed* of them survive a crash."""

    log: tuple[str, ...] = ()
    flushed: int = 0
    steps: int = 0
    """How often the atomic step has committed: its result has another key each time."""


class Outside(NamedTuple):
    """What nobody can take back."""

    told: frozenset[str] = frozenset()
    sent: frozenset[int] = frozenset()
    """Keys with which the call of a step that is not atomic was made."""
    charges: int = 0


class Runner(NamedTuple):
    at: str = ""
    """What a run is about to do outside; gone with the database, which its worker notices."""


@dataclass(eq=False)
class Unwaited(Model):
    """An event is delivered and starts an execution of three steps; a client resumes and asks."""

    waits: frozenset[str] = WAITS
    makes_durable: bool = True
    """A step that is not atomic waits for the steps before it."""
    accidents: int = 2

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        return [(Disk(), 1), (Outside(), 1), (Runner(), 1)], {}

    def events(self, world: World) -> Iterator[Event]:
        disk, outside, runner = world.get(Disk), world.get(Outside), world.get(Runner)
        yield from self._client(disk, outside)
        if "delivered" not in disk.log:
            yield self._commits(disk, "delivered")
        elif "step" not in disk.log:
            yield self._commits(disk._replace(steps=disk.steps + 1), "step")
        elif "sent" not in disk.log:
            yield from self._send(disk, outside, runner)
        else:
            yield from self._charge(disk, outside, runner)
        if disk.flushed < len(disk.log):
            yield Event("the log is flushed", ((self._flushed(disk), 1),))
        crashed = disk._replace(log=disk.log[: disk.flushed])
        yield Event("THE DATABASE CRASHES", ((crashed, 1), (Runner(), 1)), is_accident=True)

    def _client(self, disk: Disk, outside: Outside) -> Iterator[Event]:
        for name in ("resume", "cancel"):
            if name not in disk.log:
                yield self._commits(disk, name)
        for name in sorted({"resume", "cancel", "ended"} & set(disk.log) - outside.told):
            told = outside._replace(told=outside.told | {name})
            yield Event(f"the outside hears: {name}", ((told, 1),))

    def _send(self, disk: Disk, outside: Outside, runner: Runner) -> Iterator[Event]:
        """A call at least once, but always with the same key."""
        if runner.at != "send":
            ready = self._flushed(disk) if self.makes_durable else disk
            yield Event("run: about to send", ((ready, 1), (Runner("send"), 1)))
            return
        sent = outside._replace(sent=outside.sent | {disk.steps})
        yield Event("run: SENDS", ((sent, 1), (self._logged(disk, "sent"), 1), (Runner(), 1)))
        yield Event("run: SENDS, and dies", ((sent, 1), (Runner(), 1)), is_accident=True)

    def _charge(self, disk: Disk, outside: Outside, runner: Runner) -> Iterator[Event]:
        """A call at most once, and the end."""
        if "begun" not in disk.log:
            yield self._commits(disk, "begun", Runner("charge"))
        elif "charged" in disk.log:
            if "ended" not in disk.log:
                yield self._commits(disk, "ended")
        elif runner.at == "charge":
            charged = outside._replace(charges=outside.charges + 1)
            yield Event("run: CHARGES", ((charged, 1), (Runner("save"), 1)))
        elif runner.at == "save":
            yield self._commits(disk, "charged", Runner())

    def _commits(self, disk: Disk, name: str, *rows: tuple[Any, ...]) -> Event:
        writes = [(self._logged(disk, name), 1), *((row, 1) for row in rows)]
        return Event(f"{name}: commit", tuple(writes))

    def _logged(self, disk: Disk, name: str) -> Disk:
        new = disk._replace(log=(*disk.log, name))
        return self._flushed(new) if name in self.waits else new

    @staticmethod
    def _flushed(disk: Disk) -> Disk:
        return disk._replace(flushed=len(disk.log))

    def wrong(self, world: World) -> str | None:
        disk, outside = world.get(Disk), world.get(Outside)
        if outside.told - set(disk.log):
            return "what was acknowledged is lost"
        if outside.charges > 1:
            return "a once step is called twice"
        if len(outside.sent) > 1:
            return "the outside got two results of one step"
        return None

    def is_settled(self, world: World) -> bool:
        log, at = world.get(Disk).log, world.get(Runner).at
        in_doubt = "begun" in log and "charged" not in log and not at
        return in_doubt or "ended" in world.get(Outside).told


class Chunk(NamedTuple):
    """Two deliveries, whose handlers lock the rows of *plan* in that order."""

    plan: str
    is_group: bool = True
    at: int = 0
    locks: str = ""
    believed: tuple[int, ...] = ()
    """Deliveries that it takes for done, and settles at its commit."""
    pending: tuple[int, ...] = ()
    """Deliveries whose effects its transaction really has."""


class Delivered(NamedTuple):
    effects: tuple[tuple[str, int], ...] = ()
    settled: frozenset[tuple[str, int]] = frozenset()
    charged: bool = False


@dataclass(eq=False)
class Grouped(Model):
    """Two groups that lock rows A, B and B, A: each can be a deadlock's victim."""

    trouble: str = "all back"
    """What a victim does: *all back*, *one failed*, or *goes on* as if only its own were undone."""
    accidents: int = 1

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        return [(Chunk("AB"), 1), (Chunk("BA"), 2), (Delivered(), 1)], {}

    def events(self, world: World) -> Iterator[Event]:
        for key in (1, 2):
            yield from self._turn(key, world.get(Chunk, key), world.get(Chunk, 3 - key), world)

    def _turn(self, key: int, chunk: Chunk, other: Chunk, world: World) -> Iterator[Event]:
        done, number = world.get(Delivered), chunk.at

        def event(text: str, new: Chunk, rows: Delivered = done) -> Event:
            is_accident = text.endswith("KILLED")
            return Event(f"{chunk.plan}: {text}", ((new, key), (rows, 1)), None, is_accident)

        if number == len(chunk.plan):
            if chunk.believed:
                over = chunk._replace(locks="", believed=(), pending=())
                yield event("commits", over, _settled(done, chunk))
            return
        later = chunk._replace(at=number + 1)
        if not chunk.is_group and (chunk.plan, number) in done.effects:
            yield event(f"{number} is done already", later)
        elif chunk.plan[number] not in other.locks:
            if chunk.is_group:
                yield event(f"delivers {number}", _with_one_more(chunk))
            else:
                yield event(
                    f"delivers {number} alone", later, _settled(done, _with_one_more(chunk))
                )
        elif other.at < len(other.plan) and other.plan[other.at] in chunk.locks:
            victims = {
                "all back": event("deadlock: all back, one by one", _alone(chunk)),
                "one failed": event("deadlock: one failed", later, done._replace(charged=True)),
                "goes on": event("deadlock: goes on", chunk._replace(locks="", pending=())),
            }
            yield victims[self.trouble]
        if chunk.is_group and chunk.pending:
            yield event("its worker is KILLED", _alone(chunk))

    def wrong(self, world: World) -> str | None:
        done = world.get(Delivered)
        if len(set(done.effects)) < len(done.effects):
            return "an effect happens twice"
        if done.charged:
            return "a handler is charged for a deadlock of its group"
        return "settled without its effect" if done.settled - set(done.effects) else None

    def is_settled(self, world: World) -> bool:
        return len(world.get(Delivered).settled) == 4


def _alone(chunk: Chunk) -> Chunk:
    return Chunk(chunk.plan, is_group=False)


def _with_one_more(chunk: Chunk) -> Chunk:
    one = (chunk.at,)
    return chunk._replace(
        at=chunk.at + 1,
        locks=chunk.locks + chunk.plan[chunk.at],
        believed=chunk.believed + one,
        pending=chunk.pending + one,
    )


def _settled(done: Delivered, chunk: Chunk) -> Delivered:
    effects = done.effects + tuple((chunk.plan, one) for one in chunk.pending)
    believed = {(chunk.plan, one) for one in chunk.believed}
    return done._replace(effects=effects, settled=done.settled | believed)


LOST = "what was acknowledged is lost"
CASES = (
    holds("what a crash of the database undoes happens again", Unwaited()),
    holds("so it is if every commit waits", Unwaited(WAITS | {"delivered", "step"})),
    *(
        fails(f"{name} does not wait, and is lost after its answer", Unwaited(WAITS - {name}), LOST)
        for name in ("resume", "cancel", "ended")
    ),
    fails(
        "a once step that begins without waiting is called again",
        Unwaited(WAITS - {"begun"}),
        "a once step is called twice",
    ),
    fails(
        "a call after an atomic step that is not durable is repeated with another result",
        Unwaited(makes_durable=False),
        "the outside got two results of one step",
    ),
    holds("a deadlock or a kill rolls a group back, and all is delivered one by one", Grouped()),
    fails(
        "a victim's savepoint alone is rolled back, as its failure",
        Grouped("one failed"),
        "a handler is charged",
    ),
    fails(
        "a victim goes on, though the database has rolled back everything",
        Grouped("goes on"),
        "settled without its effect",
    ),
)
