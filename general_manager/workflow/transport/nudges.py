"""Nudges: messages that say that there is work in a queue, sent after the commit.

A nudge names a queue and nothing else, so it cannot go stale: the worker that gets it takes what is
due then. None is sent while a worker is busy in the queue, because it will look again. The next
tick makes up for a lost one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from os import getpid
from threading import local
from typing import Final

from django.db import DatabaseError, connections, transaction

from general_manager.escaping import get_logger
from general_manager.workflow.core.connections import in_transaction
from general_manager.workflow.models import WorkflowQueue
from general_manager.workflow.transport import get_transport
from general_manager.workflow.transport.base import WORK, Transport
from general_manager.workflow.transport.throttle import nudge_throttle

logger = get_logger(__name__)

_NUDGE: Final = "_general_manager_nudge"


class _Looking(local):
    """Databases and queues at which the worker in this thread will look again.

    With each: whether it began outside of transactions, so whatever is written here is committed
    before it looks. Not a context variable: those are copied into threads, tasks and processes that
    go on when the worker has ended.
    """

    def __init__(self) -> None:
        self.process = getpid()
        self.keys: dict[tuple[str, str], bool] = {}

    def here(self) -> dict[tuple[str, str], bool]:
        if self.process != getpid():  # forked by a handler
            self.process, self.keys = getpid(), {}
        return self.keys


_looking: Final = _Looking()


@contextmanager
def will_look_again(using: str, queue: str) -> Iterator[bool]:
    """In the block, a nudge for this queue is not needed; false if that was so already."""
    key, looking = (using, queue), _looking.here()
    if key in looking:
        yield False
        return
    looking[key] = not in_transaction(connections[using])
    try:
        yield True
    finally:
        looking.pop(key, None)


class _Nudge:
    """The requests of one transaction, sent once at its commit."""

    def __init__(self) -> None:
        self.is_sent = False
        self.queues: set[str] = set()


def nudge(using: str, queue: str = "") -> None:
    """On commit, tell workers that there is work in *queue*, once per transaction."""
    if _looking.here().get((using, queue)):
        return
    connection = connections[using]
    asked: _Nudge | None = getattr(connection, _NUDGE, None)
    if asked is None or asked.is_sent or not connection.run_on_commit:
        # Without a callback, the last transaction was rolled back with its requests.
        asked = _Nudge()
        setattr(connection, _NUDGE, asked)
    asked.queues.add(queue)
    # Every call registers a callback and the first to run sends: a rolled-back savepoint removes
    # only its own callbacks. A request of its own is then sent in vain, which is harmless.
    # Outside a transaction the callback runs at once, so the request must be complete here.
    # Not a partial: if a robust callback fails, Django reads its __qualname__.
    transaction.on_commit(lambda: _send_all(asked, using), using=using, robust=True)


def _send_all(asked: _Nudge, using: str) -> None:
    if asked.is_sent:
        return
    asked.is_sent = True
    for queue in sorted(asked.queues):
        if (using, queue) not in _looking.here():
            _send(using, queue)


def _send(using: str, queue: str) -> None:
    if nudge_throttle.is_put_off((using, queue)):  # first: it costs nothing
        return
    transport = get_transport().here()
    send = partial(send_nudge, transport, using, queue)
    if transport.runs_at_once():
        send()
    elif not _is_busy(using, queue):
        nudge_throttle.call((using, queue), send)


def _is_busy(using: str, queue: str) -> bool:
    """Read after the commit: a worker that is busy then looks again after it."""
    try:
        return WorkflowQueue.objects.using(using).is_busy(queue)
    except DatabaseError:
        logger.warning("Queue %r could not be read; sending a message", queue, exc_info=True)
        return False


def send_late_ones() -> None:
    """Send the delayed nudges now: this process ends, or a test goes on."""
    nudge_throttle.flush()


def send_nudge(transport: Transport, using: str, queue: str) -> bool:
    """Tell a worker that there is work in *queue*; false if the message is not accepted."""
    return transport.send(WORK, [using, queue], queue=queue)
