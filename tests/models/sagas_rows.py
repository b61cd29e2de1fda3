"""Sagas: the rows, and statements on them."""

from typing import Any, NamedTuple

from tests.models.world import Database


class Execution(NamedTuple):
    state: str = "pending"
    token: int = 0
    runs: int = 0
    ending: str = ""
    """How it is to end, once it has undone what it did."""


class Saga(NamedTuple):
    status: str = ""
    """Open, undoing, undone or closed; empty without a row."""
    is_stepped: bool = False
    is_undone: bool = False
    has_second: bool = False


class Effect(NamedTuple):
    """What the first step has done, in the database."""

    times: int = 0


class Weather(NamedTuple):
    is_bad: bool = True
    """Whether the second step fails now."""
    has_asked: bool = False


def begin(db: Database) -> int:
    row = db.get(Execution)
    values: dict[str, Any] = {"state": "running", "token": row.runs + 1, "runs": row.runs + 1}
    won = db.update(Execution, lambda one: one.state == "pending", **values)
    return row.runs + 1 if won else 0


def held(db: Database, token: int) -> bool:
    """The fence of a write: the execution is locked by its token until the commit."""
    row = db.get(Execution)
    return row.token == token and (db.lock(Execution) or row).token == token


def goes_on(db: Database, token: int) -> bool:
    """The fence of a step that is not an undo."""
    return held(db, token) and not db.get(Execution).ending


def add(db: Database, count: int) -> bool:
    return db.update(Effect, times=db.get(Effect).times + count)


def release(db: Database, token: int) -> bool:
    return db.update(Execution, lambda row: row.token == token, state="pending", token=0)
