"""What can answer a wait: an event, a signal, a person, or the state of an object."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from json import dumps
from typing import Any, Final

from general_manager.workflow.core.encoding import encode, encode_mapping
from general_manager.workflow.core.ids import MAX_ID_LENGTH, require_id
from general_manager.workflow.core.matching import mailbox_of, shape_of
from general_manager.workflow.events import (
    EXECUTION_CANCELLED,
    EXECUTION_COMPLETED,
    EXECUTION_FAILED,
)

__all__ = ["answer", "on_event", "on_signal"]

MAX_MATCH_BYTES: Final = 4_000
"""Bytes of JSON that the match of one source may have."""
DIFFERENT_KINDS: Final = (
    "Events are kept by {registry}, and executions by {engine}: one of them uses tables and the "
    "other does not, so events cannot answer waits. Set WORKFLOW_EVENT_REGISTRY and "
    "WORKFLOW_ENGINE to the same kind."
)
DIFFERENT_DATABASES: Final = (
    "Events are stored in database {events!r} and executions in {executions!r}, so events cannot "
    "answer waits: route both to one database."
)
ENDS: Final = (
    EXECUTION_COMPLETED, EXECUTION_FAILED, EXECUTION_CANCELLED,
    "execution_completed", "execution_failed", "execution_cancelled",
)  # fmt: skip
"""Keys of events that are emitted only if a handler is registered for them."""


class SourceKind(StrEnum):
    """What a source of answers is."""

    EVENT = "event"
    SIGNAL = "signal"
    ANSWER = "answer"
    STATE = "state"


@dataclass(frozen=True, slots=True)
class Source:
    """One source of answers of a wait; the first that has something answers it."""

    kind: SourceKind
    name: str
    """The key of an event, the name of signals, the name of a wait, or the label of a model."""
    match: Mapping[str, Any] = field(default_factory=dict)
    """Encoded values by path into an event's payload; of a state, by the name of a field."""
    since: datetime | None = None
    """Events count from here on; `None` for the start of the execution's chain."""
    branch: str = ""
    """Its name in `first_of`; empty for the only source of a wait."""
    key: Any = None
    """The encoded primary key of the object whose state it is."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Of a state: what identifies the object in the payload of its events."""
    ask: Callable[[], Any] | None = None

    @property
    def mailbox(self) -> str:
        """What waits of one chain share that wait for the same events."""
        return mailbox_of(self.name, self.match)

    @property
    def looks_back(self) -> bool:
        """Whether an event counts that came before the wait was opened."""
        return self.kind is SourceKind.EVENT

    def to_json(self) -> dict[str, Any]:
        """Everything but `ask`, which the handler has."""
        return {
            "kind": self.kind.value,
            "name": self.name,
            "match": dict(self.match),
            "since": None if self.since is None else self.since.isoformat(),
            "branch": self.branch,
            "key": self.key,
            "about": dict(self.about),
        }


def source_of(stored: Mapping[str, Any]) -> Source:
    since = stored["since"]
    return Source(
        **{
            **stored,
            "kind": SourceKind(stored["kind"]),
            "since": None if since is None else datetime.fromisoformat(since),
        }
    )


def on_event(
    event: str, *, match: Mapping[str, Any] | None = None, since: datetime | None = None
) -> Source:
    """A source for `first_of`: the earliest event that `wait_for_event` would take."""
    require_id("event", event)
    if event in ENDS:
        raise ValueError(
            f"{event!r} is emitted only where a handler is registered for it, so a wait could miss "
            "it. Register a handler that sends a signal to the execution that waits."
        )
    return Source(SourceKind.EVENT, event, checked_match(match), _checked_since(since))


def on_signal(name: str) -> Source:
    """A source for `first_of`: the oldest signal sent under *name* that no wait has taken."""
    require_id("name", name)
    return Source(SourceKind.SIGNAL, name)


def answer(name: str, *, ask: Callable[[], Any] | None = None) -> Source:
    """A source for `first_of`: the answer that `resume` gives to the wait *name*.

    *ask* is called as a step of its own once the wait is open, as in `wait_for`.
    """
    require_id("name", name)
    if ask is not None and not callable(ask):
        raise TypeError(f"ask must be callable, not {ask!r}")
    return Source(SourceKind.ANSWER, name, ask=ask)


def checked_match(match: Mapping[str, Any] | None) -> dict[str, Any]:
    """*match*, encoded; raises what `wait_for_event` raises for it."""
    encoded = encode_mapping({} if match is None else match, root="match")
    for path in encoded:
        if not all(path.split(".")):
            raise ValueError(f"match has the path {path!r}: write names, separated by dots")
    if len(shape_of(encoded)) > MAX_ID_LENGTH:
        raise ValueError(f"the paths of match have more than {MAX_ID_LENGTH} characters together")
    if len(dumps(encoded)) > MAX_MATCH_BYTES:
        raise ValueError(f"match has more than {MAX_MATCH_BYTES:,} bytes of JSON")
    return encoded


def branches(sources: Mapping[str, Source]) -> list[Source]:
    """The sources of a `first_of`, each with its name, in the order in which they are written."""
    if not sources:
        raise TypeError("first_of() needs at least one source, such as paid=on_event(...)")
    for name, source in sources.items():
        if not isinstance(source, Source) or source.kind is SourceKind.STATE:
            raise TypeError(
                f"{name}= must be on_event(...), on_signal(...) or answer(...), not {source!r}"
            )
        require_id("The name of a source", name)
    found = [replace(source, branch=name) for name, source in sources.items()]
    if sum(one.kind is SourceKind.ANSWER for one in found) > 1:
        raise TypeError("first_of() takes at most one answer(...): one wait is asked for at a time")
    return found


def encoded_key(key: object) -> Any:
    return encode(key, root="pk")


def in_words(sources: Sequence[Source]) -> str:
    """What a wait waits for, for people: ``payment_received {"order_id": 7}, or boss``."""
    return ", or ".join(_in_words(one) for one in sources)


def _in_words(source: Source) -> str:
    match = dumps(source.match, ensure_ascii=False, sort_keys=True) if source.match else ""
    if source.kind is SourceKind.STATE:
        return f"{source.name} {source.key} {match}"
    return f"{source.name} {match}".strip()


def _checked_since(since: datetime | None) -> datetime | None:
    if since is None:
        return None
    if not isinstance(since, datetime):
        raise TypeError(f"since must be a datetime, not {since!r}")
    if since.utcoffset() is None:
        raise ValueError(f"since must have a time zone, but {since!r} has none")
    return since
