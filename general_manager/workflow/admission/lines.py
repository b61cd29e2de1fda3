"""Looks at the lines of limits: after the commit, by the sweep, and what they make ready."""

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final

from django.db import DatabaseError, connections, transaction

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.core.connections import persist
from general_manager.workflow.core.limits import all_declared
from general_manager.workflow.core.transactions import is_in_transaction
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowLimitKey
from general_manager.workflow.models.executions.lines import (
    LOOK_BATCH,
    Admitted,
    forget_idle_keys,
    look,
)
from general_manager.workflow.models.sql.lines import lines_without_look
from general_manager.workflow.transport.in_process import perform_soon
from general_manager.workflow.transport.nudges import nudge

logger = get_logger(__name__)

RunHere = Callable[[str, str], object]
"""Runs the execution with that id, in that database, in this process."""

SWEPT_LINES: Final = 1_000
"""Lines that are due and looked at by one sweep at most; the next one continues."""

FORGET_EVERY: Final = 60.0
"""Seconds between two searches of a process for keys that nobody uses any more."""

FORGOTTEN_AT_ONCE: Final = 1_000

_ASKED: Final = "_general_manager_lines"


class _Looks:
    """The keys at which one transaction wants a look after its commit, each once."""

    def __init__(self) -> None:
        self.is_done = False
        self.keys: dict[str, None] = {}


def look_soon(using: str, key: str, run_here: RunHere) -> None:
    """Look at the line of *key* after the commit, or now if no transaction is open.

    If this process dies before that, the sweep looks.
    """
    if not is_in_transaction(using):
        look_now(using, key, run_here)
        return
    connection = connections[using]
    asked: _Looks | None = getattr(connection, _ASKED, None)
    if asked is None or asked.is_done or not connection.run_on_commit:
        # Without a callback, the last transaction was rolled back with its requests.
        asked = _Looks()
        setattr(connection, _ASKED, asked)
    asked.keys[key] = None

    # Each request registers a callback: a rolled-back savepoint removes only its own.
    def look_at_all(asked: _Looks = asked) -> None:
        if not asked.is_done:
            asked.is_done = True
            for one in asked.keys:
                look_now(using, one, run_here)

    transaction.on_commit(look_at_all, using=using, robust=True)


def look_now(using: str, key: str, run_here: RunHere) -> int:
    """Look at the line of *key*, and see to those that get a slot; returns how many.

    If the database fails, the sweep looks again.
    """
    executions = WorkflowExecutionRecord.objects.using(using)
    admitted: list[Admitted] = []
    try:
        while True:
            found = persist(using, lambda: look(executions, key))
            admitted += found
            if len(found) < LOOK_BATCH:
                break
    except DatabaseError:
        logger.exception("A line could not be looked at; the next sweep looks at it")
    if get_workflow_settings().run_async:
        for queue in dict.fromkeys(one.queue for one in admitted):
            nudge(using, queue)
    else:
        for one in admitted:
            perform_soon(partial(run_here, one.execution_id, using), using)
    return len(admitted)


class _Sweep:
    """What the sweeps of this process remember of one database."""

    def __init__(self) -> None:
        self.is_first = True
        self.after = ""
        self.forgotten = 0
        self.forgot_at = self.asked_at = monotonic()


_sweeps: Final[dict[str, _Sweep]] = {}


def sweep_lines(using: str, run_here: RunHere) -> int:
    """Look at lines that are due, and at those whose look was lost; returns how many got a slot.

    The first sweep of a process also looks at lines whose limit a deployment has changed.
    """
    mine = _sweeps.setdefault(using, _Sweep())
    executions = WorkflowExecutionRecord.objects.using(using)
    keys = WorkflowLimitKey.objects.using(using)
    if mine.is_first:
        mine.is_first = False
        for one in all_declared().values():
            keys.look_at_changed(one.scope, one.numbers)
    due = keys.due(SWEPT_LINES)
    lost = _lost_lines(mine, executions, keys, is_in_use=bool(due))
    if monotonic() - mine.forgot_at > FORGET_EVERY:
        mine.forgot_at = monotonic()
        mine.forgotten = forget_idle_keys(executions, mine.forgotten, FORGOTTEN_AT_ONCE)
    found = dict.fromkeys([*due, *lost])
    return sum(look_now(using, key, run_here) for key in found)


def _lost_lines(mine: _Sweep, executions: Any, keys: Any, *, is_in_use: bool) -> list[str]:
    """Where nobody seems to use limits, it asks once a minute only."""
    is_known = is_in_use or bool(all_declared()) or keys.exists()
    if not is_known and monotonic() - mine.asked_at < FORGET_EVERY:
        return []
    mine.asked_at = monotonic()
    lost, mine.after = lines_without_look(executions, keys, mine.after)
    return lost


def look_at_due_lines(using: str, run_here: RunHere) -> None:
    """Look at lines whose time has come, for a worker between two batches; one statement if none.

    A rate's line then moves more often than with each tick.
    """
    for key in WorkflowLimitKey.objects.using(using).due(SWEPT_LINES):
        look_now(using, key, run_here)
