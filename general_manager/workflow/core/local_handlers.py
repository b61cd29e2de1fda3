"""Handlers that other processes cannot import, kept while their executions are active.

With `WORKFLOW_ASYNC` off any callable may be a handler. Its execution is stored as well, with a
path that describes the handler but cannot be imported.
"""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, Final

MOST_KEPT: Final = 1_000
"""A bound, since executions whose transaction was rolled back never run; oldest go first."""

_handlers: Final[OrderedDict[str, Callable[..., Any]]] = OrderedDict()
_lock: Final = Lock()


def keep_handler(execution_id: str, handler: Callable[..., Any]) -> None:
    with _lock:
        _handlers[execution_id] = handler
        while len(_handlers) > MOST_KEPT:
            _handlers.popitem(last=False)


def find_handler(execution_id: str) -> Callable[..., Any] | None:
    return _handlers.get(execution_id) if _handlers else None


def forget_handler(execution_id: str) -> None:
    if _handlers:
        _handlers.pop(execution_id, None)
