"""Isolates user code, such as hooks and predicates, from the surrounding run and transaction."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Self

from django.db import DatabaseError

from general_manager.atomic import strict_atomic
from general_manager.workflow.core.connections import ConnectionClosed
from general_manager.workflow.core.context import enter_run, leave_run
from general_manager.workflow.core.transactions import (
    Surroundings,
    caller_savepoints,
    is_in_transaction,
    open_transactions,
)


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


class nothing_left_open:
    """Roll back what the code inside leaves open, and raise `TransactionLeftOpen`.

    Costs no statement, so on MySQL a raw BEGIN is not seen.
    """

    __slots__ = ("_around", "_what")

    def __init__(self, what: object) -> None:
        self._what = what

    def __enter__(self) -> None:
        self._around = Surroundings(None, ask=False)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._around.close_what_was_left_open(self._what)
        except ConnectionClosed:
            self._around.discard_what_was_left_open(self._what)
            raise
        if error is not None:
            self._around.discard_what_was_left_open(self._what)


@contextmanager
def called_aside(what: object) -> Iterator[None]:
    """For user code beside a delivery or a run, such as hooks, receivers and predicates.

    `isolated`, and `nothing_left_open`: what is written next would be part of what it left open.
    """
    with isolated(), nothing_left_open(what):
        yield


class RunSavepoints:
    """A savepoint around a run in every transaction that is open in this thread.

    An exception rolls back the writes of the run, and its steps; the caller's transaction stays
    usable. Not so in the outermost transaction of a `TestCase`: what the steps wrote is committed
    for the code under test, and stays, unless the database refuses to go on after the exception.
    """

    def __init__(self) -> None:
        self.is_undone = False
        """Whether an exception has rolled something back."""
        self._undoes = False
        self._blocks = ExitStack()

    def __enter__(self) -> Self:
        for alias in open_transactions():
            block = strict_atomic(alias)
            if is_in_transaction(alias):
                self._blocks.enter_context(block)
                self._undoes = True
            else:
                block.__enter__()
                self._blocks.push(partial(self._end_kept, block))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.is_undone = error is not None and self._undoes
        self._blocks.__exit__(kind, error, trace)

    def _end_kept(self, block: AbstractContextManager[None], *raised: object) -> None:
        try:
            block.__exit__(None, None, None)
        except DatabaseError:
            if raised[1] is None:
                raise
            self.is_undone = True
