"""Entries in several queues: a worker of one delivers what belongs there, then passes the entry on.

As in `outbox/chunk.py`: a worker delivers to the registrations of its queue. If others are left,
settling writes the queue of the next one, due now, and remembers which registrations did not want
the event; after the commit the other queue gets a nudge. A retry stays in, or returns to, the
queue of the registration that failed. The tick sends nudges to queues with due work.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import Call, Database, Process, alone

QUEUES = ("", "a", "b")


class Entry(NamedTuple):
    queue: str = ""
    status: str = "due"
    token: int = 0
    visits: int = 0
    unwanted_by: frozenset[str] = frozenset()


class Registration(NamedTuple):
    """Keys are ids."""

    queue: str
    outcome: str = ""
    """Its record: done, or failed and due again; empty without one."""
    failures: int = 0


class Messages(NamedTuple):
    """Queues with a message on its way."""

    queues: frozenset[str] = frozenset()
    tokens: int = 0


@dataclass(eq=False)
class Queues(Model):
    """One event for registrations in two queues, published where neither is known."""

    unwanted: frozenset[str] = frozenset()
    """Registrations whose validator refuses the event."""
    fails: frozenset[str] = frozenset()
    """Registrations that fail at their first call."""
    accidents: int = 1
    ticks: bool = True
    remembers: bool = True
    nudges_others: bool = True
    follows_failure: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        registrations: list[Stored] = [(Registration("a"), "r1"), (Registration("b"), "r2")]
        return [(Entry(), 1), (Messages(frozenset([""])), 1), *registrations], {}

    def work(self, queue: str) -> Process:
        token = yield alone("claim", lambda db: claim(db, queue))
        if not token:
            return
        known = yield alone("load", lambda db: tuple(db.rows(Registration).items()))
        unwanted = yield alone("load the entry", lambda db: db.get(Entry).unwanted_by)
        for key, one in known:
            if one.queue != queue or one.outcome == "done":
                continue
            if key in self.unwanted:
                unwanted |= {key}
                continue
            failed = key in self.fails and not one.failures
            yield alone(f"deliver to {key}", lambda db: record(db, key, failed, token))  # noqa: B023 - called before the loop goes on
        following = yield alone("what is left?", lambda db: self.following(db, queue, unwanted))
        yield alone("settle", lambda db: settle(db, token, following, unwanted, self.remembers))
        if following not in {None, queue} and self.nudges_others:
            yield alone(f"nudge {following}", lambda db: send(db, following))

    def following(self, db: Database, queue: str, unwanted: frozenset[str]) -> str | None:
        """The queue of a registration that has not had the event, else of one that failed."""
        rows = db.rows(Registration).items()
        fresh = [one.queue for key, one in rows if not one.outcome and key not in unwanted]
        again = [one.queue for _, one in rows if one.outcome == "failed"]
        if again and not fresh:
            return again[0] if self.follows_failure else queue
        return next(iter(fresh), None)

    def events(self, world: World) -> Iterator[Event]:
        entry, messages = world.get(Entry), world.get(Messages)
        for queue in sorted(messages.queues):
            fewer = ((messages._replace(queues=messages.queues - {queue}), 1),)
            yield Event(f"worker of {queue!r}", fewer, Call(self.work, (queue,)))
            yield Event(f"the message to {queue!r} is lost", fewer, is_accident=True)
        if entry.status == "claimed" and not world.runs("worker"):
            due = entry._replace(status="due", token=0)
            yield Event("the lease expires", ((due, 1),))
        if self.ticks and entry.status == "due" and not world.running:
            sent = messages._replace(queues=messages.queues | {entry.queue})
            yield Event("tick", ((sent, 1),))

    def wrong(self, world: World) -> str | None:
        return "the entry goes from queue to queue" if world.get(Entry).visits > 6 else None

    def is_settled(self, world: World) -> bool:
        rows = world.rows(Registration).items()
        done = all(one.outcome == "done" for key, one in rows if key not in self.unwanted)
        return world.get(Entry).status == "processed" and done


def claim(db: Database, queue: str) -> int:
    messages = db.get(Messages)
    token = messages.tokens + 1
    won = db.update(
        Entry,
        lambda row: row.status == "due" and row.queue == queue,
        status="claimed",
        token=token,
    )
    return token if won and db.put(messages._replace(tokens=token)) else 0


def record(db: Database, key: str, failed: bool, token: int) -> bool:
    """The handler's writes and the record, fenced by the claim."""
    if db.get(Entry).token != token:
        return False
    row = db.get(Registration, key)
    outcome = "failed" if failed else "done"
    return db.update(Registration, key=key, outcome=outcome, failures=row.failures + failed)


def settle(
    db: Database, token: int, queue: str | None, unwanted: frozenset[str], remembers: bool
) -> bool:
    row = db.get(Entry)
    if row.token != token:
        return False
    if queue is None:
        return db.update(Entry, status="processed", token=0)
    kept = unwanted if remembers else frozenset[str]()
    return db.put(Entry(queue, "due", 0, row.visits + 1, kept))


def send(db: Database, queue: str) -> bool:
    messages = db.get(Messages)
    return db.outside(messages._replace(queues=messages.queues | {queue}))


NONE = frozenset[str]()
BOTH = frozenset(["r1", "r2"])
CASES = (
    holds("an entry reaches the registrations of every queue, whatever dies", Queues()),
    holds("without accidents no queue waits for a tick", Queues(accidents=0, ticks=False)),
    holds("registrations that do not want an event are asked once", Queues(unwanted=BOTH)),
    holds("a retry returns to the queue of what failed", Queues(fails=BOTH)),
    fails(
        "an entry that does not remember who did not want it goes from queue to queue",
        Queues(unwanted=BOTH, remembers=False, accidents=0),
        "the entry goes from queue to queue",
    ),
    fails(
        "an entry that is passed on without a nudge waits for a tick",
        Queues(nudges_others=False, accidents=0, ticks=False),
        "stuck",
    ),
    fails(
        "a retry that stays where the entry was settled last is never delivered",
        Queues(fails=frozenset(["r1"]), follows_failure=False, accidents=0),
        "the entry goes from queue to queue",
    ),
)
