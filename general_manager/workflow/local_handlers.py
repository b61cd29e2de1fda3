"""Handlers that no other process could import, kept here while their executions are under way.

With `WORKFLOW_ASYNC` off any callable may be a handler. Its execution is a stored row all the
same, whose path says what it was and leads nowhere.
"""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, Final

MOST: Final = 1_000
"""Executions whose transaction was rolled back are never run: the oldest make room."""

_handlers: Final[OrderedDict[str, Callable[..., Any]]] = OrderedDict()
_lock: Final = Lock()


def keep_handler(execution_id: str, handler: Callable[..., Any]) -> None:
    with _lock:
        _handlers[execution_id] = handler
        while len(_handlers) > MOST:
            _handlers.popitem(last=False)


def find_handler(execution_id: str) -> Callable[..., Any] | None:
    return _handlers.get(execution_id) if _handlers else None


def forget_handler(execution_id: str) -> None:
    if _handlers:
        _handlers.pop(execution_id, None)
