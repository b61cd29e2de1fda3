"""Work that is done in this process, without workers: at once, or after the caller's commit.

`WORKFLOW_ASYNC` off means this way for deliveries and executions. What one piece of work asks for
is done when that piece is finished, one after the other: a chain of events needs no deeper stack.
"""

from collections import deque
from collections.abc import Callable, Collection
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final, TypeVar

from django.db import transaction

from general_manager.escaping import get_logger
from general_manager.workflow.transactions import is_in_transaction

logger = get_logger(__name__)

T = TypeVar("T")
Work = Callable[[], object]


class _Line:
    """What waits until the work under way in this context is finished."""

    def __init__(self) -> None:
        self._waiting: deque[Work] = deque()
        self._is_open = True

    def append(self, work: Work) -> bool:
        """False if the line is closed: a thread may have outlived the work that made it."""
        if self._is_open:
            self._waiting.append(work)
        return self._is_open

    def work_off(self) -> None:
        while self._waiting:
            _attempt(self._waiting.popleft())

    def close(self) -> None:
        """What is left, if the process is ending, is recovered like the work of one that died."""
        self._is_open = False


_current: Final[ContextVar[_Line | None]] = ContextVar("general_manager_line", default=None)


def perform(work: Callable[[], T], using: str) -> T:
    """Do *work* here and now, then what it asked for with `perform_soon`.

    Inside a transaction on *using* that is the caller's, what it asked for waits for the commit.
    Raises what *work* raises; what fails of the rest is logged, and is recovered like the work of
    a process that died.
    """
    if _current.get() is not None or is_in_transaction(using):
        return work()
    line = _Line()
    token = _current.set(line)
    try:
        result = work()
    except Exception:
        line.work_off()
        raise
    else:
        line.work_off()
        return result
    finally:
        line.close()
        _current.reset(token)


def perform_soon(work: Work, using: str) -> None:
    """Do *work* in this process: after the commit of the transaction on *using*, if one is open.

    While other work is under way here, when that is finished; if its transaction was rolled back
    by then, *work* must find nothing to do.
    """
    line = _current.get()
    if line is not None and line.append(work):
        return
    if is_in_transaction(using):
        # No partial: of a robust callback that failed, Django asks for its __qualname__.
        transaction.on_commit(
            lambda: perform(lambda: _attempt(work), using), using=using, robust=True
        )
    else:
        perform(lambda: _attempt(work), using)


def _attempt(work: Work) -> None:
    try:
        work()
    except Exception:
        logger.exception("Work in this process stopped; what is due is picked up again later")


def deliver(using: str, token: str, keys: Collection[int], registry: Any) -> int:
    """Deliver claimed entries to *registry*'s handlers; how many events at least one completed.

    By name, because deliveries stand above the registries whose events they deliver.
    """
    outbox: Any = import_module("general_manager.workflow.outbox")
    return int(outbox.deliver(using, token, list(keys), registry=registry))


def drain(using: str) -> None:
    """Deliver everything that is due in the outbox of database *using*."""
    outbox: Any = import_module("general_manager.workflow.outbox")
    outbox.drain(using)
