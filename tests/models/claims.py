"""Claims: several are taken, one is begun; every write of a run is fenced by its token.

As in `models/executions/claims.py`, `waking.py` and `models/step.py`: what is taken stays pending
under the worker's token. A begin checks the token. A step's writes and its checkpoint are one
transaction, in which the checkpoint locks the execution by its token. An end clears the token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.models.model import Event, Model, Stored, World, fails, holds
from tests.models.world import COMMIT, Call, Database, Process, alone, does

KILLER = 1
"""The execution whose step may kill its worker."""


class Execution(NamedTuple):
    state: str = "pending"
    token: str = ""
    is_due: bool = True
    crashes: int = 0
    is_stepped: bool = False
    """Its one step has its checkpoint."""
    ends: int = 0


class Effect(NamedTuple):
    """What the step wrote into the database."""

    times: int = 0


class Tokens(NamedTuple):
    taken: int = 0


@dataclass(eq=False)
class Claims(Model):
    """Workers that take what is due, and run it."""

    executions: int = 2
    freezes: bool = False
    """Accidents include a lease that expires while its worker lives."""
    accidents: int = 1
    takes_pending: bool = True
    begins_by_token: bool = True
    is_one_commit: bool = True
    checkpoint_is_fenced: bool = True
    end_is_fenced: bool = True

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        keys = range(1, self.executions + 1)
        rows: list[Stored] = [(Execution(), key) for key in keys]
        return [*rows, *((Effect(), key) for key in keys), (Tokens(), 1)], {}

    def run(self, keys: tuple[int, ...], token: str) -> Process:
        key, *others = keys
        left = Call(self.run, (tuple(others), token)) if others else None

        def is_ours(row: Execution) -> bool:
            return row.state in {"pending", "running"} and row.token == token

        def begins(row: Execution) -> bool:
            is_taken = row.token == token if self.begins_by_token else True
            return is_taken and row.state != "done"

        begun = {"state": "running", "token": token}
        if not (yield alone(f"begin {key}", lambda db: db.update(Execution, begins, key, **begun))):
            return left
        if not (yield alone("load the step", lambda db: db.get(Execution, key).is_stepped)):
            yield does("the step's writes", lambda db: more(db, key))
            if not self.is_one_commit:
                yield COMMIT
            fence = is_ours if self.checkpoint_is_fenced else None
            done = yield does("checkpoint", lambda db: checkpoint(db, key, fence))
            if not done:
                return left
            yield COMMIT

        def complete(db: Database) -> bool:
            values: dict[str, Any] = {"state": "done", "token": "", "is_due": False}
            ends = db.get(Execution, key).ends + 1
            return db.update(
                Execution,
                is_ours if self.end_is_fenced else lambda _: True,
                key,
                ends=ends,
                **values,
            )

        yield alone("complete", complete)
        return left

    def events(self, world: World) -> Iterator[Event]:
        rows, number = world.rows(Execution), world.get(Tokens).taken
        due = tuple(key for key, row in rows.items() if row.is_due)
        if due:
            name = f"worker {number + 1}"
            state = "pending" if self.takes_pending else "running"
            taken: dict[str, Any] = {"token": name, "is_due": False, "state": state}
            writes = [(rows[key]._replace(**taken), key) for key in due]
            tokens = (Tokens(number + 1), 1)
            yield Event(f"{name} takes {due}", (tokens, *writes), Call(self.run, (due, name)))
        for key, row in rows.items():
            if not row.token:
                continue
            is_dead = not world.runs(f"{row.token} ")
            if is_dead or self.freezes:
                crashes = row.crashes + (row.state == "running" and is_dead)
                free = row._replace(state="pending", token="", is_due=True, crashes=crashes)
                yield Event(f"the lease of {key} expires", ((free, key),), None, not is_dead)

    def wrong(self, world: World) -> str | None:
        rows = world.rows(Execution)
        if any(one.times > 1 for one in world.rows(Effect).values()):
            return "a step took effect twice"
        if any(row.ends > 1 for row in rows.values()):
            return "an execution ended twice"
        crashes = [row.crashes for row in rows.values()]
        return "more were charged than died" if sum(crashes) > self.accidents else None

    def is_settled(self, world: World) -> bool:
        return all(row.state == "done" for row in world.rows(Execution).values())


def more(db: Database, key: int) -> bool:
    return db.update(Effect, key=key, times=db.get(Effect, key).times + 1)


def checkpoint(db: Database, key: int, fence: Any) -> bool:
    """The row of the step, if there is none; it locks the execution, whose token it checks."""
    if fence is None:
        return db.update(Execution, key=key, is_stepped=True)
    return db.update(Execution, fence, key, is_stepped=True)


CASES = (
    holds("each execution ends once, whatever dies", Claims()),
    holds("a run that lost its lease writes nothing", Claims(1, freezes=True, accidents=2)),
    fails(
        "a claim that marks as running what it only takes charges what had not begun",
        Claims(takes_pending=False),
        "more were charged than died",
    ),
    fails(
        "a checkpoint in a commit of its own lets a step take effect twice",
        Claims(1, is_one_commit=False),
        "a step took effect twice",
    ),
    fails(
        "a checkpoint without the token lets a step take effect twice",
        Claims(1, freezes=True, checkpoint_is_fenced=False),
        "a step took effect twice",
    ),
    fails(
        "an end without the token ends an execution twice",
        Claims(1, freezes=True, end_is_fenced=False),
        "an execution ended twice",
    ),
)
