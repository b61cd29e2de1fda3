"""Real connections, stepped: one stops before each of its statements in turn, or dies there."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Event, Thread
from typing import Any

from django.db import connection, connections

PATIENCE = 60
BLOCKED = 0.4
"""Seconds after which the other is taken to wait for a lock."""


class Died(SystemExit):
    """The process ended here."""


class Stepped:
    """*work* in a thread and a connection of its own, which stops before its statement *at*."""

    def __init__(self, work: Callable[[], object], at: int | None = None) -> None:
        self.statements: list[str] = []
        self.reached, self.go_on, self.over = Event(), Event(), Event()
        self.error: BaseException | None = None
        self._work, self._at = work, at
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with connection.execute_wrapper(self._gate):
                self._work()
        except BaseException as error:
            self.error = error
        finally:
            self.reached.set()
            self.over.set()
            connections.close_all()

    def _gate(self, execute: Any, sql: str, *arguments: Any) -> Any:
        if len(self.statements) == self._at:
            self.reached.set()
            assert self.go_on.wait(PATIENCE)
        self.statements.append(sql)
        return execute(sql, *arguments)

    def finish(self) -> None:
        self.go_on.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it waits for the other: a deadlock"
        if self.error is not None:
            raise self.error


def interleave(
    first: Callable[[], object], second: Callable[[], object], at: int
) -> tuple[bool, list[str]]:
    """*first* stops before its statement *at* while *second* does all it can, then goes on.

    Returns whether it had that many statements, and those that it made.
    """
    one = Stepped(first, at)
    assert one.reached.wait(PATIENCE)
    had = not one.over.is_set()
    two = Stepped(second)
    two.over.wait(BLOCKED)  # else it waits for a lock of the first
    try:
        one.finish()
    finally:
        two.finish()
    return had, one.statements


def dying_at_each_statement(
    prepare: Callable[[], Any], work: Callable[[Any], object]
) -> Iterator[tuple[Any, int]]:
    """*work* on what *prepare* returns, killed before its first statement, its second, ...

    Yields what was prepared, and at which statement it died, until it no longer dies.
    """
    for at in range(100):
        prepared = prepare()
        made: list[str] = []

        def die(execute: Any, sql: str, *arguments: Any, at: int = at, made: Any = made) -> Any:
            if len(made) == at:
                raise Died
            made.append(sql)
            return execute(sql, *arguments)

        with suppress(Died):
            with connection.execute_wrapper(die):
                work(prepared)
            yield prepared, -1
            return
        connection.close() if connection.vendor != "sqlite" else None
        yield prepared, at
    raise AssertionError("it never got to its end")
