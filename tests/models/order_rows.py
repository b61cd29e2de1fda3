"""Order per key: the rows, and statements on them."""

from typing import NamedTuple

from tests.models.world import Database


class Item(NamedTuple):
    """Keys are the order in which they were inserted, not committed."""

    is_done: bool = False
    failures: int = 0
    effects: int = 0


class Entry(NamedTuple):
    status: str = "due"
    token: int = 0


class Lane(NamedTuple):
    token: int = 0
    is_due: bool = True


class Tokens(NamedTuple):
    last: int = 0


def claim(db: Database, table: type[Entry] | type[Lane], key: int) -> int:
    """A fresh token, or nothing; a row that is locked is passed over."""
    row = db.find(table, key)
    if row is None or db.is_locked(table, key):
        return 0
    token = db.get(Tokens).last + 1
    if isinstance(row, Entry):
        is_ours = row.status == "due" and db.update(Entry, key=key, status="claimed", token=token)
    else:
        is_ours = row.is_due and db.update(Lane, token=token, is_due=False)
    return token if is_ours and db.put(Tokens(token)) else 0


def settle(db: Database, key: int, token: int) -> bool:
    return db.update(Entry, lambda one: one == ("claimed", token), key, status="processed", token=0)


def held(db: Database, token: int) -> bool:
    lane = db.find(Lane)
    return lane is not None and lane.token == token


def let_go(db: Database, token: int) -> bool:
    return db.update(Lane, lambda one: one.token == token, token=0, is_due=True)
