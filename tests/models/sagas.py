"""Sagas: what leaves the block is committed before the first undo, and from then on all is undone.

As in `durable/sagas.py`, `models/execution_sagas.py` and `models/executions/ending.py`: the row of
a saga is written with its first step. A request to end, or a deadline, leaves `ending` on the row;
a checkpoint and a completion require that there is none. An undo and its checkpoint are one commit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.sagas_rows import (
    Effect,
    Execution,
    Saga,
    Weather,
    add,
    begin,
    goes_on,
    held,
    release,
)
from tests.models.world import COMMIT, Call, Database, Process, alone, does


@dataclass(eq=False)
class Sagas(Model):
    """A saga of two steps, the first of which has an undo; the second may fail."""

    accidents: int = 1
    asks: str = ""
    """``cancel``: with compensation; ``deadline``: the sweep ends it."""
    clears: bool = True  # the second step would not fail again in a later run
    records_first: bool = True
    opens_with_step: bool = True
    completion_asks: bool = True
    undo_is_one_commit: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        return [(Execution(), 1), (Saga(), 1), (Effect(), 1), (Weather(), 1)], {}

    def run(self) -> Process:
        token = yield alone("begin", begin)
        if not token:
            return None
        saga, ending = yield alone("load", lambda db: (db.get(Saga), db.get(Execution).ending))
        if saga.status == "undone":
            return Call(self.end, (token, "failed"))
        if saga.status == "undoing":
            return Call(self.undo, (token, True))
        if ending:
            can_undo = saga.status or saga.is_stepped
            return Call(self.record if can_undo else self.end, (token, "failed"))
        if saga.has_second:
            return Call(self.complete, (token,))
        return Call(self.second if saga.is_stepped else self.first, (token,))

    def first(self, token: int) -> Process:
        yield does("the step's writes", lambda db: add(db, 1))

        def checkpoint(db: Database) -> bool:
            status = "open" if self.opens_with_step else ""
            return goes_on(db, token) and db.update(Saga, is_stepped=True, status=status)

        if not (yield does("checkpoint, and the saga's row", checkpoint)):
            return None
        yield COMMIT
        if not self.opens_with_step:
            yield alone(
                "the saga's row", lambda db: held(db, token) and db.update(Saga, status="open")
            )
        return Call(self.second, (token,))

    def second(self, token: int) -> Process:
        is_bad = yield alone("call the second step", lambda db: db.get(Weather).is_bad)
        if is_bad:
            return Call(
                self.record if self.records_first else self.undo, (token, self.records_first)
            )
        won = yield alone(
            "checkpoint", lambda db: goes_on(db, token) and db.update(Saga, has_second=True)
        )
        return Call(self.complete, (token,)) if won else None

    def record(self, token: int, _: Any) -> Process:
        """What left the block, for good."""
        won = yield alone(
            "begin undoing", lambda db: held(db, token) and db.update(Saga, status="undoing")
        )
        return Call(self.undo, (token, True)) if won else None

    def undo(self, token: int, is_recorded: bool) -> Process:
        if not (yield alone("is it undone?", lambda db: db.get(Saga).is_undone)):
            yield does("the undo's writes", lambda db: add(db, -1))
            if not self.undo_is_one_commit:
                yield COMMIT
            if not (
                yield does(
                    "checkpoint", lambda db: held(db, token) and db.update(Saga, is_undone=True)
                )
            ):
                return None
            yield COMMIT
        yield alone("undone", lambda db: held(db, token) and db.update(Saga, status="undone"))
        return Call(self.end, (token, "failed"))

    def end(self, token: int, state: str) -> Process:
        yield alone(
            "end",
            lambda db: db.update(
                Execution,
                lambda row: row.token == token,
                state=db.get(Execution).ending or state,
                token=0,
            ),
        )

    def complete(self, token: int) -> Process:
        def close(db: Database) -> bool:
            return db.update(
                Execution,
                lambda row: row.token == token and not (self.completion_asks and row.ending),
                state="completed",
                token=0,
            ) and db.update(Saga, status="closed")

        if not (yield alone("close and complete", close)):
            yield alone("release, to end", lambda db: release(db, token))

    def ask(self) -> Process:
        """`cancel(compensate=True)`, or the sweep at the deadline."""
        row = yield does("lock", lambda db: db.lock(Execution))
        is_open = yield does("an open saga?", lambda db: db.get(Saga).status in {"open", "undoing"})
        if row.state not in {"pending", "running"} or row.ending:
            return
        is_asked = is_open or (self.asks == "cancel" and row.state == "running")
        values: dict[str, Any] = {"state": "cancelled", "token": 0}
        if is_asked and self.asks == "cancel":
            values = {"ending": "cancelled"}
        elif is_asked:
            values = {"ending": "failed", "state": "pending", "token": 0}
        elif self.asks == "deadline":
            values["state"] = "failed"
        yield alone("ask" if is_asked else "end at once", lambda db: db.update(Execution, **values))

    def events(self, world: World) -> Iterator[Event]:
        row, weather = world.get(Execution), world.get(Weather)
        if row.state == "pending" and row.runs < 5:
            yield Event(f"run {row.runs + 1}", begins=Call(self.run))
        if row.state == "running" and not world.runs(f"run {row.runs}"):
            yield Event("the lease expires", ((row._replace(state="pending", token=0), 1),))
        if weather.is_bad and self.clears:
            clear = ((weather._replace(is_bad=False), 1),)
            yield Event("the second step would not fail any more", clear)
        if self.asks and not weather.has_asked:
            asked = ((weather._replace(has_asked=True), 1),)
            yield Event(self.asks, asked, Call(self.ask))

    def wrong(self, world: World) -> str | None:
        row, count = world.get(Execution), world.get(Effect).times
        if count not in {0, 1}:
            return "an undo took effect twice"
        if row.state == "completed" and row.ending:
            return "it completed though it was asked to end"
        if row.state == "completed" and not count:
            return "it completed though a step was undone"
        if row.state in {"failed", "cancelled"} and count:
            return "it failed and a step is in force"
        return None

    def is_settled(self, world: World) -> bool:
        return world.get(Execution).state in {"completed", "failed", "cancelled"}


CASES = (
    holds("a saga ends as a whole, whatever dies", Sagas(accidents=2)),
    holds("a cancellation undoes what was done", Sagas(asks="cancel")),
    holds("a deadline undoes what was done", Sagas(asks="deadline")),
    fails(
        "an undo before what left the block is recorded runs in an execution that completes",
        Sagas(records_first=False),
        "it completed though a step was undone",
    ),
    fails(
        "a saga whose row follows its first step is not undone by a deadline",
        Sagas(asks="deadline", opens_with_step=False, accidents=0),
        "it failed and a step is in force",
    ),
    fails(
        "a completion that does not ask completes what is to end",
        Sagas(asks="cancel", completion_asks=False, accidents=0),
        "it completed though it was asked to end",
    ),
    fails(
        "an undo with its checkpoint in a commit of its own takes effect twice",
        Sagas(undo_is_one_commit=False),
        "an undo took effect twice",
    ),
)
