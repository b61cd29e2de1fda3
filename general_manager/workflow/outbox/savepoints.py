"""Savepoints for the deliveries of a group, set when they are first needed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final, Self

from django.db import connections
from django.db.transaction import TransactionManagementError

from general_manager.atomic import strict_atomic
from general_manager.cursors import cursor_on

_IN_TRANSACTION: Final = 2  # libpq's state of a transaction that can go on
_DOORS: Final = ("cursor", "transaction", "pipeline")
"""The methods of psycopg's connection to which the use of a database leads, but for cursors on the
server, which Django makes itself."""


class Savepoints(AbstractContextManager["Savepoints"]):
    """A savepoint around each delivery of a group; inside the group's transaction.

    With psycopg 3 it is set when the handler first uses the database: one that does not costs no
    round trip, and one that does costs one. They are nested, and released together at the end. On
    other drivers each is set and released around its handler.
    """

    def __init__(self, using: str) -> None:
        self._using = using
        self._connection: Any = connections[using]
        self._raw = self._connection.connection
        self._is_late = all(hasattr(self._raw, one) for one in _DOORS)
        self._undo = ExitStack()
        self._is_next = False
        """Whether Django is about to set the savepoint of a delivery."""
        self._name: str | None = None
        """The savepoint of the delivery that runs."""
        self._first: str | None = None
        self._is_awaited = False
        """Whether the handler has not used the database yet."""

    def __enter__(self) -> Self:
        if self._is_late:
            self._undo.enter_context(self._connection.execute_wrapper(self._before_statement))
            for name, ours in (
                ("_savepoint", self._begin),
                ("_savepoint_commit", self._commit),
                ("_savepoint_rollback", self._roll_back),
            ):
                self._replace(self._connection, name, ours(getattr(self._connection, name)))
            for name in _DOORS:
                self._replace(self._raw, name, self._before(getattr(self._raw, name)))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def around_next(self) -> AbstractContextManager[None]:
        """`strict_atomic` for one delivery."""
        self._is_next = self._is_late
        return strict_atomic(self._using)

    def release(self) -> None:
        """Raises an exception if a handler ended the transaction and began another."""
        if self._first is not None:
            self._run("RELEASE SAVEPOINT", self._first)

    def _replace(self, owner: Any, name: str, value: object) -> None:
        if name in vars(owner):
            self._undo.callback(setattr, owner, name, vars(owner)[name])
        else:
            self._undo.callback(delattr, owner, name)
        setattr(owner, name, value)

    def _begin(self, others: Callable[[str], None]) -> Callable[[str], None]:
        def begin(name: str) -> None:
            if self._is_next:
                self._is_next, self._name, self._is_awaited = False, name, True
            else:
                others(name)

        return begin

    def _commit(self, others: Callable[[str], None]) -> Callable[[str], None]:
        def commit(name: str) -> None:
            if name != self._name:
                others(name)
            elif self._is_used() and self._raw.pgconn.transaction_status != _IN_TRANSACTION:
                raise TransactionManagementError(
                    "A handler caught an error of the database, or ended the transaction that its "
                    "delivery shares with others."
                )

        return commit

    def _roll_back(self, others: Callable[[str], None]) -> Callable[[str], None]:
        def roll_back(name: str) -> None:
            if name != self._name:
                others(name)
            elif self._is_used():
                self._run("ROLLBACK TO SAVEPOINT", name)

        return roll_back

    def _is_used(self) -> bool:
        """Whether the handler has used the database; it does so no more."""
        is_used, self._is_awaited = not self._is_awaited, False
        return is_used

    def _before(self, door: Callable[..., Any]) -> Callable[..., Any]:
        def opened(*args: Any, **options: Any) -> Any:
            self._set()
            return door(*args, **options)

        return opened

    def _before_statement(self, execute: Callable[..., Any], *args: Any) -> Any:
        self._set()
        return execute(*args)

    def _set(self) -> None:
        if self._is_awaited and self._name is not None:
            self._is_awaited = False
            self._run("SAVEPOINT", self._name)
            self._first = self._first or self._name

    def _run(self, command: str, name: str) -> None:
        with cursor_on(self._connection) as cursor:
            cursor.execute(f"{command} {self._connection.ops.quote_name(name)}")
