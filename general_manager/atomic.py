"""Transactions that do not lose work silently."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django.db import connections, transaction
from django.db.transaction import TransactionManagementError


@contextmanager
def strict_atomic(using: str) -> Iterator[None]:
    """`transaction.atomic` that raises an error if it would roll back silently.

    If code inside catches a database error, Django marks the transaction as broken and rolls it
    back at the end without an error, so the caller would take lost work for done.
    Raises `TransactionManagementError` in that case.
    """
    with transaction.atomic(using=using):
        yield
        _refuse_if_broken(using)


@contextmanager
def writing_atomic(using: str, *, savepoint: bool = True) -> Iterator[None]:
    """`strict_atomic` for code that reads first and then writes.

    SQLite begins a transaction with a read lock, and refuses at once to upgrade it to a write lock
    if another connection has written. The outermost transaction therefore begins with the write
    lock, for which SQLite waits up to ``timeout``.
    Without *savepoint*, a failure inside breaks the caller's transaction, as a plain save does.
    """
    connection = connections[using]
    block: AbstractContextManager[Any] = transaction.atomic(using=using, savepoint=savepoint)
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        connection.ensure_connection()  # it sets the mode from the settings
        block = _Immediate(connection, block)
    with block:
        yield
        _refuse_if_broken(using)


class _Immediate(AbstractContextManager[None]):
    """Enters *block* with ``BEGIN IMMEDIATE``, unless the settings define a mode."""

    def __init__(self, connection: Any, block: Any) -> None:
        self._connection = connection
        self._block = block

    def __enter__(self) -> None:
        mode = self._connection.transaction_mode
        self._connection.transaction_mode = mode or "IMMEDIATE"
        try:
            self._block.__enter__()
        finally:
            self._connection.transaction_mode = mode

    def __exit__(self, *raised: object) -> Any:
        return self._block.__exit__(*raised)


def _refuse_if_broken(using: str) -> None:
    if connections[using].needs_rollback:
        raise TransactionManagementError(
            "A database error was caught inside this transaction, so it cannot commit. "
            "Wrap the code that may fail in its own transaction.atomic()."
        )
