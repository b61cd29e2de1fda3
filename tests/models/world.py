"""A database of a few rows, as processes at READ COMMITTED see it: commits, row locks, crashes.

A table is a `NamedTuple`; a row is one of its values, found by the table and a key. A process is a
generator: each `yield` is one statement, which nothing interrupts. Between two of them anything may
happen: other processes go on, or this one is killed, and what it has not committed is gone.
"""

from collections.abc import Callable, Collection, Generator, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

Row = TypeVar("Row", bound=tuple[Any, ...])
Address = tuple[str, Any]
"""The name of a table, and the key of one of its rows."""
Rows = Mapping[Address, tuple[Any, ...] | None]


class Blocked(Exception):
    """The statement waits for the transaction that has locked *address*."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self.address = address


class View:
    """Rows that can be read: those of a moment, or of one statement of a transaction."""

    def __init__(self, committed: Rows, written: Rows | None = None) -> None:
        self.committed = committed
        self.written: dict[Address, tuple[Any, ...] | None] = dict(written or {})

    def find(self, table: type[Row], key: Any = 1) -> Row | None:
        """A plain read: what is committed, and what the transaction itself has written."""
        address = (table.__name__, key)
        row = self.written[address] if address in self.written else self.committed.get(address)
        return cast("Row | None", row)

    def get(self, table: type[Row], key: Any = 1) -> Row:
        row = self.find(table, key)
        if row is None:
            raise KeyError((table.__name__, key))
        return row

    def rows(self, table: type[Row]) -> dict[Any, Row]:
        """All rows of the table, in the order of their keys."""
        keys = {key for name, key in (*self.committed, *self.written) if name == table.__name__}
        found = {key: self.find(table, key) for key in sorted(keys)}
        return {key: row for key, row in found.items() if row is not None}


class Database(View):
    """One statement of a transaction."""

    def __init__(
        self, committed: Rows, written: Rows, locks: frozenset[Address], taken: Collection[Address]
    ) -> None:
        super().__init__(committed, written)
        self.locks = locks
        self.effects: dict[Address, tuple[Any, ...]] = {}
        self._taken = taken

    def is_locked(self, table: type[Row], key: Any = 1) -> bool:
        """By another transaction: what SKIP LOCKED passes over."""
        return (table.__name__, key) in self._taken

    def lock(self, table: type[Row], key: Any = 1) -> Row | None:
        """SELECT FOR UPDATE by key: the newest version; nothing is locked where there is none."""
        if self.find(table, key) is not None:
            self._lock((table.__name__, key))
        return self.find(table, key)

    def put(self, row: tuple[Any, ...], key: Any = 1) -> bool:
        """Insert or overwrite."""
        address = (type(row).__name__, key)
        self._lock(address)
        self.written[address] = row
        return True

    def insert(self, row: tuple[Any, ...], key: Any = 1) -> bool:
        """INSERT ... ON CONFLICT DO NOTHING: waits for another's uncommitted INSERT of the key."""
        return self.find(type(row), key) is None and self.put(row, key)

    def update(
        self,
        table: type[Row],
        where: Callable[[Row], bool] = lambda _: True,
        key: Any = 1,
        **values: Any,
    ) -> bool:
        """UPDATE of one row; whether it changed.

        A row that does not match is not waited for. One that does is locked, and asked again once
        the other transaction is over.
        """
        row = self.find(table, key)
        if row is None or not where(row):
            return False
        return self.put(cast("Any", row)._replace(**values), key)

    def delete(self, table: type[Row], key: Any = 1) -> bool:
        if self.find(table, key) is None:
            return False
        address = (table.__name__, key)
        self._lock(address)
        self.written[address] = None
        return True

    def outside(self, row: tuple[Any, ...], key: Any = 1) -> bool:
        """An effect outside the database, or a message: no rollback takes it back."""
        self.effects[type(row).__name__, key] = row
        return True

    def _lock(self, address: Address) -> None:
        if address in self._taken:
            raise Blocked(address)
        self.locks |= {address}


class Step(NamedTuple):
    """One statement; *commits* ends the transaction with it."""

    text: str
    act: Callable[[Database], Hashable] | None
    commits: bool


COMMIT = Step("commit", None, commits=True)
ROLLBACK = Step("roll back", None, commits=False)


def does(text: str, act: Callable[[Database], Hashable]) -> Step:
    """A statement of a transaction that goes on."""
    return Step(text, act, commits=False)


def alone(text: str, act: Callable[[Database], Hashable]) -> Step:
    """A statement that is a transaction of its own, or the last one and its commit."""
    return Step(text, act, commits=True)


Process = Generator[Step, Any, Any]
"""Gets the result of each statement. It returns a `Call` if that is to go on in its place."""


class Call(NamedTuple):
    """A process that begins: all that its future depends on is in *arguments*."""

    run: Callable[..., Process]
    arguments: tuple[Any, ...] = ()
