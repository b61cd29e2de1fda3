"""Events that answer waits: the rows, and statements on them."""

from typing import Any, NamedTuple

from tests.models.world import Database


class Execution(NamedTuple):
    state: str = "pending"
    token: int = 0
    runs: int = 0
    started_at: int = 0
    first_id: int = 0
    """Ghost of a cursor: ids that were there at its start end before this."""


class Wait(NamedTuple):
    status: str = "open"
    event: int = 0


class Entry(NamedTuple):
    """An event and its entry; keys are ids."""

    status: str = "due"
    seen_at: int = 0
    taken_by: int = 0


class Clock(NamedTuple):
    now: int = 1
    is_late: bool = False
    in_time: tuple[int, ...] = ()


def begin(db: Database) -> int:
    row = db.get(Execution)
    values: dict[str, Any] = {"state": "running", "token": row.runs + 1, "runs": row.runs + 1}
    won = db.update(Execution, lambda one: one.state == "pending", **values)
    return row.runs + 1 if won else 0


def held(db: Database, token: int) -> bool:
    return db.get(Execution).token == token


def lock(db: Database) -> bool:
    return db.lock(Execution) is not None


def is_waiting(db: Database) -> bool:
    return any(one.status == "open" for one in db.rows(Wait).values())


def time_out(db: Database, token: int, place: int) -> bool:
    is_open = held(db, token) and db.get(Wait, place).status == "open"
    return is_open and db.update(Wait, key=place, status="timed out")


def leave(db: Database, token: int, state: str) -> bool:
    return db.update(Execution, lambda row: row.token == token, state=state, token=0)
