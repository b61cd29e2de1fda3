"""Two processes that add one to a row: the race that every textbook has, to test the explorer."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from tests.models.model import Model, Stored, World, fails, holds
from tests.models.world import COMMIT, Call, Database, Process, alone, does


class Counter(NamedTuple):
    value: int = 0


@dataclass(eq=False)
class Adding(Model):
    """Two adders; `how` they add, and whether somebody repeats what one of them left undone."""

    how: str = "lock"
    accidents: int = 0
    is_swapped: bool = False
    """The second one locks two rows in the other order."""

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        adders = {f"adder {one}": Call(getattr(self, self.how), (one,)) for one in (1, 2)}
        return [(Counter(), 1), (Counter(), 2)], adders

    def read(self, _: int) -> Process:
        value = yield does("read", lambda db: db.get(Counter).value)
        yield does("write", lambda db: db.put(Counter(value + 1)))
        yield COMMIT

    def lock(self, _: int) -> Process:
        value = yield does("lock", lambda db: (db.lock(Counter) or Counter()).value)
        yield does("write", lambda db: db.put(Counter(value + 1)))
        yield COMMIT

    def expect(self, one: int) -> Process:
        value = yield alone("read", lambda db: db.get(Counter).value)
        where = f"write, if it is still {value}"
        has_won = yield alone(
            where,
            lambda db: db.update(Counter, lambda row: row.value == value, value=value + 1),
        )
        return None if has_won else Call(self.expect, (one,))

    def both(self, one: int) -> Process:
        first = 3 - one if self.is_swapped else 1
        for key in (first, 3 - first):
            yield does(f"add to {key}", partial(_add, key))
        yield COMMIT

    def is_settled(self, world: World) -> bool:
        return not world.running

    def wrong(self, world: World) -> str | None:
        lost = not world.running and world.accidents == self.accidents
        return "an addition was lost" if lost and world.get(Counter).value != 2 else None


def _add(key: int, db: Database) -> bool:
    row = db.lock(Counter, key)
    return row is not None and db.put(Counter(row.value + 1), key)


CASES = (
    holds("adders that lock the row lose nothing", Adding("lock")),
    holds("adders that compare and swap lose nothing", Adding("expect")),
    fails(
        "adders that read and then write lose an addition",
        Adding("read"),
        "an addition was lost",
    ),
    holds("adders that lock two rows in one order both end", Adding("both")),
    fails(
        "adders that lock two rows in opposite orders wait for each other",
        Adding("both", is_swapped=True),
        "deadlock of adder 1, adder 2",
    ),
)
