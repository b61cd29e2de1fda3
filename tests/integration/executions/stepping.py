"""Real connections, stepped: one stops before each of its statements in turn, or dies there."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from threading import Event, Thread
from typing import Any

from django.db import connection, connections
from django.utils import timezone

from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowSignal,
    WorkflowStep,
)

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


def every_interleaving(
    prepare: Callable[[], Any],
    first: Callable[[Any], object],
    second: Callable[[Any], object],
    check: Callable[[Any, str], object],
) -> None:
    """Each of the two stops before each of its statements while the other goes on."""
    for one, other in ((first, second), (second, first)):
        for at in range(100):
            key = prepare()
            had, statements = interleave(partial(one, key), partial(other, key), at)
            name = getattr(one, "__name__", "one")
            check(key, f"{name} stopped before its statement {at} of {statements}")
            if not had:
                break
        else:
            raise AssertionError("it has too many statements")


def run_what_is_ready() -> None:
    """Without the sweep: nothing but looks makes an execution ready."""
    ready = WorkflowExecutionRecord.objects.filter(state="pending", ready=True)
    while keys := list(ready.values_list("execution_id", flat=True)):
        for key in keys:
            run(key, "default")


TIMES = (
    (WorkflowExecutionRecord, "wake_at"), (WorkflowOutbox, "available_at"),
    (WorkflowDeliveryAttempt, "available_at"), (WorkflowSignal, "available_at"),
    (WorkflowStep, "until"),
)  # fmt: skip


def let_time_pass() -> None:
    """Leases end, and what was to happen later is due."""
    past = timezone.now() - timedelta(seconds=1)
    for model, column in TIMES:
        model._base_manager.filter(**{f"{column}__isnull": False}).update(**{column: past})
