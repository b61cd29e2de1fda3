"""Deliveries that share a transaction: any trouble rolls all of them back, and they go on singly.

As in `outbox/group.py`: handlers are called in savepoints, in the order of entries; then one
statement marks them all, if the claim holds them all. A handler's own exception undoes its
savepoint. A deadlock may have undone everything before it: then nobody is charged.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import COMMIT, ROLLBACK, Call, Database, Process, alone, does


class Entry(NamedTuple):
    status: str = "due"
    token: int = 0
    is_marked: bool = False
    failures: int = 0


class Effect(NamedTuple):
    times: int = 0


class Luck(NamedTuple):
    """Whether the database chooses this transaction as the victim of a deadlock."""

    is_bad: bool = False
    tokens: int = 0


@dataclass(eq=False)
class Groups(Model):
    """Two entries whose handlers are called in one transaction."""

    accidents: int = 1
    freezes: bool = True
    deadlocks: bool = True
    rolls_back: bool = True
    marks_under_claim: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        rows: list[Stored] = [(Entry(), 1), (Entry(), 2), (Effect(), 1), (Effect(), 2)]
        return [*rows, (Luck(), 1)], {}

    def work(self, token: int) -> Process:
        mine = yield alone("claim", lambda db: claim(db, token))
        return Call(self.deliver, (mine, token)) if mine else None

    def deliver(self, keys: tuple[int, ...], token: int) -> Process:
        for key in keys:
            yield does(f"handle {key}", lambda db: add(db, key))  # noqa: B023 - called before the loop goes on
        if self.deadlocks and (yield does("a deadlock?", lambda db: db.get(Luck).is_bad)):
            yield ROLLBACK  # of the whole transaction, whatever the savepoint
            if self.rolls_back:
                return Call(self.singly, (keys, token))
            yield does(f"handle {keys[-1]} again", lambda db: add(db, keys[-1]))
        if not (yield does("mark them", lambda db: self.mark(db, keys, token))):
            return None
        yield COMMIT
        yield alone("settle", lambda db: settle(db, keys, token))
        return None

    def singly(self, keys: tuple[int, ...], token: int) -> Process:
        key, *others = keys
        yield does(f"handle {key}", lambda db: add(db, key))
        if not (yield does("mark it", lambda db: self.mark(db, (key,), token))):
            return None
        yield COMMIT
        yield alone("settle", lambda db: settle(db, (key,), token))
        return Call(self.singly, (tuple(others), token)) if others else None

    def mark(self, db: Database, keys: tuple[int, ...], token: int) -> bool:
        """All of them, or none: it locks the entries by the claim."""
        entries = [db.get(Entry, key) for key in keys]
        if self.marks_under_claim and any(one.token != token for one in entries):
            return False
        if self.marks_under_claim and any(one.is_marked for one in entries):
            return False
        return all(db.update(Entry, key=key, is_marked=True) for key in keys)

    def events(self, world: World) -> Iterator[Event]:
        luck, rows = world.get(Luck), world.rows(Entry)
        is_due = any(one.status == "due" for one in rows.values())
        if is_due and luck.tokens < 5 and all(one.results for one in world.running):
            token = luck.tokens + 1
            counted = ((luck._replace(tokens=token), 1),)
            yield Event(f"worker {token}", counted, Call(self.work, (token,)))
        if self.deadlocks and not luck.is_bad:
            yield Event("others lock the same rows", ((luck._replace(is_bad=True), 1),))
        for key, one in rows.items():
            is_dead = not world.runs(f"worker {one.token}")
            if one.status == "claimed" and (is_dead or self.freezes):
                free = ((one._replace(status="due", token=0), key),)
                yield Event(f"the lease of {key} expires", free, None, not is_dead)

    def wrong(self, world: World) -> str | None:
        for key, entry in world.rows(Entry).items():
            count = world.get(Effect, key).times
            if count > 1:
                return "an effect happened twice"
            if entry.is_marked and not count:
                return "a delivery is marked whose effect is gone"
        return None

    def is_settled(self, world: World) -> bool:
        return all(one.status == "processed" for one in world.rows(Entry).values())


def claim(db: Database, token: int) -> tuple[int, ...]:
    """What is marked already is only settled."""
    due = [key for key, one in db.rows(Entry).items() if one.status == "due"]
    free = [key for key in due if not db.is_locked(Entry, key)]
    for key in free:
        is_marked = db.get(Entry, key).is_marked
        status = "processed" if is_marked else "claimed"
        db.update(Entry, key=key, status=status, token=token)
    return tuple(key for key in free if db.get(Entry, key).status == "claimed")


def add(db: Database, key: int) -> bool:
    return db.update(Effect, key=key, times=db.get(Effect, key).times + 1)


def settle(db: Database, keys: tuple[int, ...], token: int) -> bool:
    for key in keys:
        db.update(Entry, lambda one: one.token == token, key, status="processed")
    return True


CASES = (
    holds("deliveries that share a transaction happen once each, whatever dies", Groups()),
    fails(
        "a group that goes on after a deadlock marks effects that are gone",
        Groups(rolls_back=False, accidents=0),
        "a delivery is marked whose effect is gone",
    ),
    fails(
        "a group that does not check its claim delivers twice",
        Groups(marks_under_claim=False, deadlocks=False),
        "an effect happened twice",
    ),
)
