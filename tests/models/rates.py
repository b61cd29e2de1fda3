"""Rates: a limit whose slot returns a while after the first start, not at the end.

As in `models/executions/lines.py` and `values.py`: an admitted execution holds a place that has no
time yet; the claim that starts it writes the time. A look counts those that have not started
before those that have, and pulls in a time that is further away than the period.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import Call, Database, Process, alone, does

PERIOD = 2


class Execution(NamedTuple):
    state: str = "in line"
    until: int = 0
    """When its place is free again; zero if it has not started."""
    started_at: int = 0


class Key(NamedTuple):
    pass


class Clock(NamedTuple):
    now: int = 1
    was_set_back: bool = False


@dataclass(eq=False)
class Rates(Model):
    """Executions of one key, of which one may start in two units of time."""

    executions: int = 2
    accidents: int = 1
    first: int = 1
    """What the clock shows at first."""
    is_set_back: bool = False
    unstarted_first: bool = True
    counts_from_start: bool = True
    pulls_in: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        keys = range(1, self.executions + 1)
        rows: list[Stored] = [(Execution(), one) for one in keys]
        return [*rows, (Key(), 1), (Clock(self.first), 1)], {}

    def look(self) -> Process:
        yield does("lock the key", lambda db: db.lock(Key))
        counts = [("count those to start", unstarted), ("count those that started", started)]
        first, second = counts if self.unstarted_first else counts[::-1]
        places = yield does(*first)
        places += yield does(*second)
        if self.pulls_in:
            yield does("pull in", pull_in)
        if places == 0:
            yield does("give", self.give)
        yield alone("commit", lambda _: None)

    def give(self, db: Database) -> bool:
        waiting = [key for key, row in db.rows(Execution).items() if row.state == "in line"]
        until = 0 if self.counts_from_start else db.get(Clock).now + PERIOD
        admitted: dict[str, Any] = {"state": "admitted", "until": until}
        return bool(waiting) and db.update(Execution, key=waiting[0], **admitted)

    def start(self, key: int) -> Process:
        def run(db: Database) -> bool:
            now = db.get(Clock).now
            until = now + PERIOD if self.counts_from_start else db.get(Execution, key).until
            values = {"state": "done", "until": until, "started_at": now}
            return db.update(Execution, lambda row: row.state == "admitted", key, **values)

        yield alone("begin", run)

    def events(self, world: World) -> Iterator[Event]:
        clock = world.get(Clock)
        for key, row in world.rows(Execution).items():
            if row.state == "admitted":
                yield Event(f"worker of {key}", begins=Call(self.start, (key,)))
        if any(row.state == "in line" for row in world.rows(Execution).values()):
            yield Event("a look", begins=Call(self.look))
        last = 6 if clock.was_set_back else 12
        counts = any(row.until > clock.now for row in world.rows(Execution).values())
        if counts and clock.now < last:
            yield Event(f"it is {clock.now + 1}", ((clock._replace(now=clock.now + 1), 1),))
        if self.is_set_back and not clock.was_set_back:
            yield Event("the clock is set back", ((Clock(1, was_set_back=True), 1),))

    def wrong(self, world: World) -> str | None:
        times = sorted(row.started_at for row in world.rows(Execution).values() if row.started_at)
        close = any(after - before < PERIOD for before, after in pairwise(times))
        return "two starts in one period" if close and not self.is_set_back else None

    def is_settled(self, world: World) -> bool:
        rows, now = world.rows(Execution).values(), world.get(Clock).now
        will_be_free = now == 6 and all(row.until <= now + PERIOD for row in rows)
        return will_be_free or all(row.state == "done" for row in rows)


def unstarted(db: Database) -> int:
    rows = db.rows(Execution).values()
    return sum(row.state == "admitted" and not row.until for row in rows)


def started(db: Database) -> int:
    now = db.get(Clock).now
    return sum(row.until > now for row in db.rows(Execution).values())


def pull_in(db: Database) -> bool:
    most = db.get(Clock).now + PERIOD
    far = [key for key, row in db.rows(Execution).items() if row.until > most]
    return bool(far) and all(db.update(Execution, key=key, until=most) for key in far)


CASES = (
    holds("no period has more starts than the rate", Rates()),
    holds("a clock that is set back holds nothing up", Rates(first=8, is_set_back=True)),
    fails(
        "a look that counts what has started first misses one that starts meanwhile",
        Rates(unstarted_first=False, accidents=0),
        "two starts in one period",
    ),
    fails(
        "a place that counts from the admission lets two start together",
        Rates(counts_from_start=False, accidents=0),
        "two starts in one period",
    ),
    fails(
        "a time that is not pulled in outlasts a clock that is set back",
        Rates(first=8, is_set_back=True, pulls_in=False, accidents=0),
        "stuck",
    ),
)
