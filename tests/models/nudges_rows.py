"""Nudges: the rows, and statements on them."""

from typing import NamedTuple

from tests.models.world import Database

MANY = 2
"""Rows of a full batch: then a worker calls one more to help, and says that it is busy."""


class Entry(NamedTuple):
    state: str = "due"
    by: str = ""


class Queue(NamedTuple):
    busy: str = ""
    """The worker that said so last; empty if that is void, or it was cleared."""


class Broker(NamedTuple):
    messages: int = 0


class Slice(NamedTuple):
    is_over: bool = False


class Shift(NamedTuple):
    """What one worker knows of its task."""

    name: str
    turns: int = 0
    is_busy: bool = False
    has_called: bool = False


def send(db: Database) -> bool:
    return db.outside(Broker(min(db.get(Broker).messages + 1, 5)))


def needs_message(db: Database) -> bool:
    is_due = any(one.state == "due" for one in db.rows(Entry).values())
    return is_due and not bool(db.get(Queue).busy) and not db.get(Broker).messages


def is_slice_over(db: Database) -> bool:
    return db.get(Slice).is_over


def claim(db: Database, name: str) -> tuple[int, ...]:
    due = [key for key, one in db.rows(Entry).items() if one.state == "due"][:MANY]
    for key in due:
        db.put(Entry("taken", name), key)
    return tuple(due)


def begin_one(db: Database, key: int, name: str) -> bool:
    return db.update(Entry, lambda one: one == ("taken", name), key, state="begun")


def give_back(db: Database, name: str) -> bool:
    mine = [key for key, one in db.rows(Entry).items() if one == ("taken", name)]
    return all(db.put(Entry(), key) for key in mine)
