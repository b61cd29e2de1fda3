"""Children: the rows, and statements on them."""

from typing import Any, NamedTuple

from tests.models.world import Database


class Parent(NamedTuple):
    state: str = "pending"
    token: int = 0
    runs: int = 0
    gather: str = ""


class Child(NamedTuple):
    state: str = "held"
    has_duty: bool = False


class Slot(NamedTuple):
    """Keys are those of the children."""

    outcome: str = ""
    is_held: bool = False


def begin(db: Database) -> int:
    row = db.get(Parent)
    values: dict[str, Any] = {"state": "running", "token": row.runs + 1, "runs": row.runs + 1}
    return row.runs + 1 if db.update(Parent, lambda one: one.state == "pending", **values) else 0


def held(db: Database, token: int) -> bool:
    return db.get(Parent).token == token


def lock(db: Database) -> bool:
    return db.lock(Parent) is not None


def mark(db: Database, key: int) -> bool:
    """From now on its end leaves a duty; what has ended is found by the run's look."""
    return db.update(Child, lambda one: one.state != "done", key, has_duty=True)


def release(db: Database, key: int) -> bool:
    return db.update(Child, lambda one: one.state == "held", key, state="ready")
