"""Isolates user code, such as hooks and predicates, from the surrounding run and transaction."""

from types import TracebackType

from general_manager.workflow.core.context import enter_run, leave_run
from general_manager.workflow.core.transactions import caller_savepoints


class isolated:
    """Steps inside do not belong to a running workflow.

    *atomic*: an exception rolls back the writes inside; the caller's transaction stays usable.
    """

    __slots__ = ("_atomic", "_run", "_savepoints")

    def __init__(self, *, atomic: bool = True) -> None:
        self._atomic = atomic

    def __enter__(self) -> None:
        self._run = enter_run(None)
        self._savepoints = caller_savepoints() if self._atomic else None
        if self._savepoints is not None:
            self._savepoints.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._savepoints is not None:
                self._savepoints.__exit__(kind, error, trace)
        finally:
            leave_run(self._run)
