"""Nudges: who is busy looks once more before it stops, so nobody needs to send it a message.

As in `transport/nudges.py` and `workers/work.py`: publish, commit, then send a nudge, unless the
queue's row says that a worker is busy. A worker looks until it finds nothing, clears the row, and
looks once more. A timer gives back what a slow turn has not begun. The tick makes up for what is
lost; without accidents nothing waits for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.nudges_rows import (
    MANY,
    Broker,
    Entry,
    Queue,
    Shift,
    Slice,
    begin_one,
    claim,
    give_back,
    is_slice_over,
    needs_message,
    send,
)
from tests.models.world import Call, Process, alone, does


@dataclass(eq=False)
class Nudges(Model):
    """One queue with some entries, and publishers of others."""

    stored: int = 0
    publishers: int = 2
    accidents: int = 0
    ticks: bool = False
    hangs: int = 0
    """The entry whose handler never returns; zero for none."""
    slices: bool = False
    """A worker may have to end because its second is over."""
    asks_after_commit: bool = True
    looks_once_more: bool = True
    calls_at_end: bool = True
    clears_at_end: bool = True
    timer_clears: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        numbers = range(1, self.stored + self.publishers + 1)
        entries: list[Stored] = [(Entry(), one) for one in numbers[: self.stored]]
        publishers = {
            f"publisher {one}": Call(self.publish, (one,)) for one in numbers[self.stored :]
        }
        rows = [(Queue(), 1), (Broker(int(self.stored > 0)), 1), (Slice(), 1)]
        return [*rows, *entries], publishers

    def publish(self, number: int) -> Process:
        if not self.asks_after_commit:
            yield does("insert", lambda db: db.insert(Entry(), number))
            is_busy = yield does("is a worker busy?", lambda db: bool(db.get(Queue).busy))
            yield alone("commit", lambda _: None)
        else:
            yield alone("publish", lambda db: db.insert(Entry(), number))
            is_busy = yield alone("is a worker busy?", lambda db: bool(db.get(Queue).busy))
        if not is_busy:
            yield alone("send", send)

    def work(self, shift: Shift) -> Process:
        """One turn."""
        found = yield alone("claim", lambda db: claim(db, shift.name))
        if found:
            if len(found) >= MANY and not shift.has_called:
                yield alone("call for help", send)
                shift = shift._replace(has_called=True)
            return Call(self.deliver, (shift, found, len(found)))
        if not shift.is_busy:
            return None
        yield alone("clear busy", lambda db: db.put(Queue()))
        return Call(self.go_on, (shift._replace(is_busy=False),)) if self.looks_once_more else None

    def deliver(self, shift: Shift, left: tuple[int, ...], found: int) -> Process:
        key, *others = left
        if (yield alone(f"begin {key}", lambda db: begin_one(db, key, shift.name))):
            if key == self.hangs:
                return None
            yield alone(f"deliver {key}", lambda db: db.update(Entry, key=key, state="done"))
        if others:
            return Call(self.deliver, (shift, tuple(others), found))
        if shift.turns or found >= MANY:
            yield alone("say busy", lambda db: db.put(Queue(shift.name)))
            shift = shift._replace(is_busy=True)
        return Call(self.go_on, (shift._replace(turns=1),))

    def go_on(self, shift: Shift) -> Process:
        if not self.slices or not (yield alone("is the slice over?", is_slice_over)):
            if not self.slices:
                yield alone("look again", lambda _: None)
            return Call(self.work, (shift,))
        if shift.is_busy and self.clears_at_end:
            yield alone(
                "clear busy, if nobody said so since",
                lambda db: db.update(Queue, lambda row: row.busy == shift.name, busy=""),
            )
        if self.calls_at_end:
            yield alone("call another", send)
        return None

    def watch(self, name: str) -> Process:
        """The timer of a worker whose turn is slow."""
        yield alone("give back", lambda db: give_back(db, name))
        if self.timer_clears:
            yield alone("clear busy", lambda db: db.put(Queue()))
        yield alone("call another", send)

    def tick(self) -> Process:
        is_due = yield alone("is anything due, and nobody busy?", needs_message)
        if is_due:
            yield alone("send", send)

    def events(self, world: World) -> Iterator[Event]:
        messages = world.get(Broker).messages
        fewer = ((Broker(messages - 1), 1),)
        for name in ("worker A", "worker B"):
            if messages and not world.runs(name):
                yield Event(name, fewer, Call(self.work, (Shift(name),)))
            hung = world.find(Entry, self.hangs)
            if hung == ("begun", name) and not world.runs(name):
                slow = ((Entry("slow", name), self.hangs),)
                yield Event(f"timer of {name}", slow, Call(self.watch, (name,)))
            for key, one in world.rows(Entry).items():
                if one.by == name and one.state != "done" and not (world.runs(name) or self.hangs):
                    yield Event(f"the lease of {key} expires", ((Entry(), key),))
        if messages:
            yield Event("a message is lost", fewer, is_accident=True)
        if world.get(Queue).busy and self.accidents:
            yield Event("what a worker said is void", ((Queue(), 1),))
        if self.slices and not world.get(Slice).is_over:
            yield Event("the slice is over", ((Slice(is_over=True), 1),))
        if self.ticks:
            yield Event("tick", begins=Call(self.tick))

    def wrong(self, world: World) -> str | None:
        return "a flood of messages" if world.get(Broker).messages > 4 else None

    def is_settled(self, world: World) -> bool:
        left = [key for key, one in world.rows(Entry).items() if one.state != "done"]
        return left in ([], [self.hangs]) and not world.runs("publisher")


STUCK = "stuck"
CASES = (
    holds("without accidents nothing waits for a tick", Nudges(1, 2)),
    holds("a backlog is emptied beside a publisher", Nudges(2, 1)),
    holds("a worker whose slice is over leaves nothing behind", Nudges(2, 1, slices=True)),
    holds("a handler that hangs holds back nothing else", Nudges(3, 1, hangs=3)),
    holds(
        "what a kill or a lost message leaves, the tick picks up",
        Nudges(0, 1, accidents=1, ticks=True),
    ),
    fails(
        "a publisher that asks before its commit trusts a worker that has looked already",
        Nudges(2, 1, asks_after_commit=False),
        STUCK,
    ),
    fails(
        "a worker that clears its mark without a last look leaves an event",
        Nudges(2, 1, looks_once_more=False),
        STUCK,
    ),
    fails(
        "a worker that ends its slice without a message leaves events",
        Nudges(2, 1, slices=True, calls_at_end=False),
        STUCK,
    ),
    fails(
        "a worker that ends its slice marked as busy holds back fresh events",
        Nudges(2, 1, slices=True, clears_at_end=False),
        STUCK,
    ),
    fails(
        "a slow turn that stays marked as busy holds back fresh events",
        Nudges(3, 1, hangs=3, timer_clears=False),
        STUCK,
    ),
    fails("a lost message needs the tick", Nudges(0, 1, accidents=1), STUCK),
)
