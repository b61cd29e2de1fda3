"""The Celery tasks of workers. Messages name a queue; the rows are authoritative.

A message that we did not send is ignored with one log line: brokers are often shared.
"""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from reprlib import repr as shortened
from typing import Any

from celery import shared_task

from general_manager.escaping import get_logger
from general_manager.workflow.core.connections import unit_of_work
from general_manager.workflow.core.ids import require_queue
from general_manager.workflow.models.databases import aliases
from general_manager.workflow.transport.base import TICK, WORK
from general_manager.workflow.workers.tick import tick
from general_manager.workflow.workers.work import empty

logger = get_logger(__name__)


class NotOurMessageError(Exception):
    """The message's arguments are not ones that we send."""


def ours_only(body: Callable[..., Any]) -> Callable[..., Any]:
    """Ignore a message if *body* does not take its arguments or raises `NotOurMessageError`."""
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


def _queue(queue: object) -> str:
    try:
        require_queue(queue)
    except (TypeError, ValueError):
        raise NotOurMessageError(f"{shortened(queue)} is not the name of a queue") from None
    return str(queue)


def _unit_of(task: Any) -> unit_of_work:
    """A unit of work. In a worker, no caller's transaction can be open."""
    request = task.request
    return unit_of_work(outermost=not (request.called_directly or request.is_eager))


@shared_task(name=WORK, ignore_result=True, bind=True)
@ours_only
def work(self: Any, using: str, queue: str = "") -> None:
    """Deliver the due events and run the ready executions of *queue* in database *using*."""
    alias, name = _database(using), _queue(queue)
    with _unit_of(self):
        empty(alias, name)


@shared_task(name=TICK, ignore_result=True, bind=True)
@ours_only
def beat_tick(self: Any) -> None:
    """The safety net for lost messages, timers and dead workers; Beat sends it."""
    with _unit_of(self):
        tick()
