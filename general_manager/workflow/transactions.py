"""Keeping a handler's failure out of the transaction of whoever called it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from django.db import connections, transaction

from general_manager.atomic import honest_atomic
from general_manager.conf import is_configured


def caller_savepoints() -> AbstractContextManager[None] | None:
    """A savepoint in every transaction that is open in this thread, or `None` if none is.

    What raises inside undoes its own writes and leaves the caller's transaction usable. Needs no
    database.
    """
    if not is_configured():
        return None
    aliases = [
        connection.alias
        for connection in connections.all(initialized_only=True)
        if connection.in_atomic_block
    ]
    return _savepoints(aliases) if aliases else None


def is_in_transaction(using: str) -> bool:
    """Whether this thread is inside a transaction on *using* that will commit or roll back.

    The outermost transaction of a Django `TestCase` does not count: it never commits, and what is
    tested in it would.
    """
    connection = connections[using]
    return connection.in_atomic_block and not all(
        getattr(block, "_from_testcase", False)  # what Django's own `durable=True` asks
        for block in connection.atomic_blocks
    )


def one_transaction(using: str) -> AbstractContextManager[object]:
    """The caller's transaction on *using*, as it is, or else one of our own."""
    inside = connections[using].in_atomic_block
    return nullcontext() if inside else transaction.atomic(using=using)


def drop_broken_connections() -> None:
    """Close the connections of this thread whose server went away, so that they are made anew.

    With `CELERY_DB_REUSE_MAX` Celery keeps a connection over tasks and never asks whether it
    works; Django asks only at the end of a request.
    """
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred and not connection.in_atomic_block:
            if connection.is_usable():
                connection.errors_occurred = False
            else:
                connection.close()


@contextmanager
def _savepoints(aliases: list[str]) -> Iterator[None]:
    with ExitStack() as savepoints:
        for alias in aliases:
            savepoints.enter_context(honest_atomic(alias))
        yield
