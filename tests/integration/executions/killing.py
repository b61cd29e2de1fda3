"""Processes that run an execution and are killed at their n-th moment.

A moment is before and after each statement, and before and after each commit. What the dead leave
is recovered by this process as by others: leases end, and a sweep comes by.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from django.db import connections
from django.db.models import F

from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.workers.tick import sweep

HOUR = timedelta(hours=1)
DEAD = "killed by itself"


class World:
    """Effects outside the database: lines of a file, which outlive the process that wrote them."""

    file = Path("world")
    down: set[str]
    """Services that do not answer."""

    def __init__(self) -> None:
        self.down = set()

    def begin(self, folder: Path) -> None:
        self.file = folder / "world"
        self.down.clear()
        self.file.write_text("")

    def effect(self, name: str) -> str:
        file = os.open(self.file, os.O_WRONLY | os.O_APPEND)
        os.write(file, f"{name}\n".encode())
        os.close(file)
        return name

    @property
    def effects(self) -> Counter[str]:
        return Counter(self.file.read_text().splitlines())


def is_killed(number: int, act: Callable[[], object]) -> str:
    """Do *act* in a process that is killed at its moment *number*, which is returned.

    Empty if the process came to its end before.
    """
    connections.close_all()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _die_at(number, writer)
            act()
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as told:
        moment = told.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return moment or DEAD
    assert not moment
    assert os.waitstatus_to_exitcode(status) == 0
    return ""


def _die_at(number: int, writer: int) -> None:
    left = number
    connection: Any = connections["default"]

    def moment(what: str) -> None:
        nonlocal left
        if left == 0:
            os.write(writer, what.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def around(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        moment(f"before {sql}")
        result = execute(sql, *rest)
        moment(f"after {sql}")
        return result

    commit = connection.commit

    def around_commit() -> None:
        moment("before COMMIT")
        commit()
        moment("after COMMIT")

    connection.commit = around_commit
    connection.execute_wrappers.append(around)


def lives(start: Callable[[], str], act: Callable[[str], object]) -> Iterator[tuple[str, str]]:
    """An execution for each moment of *act*, with the moment at which its process was killed.

    The last one is not killed.
    """
    for number in count():
        execution_id = start()
        moment = is_killed(number, lambda: act(execution_id))  # noqa: B023 - called at once
        yield execution_id, f"killed at moment {number}: {moment}" if moment else "not killed"
        if not moment:
            return


def run_here(execution_id: str) -> None:
    run(execution_id, "default")


def pass_time(duration: timedelta = HOUR) -> None:
    """Leases end, delays and sleeps are over; whatever is due runs, until nothing is."""
    for name in ("wake_at", "run_until", "deadline", "step_deadline"):
        rows = WorkflowExecutionRecord.objects.filter(**{f"{name}__isnull": False})
        rows.update(**{name: F(name) - duration})
    WorkflowStep.objects.filter(until__isnull=False).update(until=F("until") - duration)
    sweep(hand_on=False)


def state_at_the_end(execution_id: str, turns: int = 12) -> str:
    """Let time pass until the execution has ended; its state."""
    for _ in range(turns):
        row = WorkflowExecutionRecord.objects.get(execution_id=execution_id)
        if row.ended_at is not None:
            return str(row.state)
        pass_time()
    raise AssertionError(f"It is {row.state} after {turns} hours")
