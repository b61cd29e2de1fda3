"""Who acts: a person on whose behalf a verb is called, or the process that does the work."""

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
"""How the duty of a worker to say that it is there begins."""
BEAT: Final = "beat:"
"""The same for a process of Beat."""


@contextmanager
def acting_as(who: object) -> Iterator[None]:
    """What engines do in the block is recorded as done by *who*: a user, or text that names one."""
    token = _actor.set(str(who)[:MAX_ACTOR_LENGTH])
    try:
        yield
    finally:
        _actor.reset(token)


def current_actor() -> str:
    """Who acts here; empty if nobody said."""
    return _actor.get()


@contextmanager
def caused_by(event_id: str, subject: Callable[[], str | None] | None = None) -> Iterator[None]:
    """Executions that are started in the block are recorded as started by this event.

    *subject* says what the event is about, if somebody asks.
    """
    token, token_of_subject = _cause.set(event_id), _subject.set(subject)
    try:
        yield
    finally:
        _cause.reset(token)
        _subject.reset(token_of_subject)


def current_subject() -> str | None:
    """What the event is about whose handler runs here, if one does and it says so."""
    subject = _subject.get()
    return None if subject is None else subject()


def current_cause() -> str | None:
    """The id of the event whose handler runs here, if one does."""
    return _cause.get()


def whereabouts() -> str:
    """This process, as others can find it: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"[:MAX_ACTOR_LENGTH]
