"""One transaction for an act and its entry in the log, wherever each of them is stored."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.contrib.admin.models import LogEntry
from django.db import router, transaction


@contextmanager
def committed_together(obj: Any) -> Iterator[None]:
    """A transaction in the database of *obj*, and in that of the log.

    Enter it before the user is named: what follows the commit, such as handlers that run in this
    process, is not the user's act.
    """
    with ExitStack() as open_ones:
        for alias in dict.fromkeys((log_database(), database_of(obj))):
            open_ones.enter_context(transaction.atomic(using=alias))
        yield


def log_database() -> str:
    return router.db_for_write(LogEntry)


def database_of(obj: Any) -> str:
    return obj._state.db or router.db_for_write(type(obj))
