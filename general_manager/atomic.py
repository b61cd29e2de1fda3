"""Transactions that do not lose work in silence."""

from collections.abc import Iterator
from contextlib import contextmanager

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
        if connections[using].needs_rollback:
            raise TransactionManagementError(
                "A database error was caught inside this transaction, which cannot commit any "
                "more. Put what may fail into a transaction.atomic() of its own."
            )
