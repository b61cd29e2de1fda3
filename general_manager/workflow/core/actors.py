"""The actor: the user on whose behalf a verb is called, or the process that does the work."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

__all__ = ["acting_as"]

_actor: Final[ContextVar[str]] = ContextVar("general_manager_actor", default="")
_cause: Final[ContextVar[str | None]] = ContextVar("general_manager_cause", default=None)
_subject: Final[ContextVar["Callable[[], str | None] | None"]] = ContextVar(
    "general_manager_subject", default=None
)

MAX_ACTOR_LENGTH: Final = 255
WORKER: Final = "worker:"
"""Prefix of a worker's heartbeat."""
BEAT: Final = "beat:"
"""Prefix of Beat's heartbeat."""


@contextmanager
def acting_as(who: object) -> Iterator[None]:
    """Engines record acts in the block as done by *who*: a user, or a text that names one."""
    token = _actor.set(str(who)[:MAX_ACTOR_LENGTH])
    try:
        yield
    finally:
        _actor.reset(token)


def current_actor() -> str:
    """The current actor; empty if unknown."""
    return _actor.get()


@contextmanager
def caused_by(event_id: str, subject: Callable[[], str | None] | None = None) -> Iterator[None]:
    """Executions started in the block are recorded as caused by this event.

    *subject* returns the event's subject; it is called only if needed.
    """
    token, token_of_subject = _cause.set(event_id), _subject.set(subject)
    try:
        yield
    finally:
        _cause.reset(token)
        _subject.reset(token_of_subject)


def current_subject() -> str | None:
    """The subject of the event whose handler runs here, if it has one."""
    subject = _subject.get()
    return None if subject is None else subject()


def current_cause() -> str | None:
    """The id of the event whose handler runs here, or `None`."""
    return _cause.get()


def whereabouts() -> str:
    """Host and process id of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"[:MAX_ACTOR_LENGTH]
