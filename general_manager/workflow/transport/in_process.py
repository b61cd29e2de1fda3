"""Work done in this process, without workers: at once, or after the caller's commit.

Used for deliveries and executions if `WORKFLOW_ASYNC` is off. Work that a unit of work requests is
done after that unit, one by one, so a chain of events does not deepen the stack.
"""

from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from threading import get_ident
from typing import Final, TypeVar

from django.db import transaction

from general_manager.escaping import get_logger
from general_manager.workflow.core.transactions import is_in_transaction

logger = get_logger(__name__)

T = TypeVar("T")
Work = Callable[[], object]


class _Line:
    """Requests that wait until the current work in this context is finished."""

    def __init__(self) -> None:
        self._waiting: deque[Work] = deque()
        self._thread = get_ident()
        self._is_open = True

    def append(self, work: Work) -> bool:
        """False if the queue is closed, or another thread's: that one may commit too late."""
        is_ours = self._is_open and self._thread == get_ident()
        if is_ours:
            self._waiting.append(work)
        return is_ours

    def run_all(self) -> None:
        while self._waiting:
            _attempt(self._waiting.popleft())

    def close(self) -> None:
        """If the process is ending, the remaining work is recovered like that of a dead process."""
        self._is_open = False


_current: Final[ContextVar[_Line | None]] = ContextVar("general_manager_line", default=None)


def perform(work: Callable[[], T], using: str) -> T:
    """Do *work* now, then the work that it requested with `perform_soon`.

    Inside a caller's transaction on *using* the requested work waits for the commit. Raises what
    *work* raises; failures of the requested work are logged, and that work is recovered like that
    of a dead process.
    """
    if _current.get() is not None or is_in_transaction(using):
        return work()
    line = _Line()
    token = _current.set(line)
    try:
        result = work()
    except Exception:
        line.run_all()
        raise
    else:
        line.run_all()
        return result
    finally:
        line.close()
        _current.reset(token)


def perform_soon(work: Work, using: str) -> None:
    """Do *work* in this process, after the commit if a transaction on *using* is open.

    If other work is in progress here, *work* runs after it; if that one's transaction is rolled
    back, *work* must find nothing to do.
    """
    line = _current.get()
    if line is not None and line.append(work):
        return
    if is_in_transaction(using):
        # Not a partial: if a robust callback fails, Django reads its __qualname__.
        transaction.on_commit(
            lambda: perform(lambda: _attempt(work), using), using=using, robust=True
        )
    else:
        perform(lambda: _attempt(work), using)


def _attempt(work: Work) -> None:
    try:
        work()
    except Exception:
        logger.exception("Work in this process stopped; due work will be picked up later")
