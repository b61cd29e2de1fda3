"""What workers do, by name; messages carry ids, rows carry the truth.

A message that none of us sent is ignored, with one line in the log: a broker is often shared.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from reprlib import repr as shortened
from typing import Any, Final

from celery import shared_task

from general_manager.escaping import get_logger
from general_manager.workflow.connections import unit_of_work
from general_manager.workflow.databases import aliases
from general_manager.workflow.dispatch import DELIVER, DRAIN, RUN, TICK
from general_manager.workflow.exceptions import WorkflowExecutionNotFoundError
from general_manager.workflow.executor import run
from general_manager.workflow.messages import handing_on
from general_manager.workflow.outbox import deliver, drain
from general_manager.workflow.rules import require_execution_id
from general_manager.workflow.sweep import tick

logger = get_logger(__name__)

MOST_KEYS: Final = 100_000
"""What one message may name; ours carry a chunk of the outbox."""


class NotOurMessageError(Exception):
    """The arguments of a message are none that we send."""


def ours_only(body: Callable[..., Any]) -> Callable[..., Any]:
    """Ignore a message whose arguments *body* does not take, or calls `NotOurMessageError`."""
    parameters = signature(body)

    @wraps(body)
    def task(*arguments: Any, **named: Any) -> Any:
        try:
            parameters.bind(*arguments, **named)
        except TypeError as error:
            return _ignored(body, error)
        try:
            return body(*arguments, **named)
        except NotOurMessageError as error:
            return _ignored(body, error)

    return task


def _ignored(body: Callable[..., Any], error: Exception) -> None:
    logger.warning("A message to %s was ignored: %s", body.__name__, str(error)[:200])


def _database(using: object) -> str:
    if isinstance(using, str) and using in aliases():
        return using
    raise NotOurMessageError(f"{shortened(using)} is not a database with our tables")


def _items(given: object, kind: type, what: str) -> Sequence[Any]:
    if (
        isinstance(given, list | tuple)
        and len(given) <= MOST_KEYS
        and all(type(one) is kind for one in given)
    ):
        return given
    raise NotOurMessageError(f"{shortened(given)} is not a list of {what}")


def _unit_of(task: Any) -> unit_of_work:
    """A worker's task has no caller whose transaction could be open; one that is called has."""
    request = task.request
    return unit_of_work(outermost=not (request.called_directly or request.is_eager))


@shared_task(name=DRAIN, ignore_result=True, bind=True)
@ours_only
def drain_outbox(self: Any, using: str | None = None) -> None:
    """Deliver what the outbox of database *using*, or of each, owes."""
    alias = None if using is None else _database(using)
    with _unit_of(self):
        drain(alias)


@shared_task(name=DELIVER, ignore_result=True, bind=True)
@ours_only
def deliver_outbox(self: Any, using: str, token: str, keys: Sequence[int]) -> int:
    """Deliver entries that `drain_outbox` claimed with *token*; how many of them were handled."""
    alias, entries = _database(using), _items(keys, int, "keys of entries")
    if not isinstance(token, str) or not (token.isascii() and token.isalnum() and len(token) <= 32):
        raise NotOurMessageError(f"{shortened(token)} is not the token of a claim")
    if any(abs(key) >= 2**63 for key in entries):
        raise NotOurMessageError("no entry has such a key")
    with _unit_of(self):
        return deliver(alias, token, entries)


@shared_task(name=RUN, ignore_result=True, bind=True)
@ours_only
def run_executions(self: Any, execution_ids: Sequence[str], using: str) -> None:
    """Run them one after the other; those that a slow one keeps waiting are handed on."""
    alias = _database(using)
    for execution_id in _items(execution_ids, str, "ids of executions"):
        try:
            require_execution_id(execution_id)
        except WorkflowExecutionNotFoundError as error:
            raise NotOurMessageError(str(error)) from None
    with _unit_of(self), handing_on(execution_ids, alias) as own:
        for execution_id in own:
            run(execution_id, alias)


@shared_task(name=TICK, ignore_result=True, bind=True)
@ours_only
def beat_tick(self: Any) -> None:
    """The safety net: what no message announced, lost messages, timers, dead workers."""
    with _unit_of(self):
        tick()
