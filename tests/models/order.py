"""Order per key: a lane is delivered by one worker at a time, its lowest undelivered item first.

As in `models/lane.py`, `outbox/order.py` and `outbox/waking.py`: `publish` inserts an item and
touches no shared row. The drain of its entry inserts or locks the lane, and settles the entry
after that commit. A worker that finds nothing locks the lane, looks again, and then deletes it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.order_rows import (
    Entry,
    Item,
    Lane,
    Tokens,
    claim,
    held,
    let_go,
    settle,
)
from tests.models.world import COMMIT, Call, Database, Process, alone, does


@dataclass(eq=False)
class Order(Model):
    """One lane; a publisher with items 2 and 3, and one whose item 1 may be committed late."""

    items: tuple[tuple[int, ...], ...] = ((2, 3),)
    accidents: int = 1
    fails_once: bool = False
    """The handler fails at its first call for item 2."""
    freezes: bool = False
    wakes_before: bool = True
    wake_locks: bool = True
    looks_again: bool = True
    lowest_first: bool = True
    is_fenced: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        publishers = {f"publisher of {one}": Call(self.publish, (one,)) for one in self.items}
        return [(Tokens(), 1)], publishers

    def publish(self, keys: tuple[int, ...]) -> Process:
        key, *left = keys
        yield does(
            f"insert entry and item {key}",
            lambda db: db.insert(Entry(), key) and db.insert(Item(), key),
        )
        yield COMMIT
        return Call(self.publish, (tuple(left),)) if left else None

    def drain(self, key: int) -> Process:
        token = yield alone("claim", lambda db: claim(db, Entry, key))
        if not token:
            return None
        settled = alone("settle", lambda db: settle(db, key, token))
        if not self.wakes_before:
            yield settled
        if self.wake_locks:
            yield does("insert or lock the lane", lambda db: db.insert(Lane()) or db.lock(Lane))
        else:
            yield does("insert the lane, if there is none", lambda db: db.insert(Lane()))
        yield COMMIT
        if self.wakes_before:
            yield settled
        return None

    def work(self) -> Process:
        token = yield alone("claim the lane", lambda db: claim(db, Lane, 1))
        return Call(self.go_on, (token,)) if token else None

    def go_on(self, token: int, after: int = 0) -> Process:
        head = yield alone("the head?", lambda db: self.head(db, token, after))
        if head == "lost":
            return None
        if head:
            return Call(self.deliver, (token, head))
        if self.looks_again:
            yield does("lock the lane", lambda db: db.lock(Lane))
            if (yield does("look again", lambda db: self.head(db, token, after))):
                yield COMMIT
                return Call(self.go_on, (token, after))
        yield alone("delete the lane", lambda db: held(db, token) and db.delete(Lane))
        return None

    def head(self, db: Database, token: int, after: int) -> int | str:
        if not held(db, token):
            return "lost"
        left = [key for key, one in db.rows(Item).items() if not one.is_done]
        return min([key for key in left if self.lowest_first or key > after], default=0)

    def deliver(self, token: int, key: int) -> Process:
        failures = yield alone(f"begin {key}", lambda db: db.get(Item, key).failures)
        if self.fails_once and key == 2 and not failures:
            yield does("note the failure", lambda db: db.update(Item, key=key, failures=1))
            yield alone("delay the lane", lambda db: let_go(db, token))
            return None

        def complete(db: Database) -> bool:
            can = held(db, token) or not self.is_fenced
            return can and db.update(
                Item,
                lambda one: not (self.is_fenced and one.is_done),
                key,
                is_done=True,
                effects=db.get(Item, key).effects + 1,
            )

        if not (yield does("mark it as completed", complete)):
            return None
        yield COMMIT
        return Call(self.go_on, (token, key))

    def events(self, world: World) -> Iterator[Event]:
        for key, entry in world.rows(Entry).items():
            if entry.status == "due":
                yield Event(f"drain of {key}", begins=Call(self.drain, (key,)))
            elif entry.status == "claimed" and not world.runs(f"drain of {key}"):
                yield Event(f"the lease of entry {key} expires", ((Entry(), key),))
        lane = world.find(Lane)
        if lane is None:
            return
        for name in ("worker A", "worker B"):
            if lane.is_due:
                yield Event(name, begins=Call(self.work))
        if not lane.is_due and (not world.runs("worker") or self.freezes):
            lapsed = ((lane._replace(is_due=True), 1),)
            yield Event("the lease of the lane expires", lapsed, None, world.runs("worker"))

    def wrong(self, world: World) -> str | None:
        items = world.rows(Item)
        if 3 in items and items[3].is_done and not items[2].is_done:
            return "an item overtook one that was committed before it began"
        if any(one.effects > 1 for one in items.values()):
            return "an item took effect twice"
        return None

    def is_settled(self, world: World) -> bool:
        items, expected = world.rows(Item), sum(len(one) for one in self.items)
        entries = world.rows(Entry).values()
        published = not world.runs("publisher") and len(items) in {expected, len(entries)}
        done = all(one.is_done for one in items.values())
        return published and done and all(one.status == "processed" for one in entries)


CASES = (
    holds("a lane is delivered in order", Order(accidents=0)),
    holds("an item is delivered once, whatever dies", Order(items=((2,),))),
    holds(
        "an item that is committed late is not skipped",
        Order(items=((1,), (2,)), accidents=0),
    ),
    holds("a failing head delays its lane", Order(fails_once=True, accidents=0)),
    holds("a worker that lost its lane writes nothing", Order(items=((2,),), freezes=True)),
    fails(
        "an entry that is settled before its lane is woken is lost with its drain",
        Order(items=((2,),), wakes_before=False),
        "stuck",
    ),
    fails(
        "a worker that deletes its lane without a look under the lock leaves an item",
        Order(looks_again=False, accidents=0),
        "stuck",
    ),
    fails(
        "a drain that does not lock the lane relies on a look that is over",
        Order(wake_locks=False, accidents=0),
        "stuck",
    ),
    fails(
        "a cursor over ids skips an item that is committed late",
        Order(items=((1,), (2,)), lowest_first=False, accidents=0),
        "stuck",
    ),
    fails(
        "without the fence a worker that lost its lane delivers again",
        Order(items=((2,),), freezes=True, is_fenced=False),
        "an item took effect twice",
    ),
)
