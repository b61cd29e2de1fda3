"""Transactions that do not lose work in silence."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django.db import connections, transaction
from django.db.transaction import TransactionManagementError


@contextmanager
def honest_atomic(using: str) -> Iterator[None]:
    """`transaction.atomic`, and an error where that would roll back without one.

    When code inside catches a database error, Django marks the transaction as broken, rolls back at
    the end and says nothing: the caller would take for done what is gone.
    Raises `TransactionManagementError` in that case.
    """
    with transaction.atomic(using=using):
        yield
        _refuse_if_broken(using)


@contextmanager
def writing_atomic(using: str, *, savepoint: bool = True) -> Iterator[None]:
    """`honest_atomic` for code that reads first and then writes.

    SQLite begins a transaction with a read lock and refuses at once to make it a write lock when
    another connection wrote in between. The outermost transaction therefore begins with the write
    lock, for which SQLite waits as long as ``timeout`` says.
    Without *savepoint*, a failure inside breaks the caller's transaction, as a plain save does.
    """
    connection = connections[using]
    block: AbstractContextManager[Any] = transaction.atomic(using=using, savepoint=savepoint)
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        connection.ensure_connection()  # which sets the mode that the settings ask for
        block = _Immediate(connection, block)
    with block:
        yield
        _refuse_if_broken(using)


class _Immediate(AbstractContextManager[None]):
    """Enters *block* with ``BEGIN IMMEDIATE``, unless the settings ask for a mode."""

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
            "A database error was caught inside this transaction, which cannot commit any "
            "more. Put what may fail into a transaction.atomic() of its own."
        )
