"""Lines of limits: the rows, and statements on them."""

from typing import NamedTuple

from tests.models.world import Database


class Execution(NamedTuple):
    """Keys are the order in the line."""

    state: str = "pending"
    token: int = 0
    is_due: bool = False
    in_line: bool = True
    has_slot: bool = False
    has_slept: bool = False


class Key(NamedTuple):
    will_look: bool = False


def line(db: Database) -> tuple[int, ...]:
    return tuple(key for key, row in db.rows(Execution).items() if row.in_line)


def holders(db: Database) -> tuple[int, ...]:
    return tuple(key for key, row in db.rows(Execution).items() if row.has_slot)


def slots(db: Database) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return holders(db), line(db)


def ended(state: str) -> dict[str, object]:
    return {"state": state, "token": 9, "in_line": False, "has_slot": False, "is_due": False}
