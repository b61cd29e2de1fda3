"""Keeping a handler's failure out of the transaction of whoever called it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from django.db import connections, transaction

from general_manager.conf import is_configured


def caller_savepoints() -> AbstractContextManager[bool]:
    """A savepoint in every transaction that is open in this thread; yields whether there is one.

    What raises inside undoes its own writes and leaves the caller's transaction usable. Outside
    of any transaction this does nothing, and needs no database.
    """
    if not is_configured():
        return nullcontext(False)
    aliases = [
        connection.alias
        for connection in connections.all(initialized_only=True)
        if connection.in_atomic_block
    ]
    return _savepoints(aliases) if aliases else nullcontext(False)


@contextmanager
def _savepoints(aliases: list[str]) -> Iterator[bool]:
    with ExitStack() as savepoints:
        for alias in aliases:
            savepoints.enter_context(transaction.atomic(using=alias))
        yield True
