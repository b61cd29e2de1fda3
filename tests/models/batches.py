"""Batches: one statement begins several executions, one statement completes them.

As in `models/executions/batches.py` and `executions/runs/batch.py`. If the worker dies, nobody
knows whose code it ran. Then none of the batch is charged, and the next run of each of them is
alone, where a death is charged. Statements of a batch pass over rows that others have locked: those
begin, and end, by themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import Call, Database, Process, alone

KILLER = 1
"""The execution whose handler kills its worker each time."""
MOST_CRASHES = 2


class Execution(NamedTuple):
    state: str = "ready"
    token: str = ""
    in_batch: bool = False
    run_alone: bool = False
    crashes: int = 0
    ends: int = 0
    calls: int = 0
    """How often its handler returned."""

    @property
    def is_calm(self) -> bool:
        return not (self.crashes or self.run_alone)


@dataclass(eq=False)
class Batches(Model):
    """Three executions, one of which may kill its worker; and somebody who cancels one."""

    kills: bool = True
    """Whether the first one kills its worker."""
    accidents: int = 0
    freezes: bool = False
    cancels: bool = False
    charges_batch: bool = False
    completes_by_token: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        return [(Execution(), key) for key in (1, 2, 3)], {}

    def work(self, keys: tuple[int, ...], token: str) -> Process:
        begun = yield alone("begin", lambda db: begin(db, keys, token))
        called: tuple[int, ...] = ()
        for key in begun:
            if key == KILLER and self.kills:
                return None  # dead
            yield alone(f"call {key}", lambda db: call(db, key))  # noqa: B023 - run at once
            called += (key,)
        yield alone("complete", lambda db: self.complete(db, called, token))
        return None

    def complete(self, db: Database, keys: tuple[int, ...], token: str) -> bool:
        for key in keys:
            ends = db.get(Execution, key).ends + 1
            db.update(
                Execution,
                lambda one: one.token == token or not self.completes_by_token,
                key, state="done", token="", ends=ends,
            )  # fmt: skip
        return True

    def events(self, world: World) -> Iterator[Event]:
        rows = world.rows(Execution)
        used = {one.token for one in rows.values()}
        names = (f"worker {number}" for number in count(1))
        name = next(one for one in names if one not in used and not world.runs(f"{one} "))
        ready = [key for key, one in rows.items() if one.state == "ready"]
        calm = [key for key in ready if rows[key].is_calm]
        suspect = [key for key in ready if key not in calm]
        spent = [key for key in suspect if rows[key].crashes >= MOST_CRASHES]
        for keys in [tuple(calm), *((key,) for key in suspect if key not in spent)]:
            if keys:
                taken = [(rows[key]._replace(state="taken", token=name), key) for key in keys]
                yield Event(f"{name} takes {keys}", tuple(taken), Call(self.work, (keys, name)))
        for key in spent:
            failed = rows[key]._replace(state="failed", ends=rows[key].ends + 1)
            yield Event(f"{key} is stopped", ((failed, key),))
        for key, one in rows.items():
            is_dead = not world.runs(f"{one.token} ")
            if one.token and (is_dead or self.freezes):
                freed = self._freed(one, is_dead=is_dead)
                yield Event(f"the lease of {key} expires", ((freed, key),), None, not is_dead)
        if self.cancels and rows[3].state not in {"done", "cancelled"}:
            ended = rows[3]._replace(state="cancelled", token="", ends=rows[3].ends + 1)
            yield Event("3 is cancelled", ((ended, 3),))

    def _freed(self, one: Execution, *, is_dead: bool) -> Execution:
        died = is_dead and one.state == "running"
        is_charged = died and (self.charges_batch or not one.in_batch)
        return one._replace(
            state="ready", token="", in_batch=False,
            crashes=one.crashes + is_charged,
            run_alone=one.run_alone or (died and one.in_batch),
        )  # fmt: skip

    def wrong(self, world: World) -> str | None:
        rows = world.rows(Execution)
        if any(one.ends > 1 for one in rows.values()):
            return "an execution ended twice"
        if self.kills and any(one.crashes for key, one in rows.items() if key != KILLER):
            return "a death is charged to another execution"
        if any(one.state == "done" and not one.calls for one in rows.values()):
            return "an execution completed whose handler was not called"
        return None

    def is_settled(self, world: World) -> bool:
        states = {one.state for one in world.rows(Execution).values()}
        return states <= {"done", "failed", "cancelled"}


def begin(db: Database, keys: tuple[int, ...], token: str) -> tuple[int, ...]:
    """Which of them this worker still holds."""
    together = len(keys) > 1

    def is_taken(one: Execution) -> bool:
        return one.state == "taken" and one.token == token

    return tuple(
        key
        for key in keys
        if db.update(Execution, is_taken, key, state="running", in_batch=together, run_alone=False)
    )


def call(db: Database, key: int) -> bool:
    return db.update(Execution, key=key, calls=min(2, db.get(Execution, key).calls + 1))


CASES = (
    holds("a handler that kills its worker is stopped, and charged alone", Batches()),
    holds("each of a batch ends once, whatever dies", Batches(kills=False, accidents=2)),
    holds(
        "what was cancelled or lost its lease is not completed with its batch",
        Batches(kills=False, accidents=1, freezes=True, cancels=True),
    ),
    fails(
        "a death that charges all that runs charges a batch for one of it",
        Batches(charges_batch=True),
        "a death is charged to another execution",
    ),
    fails(
        "an end of a batch without the token ends an execution twice",
        Batches(kills=False, accidents=1, freezes=True, completes_by_token=False),
        "an execution ended twice",
    ),
)
