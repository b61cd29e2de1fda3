"""The explorer finds what it must find: races, deadlocks, lost work; and what locks exclude."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from tests.models.counter import Adding, Counter
from tests.models.explore import STUCK, explore
from tests.models.model import Event, Model, Stored, World
from tests.models.world import COMMIT, Blocked, Call, Database, Process, alone, does

Statement = Callable[[Database], object]


class Job(NamedTuple):
    state: str = "ready"


class Mail(NamedTuple):
    sent: int = 0


@dataclass(eq=False)
class Working(Model):
    """A worker takes a job, sends a mail and marks the job as done."""

    is_recovered: bool = False
    most_mails: int = 9

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        return [(Job(), 1), (Mail(), 1)], {"worker": Call(self.work)}

    def work(self) -> Process:
        yield alone(
            "take", lambda db: db.update(Job, lambda one: one.state == "ready", state="taken")
        )
        yield does("done", lambda db: db.update(Job, state="done"))
        yield does("send", lambda db: db.outside(Mail(db.get(Mail).sent + 1)))
        yield COMMIT

    def events(self, world: World) -> Iterator[Event]:
        if self.is_recovered and world.get(Job).state != "done" and not world.running:
            yield Event("another worker", begins=Call(self.work))

    def wrong(self, world: World) -> str | None:
        return "too many mails" if world.get(Mail).sent > self.most_mails else None

    def is_settled(self, world: World) -> bool:
        return world.get(Job).state == "done" and not world.running


def test_the_trace_of_a_race_is_a_shortest_one() -> None:
    verdict = explore(Adding("read"))
    assert verdict.problem == "an addition was lost"
    assert len(verdict.trace) == 6
    assert verdict.trace[0] == "adder 1: read -> 0"
    assert str(verdict).endswith("6. adder 2: commit")


def test_work_that_a_killed_process_leaves_is_found_unless_somebody_does_it() -> None:
    lost = explore(Working())
    assert lost.problem == STUCK
    assert lost.trace == ("worker: KILLED before 'take'",)
    assert "stuck" in str(lost)
    assert explore(Working(is_recovered=True)).problem == ""


def test_a_kill_takes_back_what_is_not_committed_and_no_effect_outside() -> None:
    verdict = explore(Working(is_recovered=True, most_mails=1))
    assert verdict.problem == "too many mails"
    assert "worker: KILLED before 'commit'" in verdict.trace


def test_without_accidents_nothing_is_killed() -> None:
    model = Working()
    model.accidents = 0
    assert explore(model).problem == ""


def test_processes_that_lock_in_a_circle_are_a_deadlock() -> None:
    assert explore(Adding("both", is_swapped=True)).problem == "deadlock of adder 1, adder 2"


def test_a_model_that_is_too_large_is_refused() -> None:
    with pytest.raises(RuntimeError, match="More than 5 states"):
        explore(Adding("lock"), most=5)


def test_a_plain_read_sees_what_is_committed_and_its_own_writes() -> None:
    db = Database({("Counter", 1): Counter(1)}, {}, frozenset(), [("Counter", 1)])
    assert db.get(Counter).value == 1
    assert db.is_locked(Counter)
    own = Database(db.committed, {("Counter", 1): Counter(2)}, frozenset(), [])
    assert own.get(Counter).value == 2
    assert own.rows(Counter) == {1: Counter(2)}
    assert own.find(Counter, 2) is None
    with pytest.raises(KeyError):
        own.get(Counter, 2)


@pytest.mark.parametrize(
    "statement",
    [
        lambda db: db.lock(Counter),
        lambda db: db.update(Counter, value=2),
        lambda db: db.delete(Counter),
        lambda db: db.put(Counter(3)),
        lambda db: db.insert(Counter(3), 2),
    ],
)
def test_a_write_waits_for_the_transaction_that_has_locked_the_row(
    statement: Callable[[Database], object],
) -> None:
    rows = {("Counter", 1): Counter(1)}
    busy = Database(rows, {}, frozenset(), [("Counter", 1), ("Counter", 2)])
    with pytest.raises(Blocked):
        statement(busy)
    free = Database(rows, {}, frozenset(), [])
    assert statement(free)
    assert free.locks


def test_what_does_not_match_is_neither_waited_for_nor_written() -> None:
    busy = Database({("Counter", 1): Counter(1)}, {}, frozenset(), [("Counter", 1)])
    assert not busy.update(Counter, lambda row: row.value == 2, value=3)
    assert not busy.insert(Counter(3))
    assert busy.lock(Counter, 5) is None
    assert not busy.delete(Counter, 5)
    assert (busy.written, busy.locks) == ({}, frozenset())


def test_a_process_goes_on_as_the_one_that_it_returns() -> None:
    def first(value: int) -> Process:
        yield does("set", lambda db: db.put(Counter(value)))
        return Call(second)

    def second() -> Process:
        yield alone("add", lambda db: db.update(Counter, value=db.get(Counter).value + 1))

    class Chain(Model):
        accidents = 0

        def begin(self) -> tuple[list[Stored], dict[str, Call]]:
            return [(Counter(), 1)], {"one": Call(first, (4,))}

        def is_settled(self, world: World) -> bool:
            return not world.running and world.get(Counter).value == 5

    assert explore(Chain()).problem == ""
