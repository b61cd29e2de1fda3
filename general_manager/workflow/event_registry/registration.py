"""One handler with its conditions and its failure handling, the same for every registry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Literal

from general_manager.conf import is_configured
from general_manager.escaping import get_logger
from general_manager.workflow.core.actors import caused_by
from general_manager.workflow.core.coroutines import called
from general_manager.workflow.core.ids import MAX_ID_LENGTH, require_id, require_queue
from general_manager.workflow.core.importing import describe, is_importable
from general_manager.workflow.core.isolation import called_aside
from general_manager.workflow.core.populations import code_of
from general_manager.workflow.core.redaction import redact
from general_manager.workflow.events import WorkflowEvent, subject_of
from general_manager.workflow.exceptions import (
    PermanentFailure,
    ends_the_process,
    is_permanent,
    wanted_delay,
)

logger = get_logger(__name__)

EventHandler = Callable[[WorkflowEvent], Any]
EventPredicate = Callable[[WorkflowEvent], Any]
EventValidator = Callable[[WorkflowEvent], Any]
RetryPredicate = Callable[[Any], Any]
DeadLetterHandler = Callable[[WorkflowEvent, Any], Any]

OnDead = Literal["block", "skip"]
ON_DEAD: Final = ("block", "skip")
_OPTIONS = ("when", "validator", "retry_on", "dead_letter_handler")


class InvalidEvent(PermanentFailure):
    """A validator rejected the event; its exception is the ``__cause__``."""


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """A handler for one event key, with its options; build it with `EventRegistry.register`.

    Two registrations with the same `identity` are one. The `id` is *registration_id* if given,
    else it consists of the key, the dotted paths and the order; *retries* does not affect it.
    """

    key: str
    handler: EventHandler
    when: EventPredicate | None = None
    validator: EventValidator | None = None
    retries: int = 0
    retry_on: RetryPredicate | None = None
    dead_letter_handler: DeadLetterHandler | None = None
    registration_id: str | None = None
    atomic: bool = True
    queue: str = ""
    grouped: bool = False
    in_order: bool = False
    on_dead: OnDead = "block"
    ordinal: int = 1
    identity: tuple[Any, ...] = field(init=False, repr=False)
    id: str = field(init=False, repr=False)
    """The registration's id, the same in every process with the same registrations in order."""

    def __post_init__(self) -> None:
        require_id("event", self.key)
        _require_callable("handler", self.handler)
        for option in _OPTIONS:
            function = getattr(self, option)
            if function is not None:
                _require_callable(option, function)
        if isinstance(self.retries, bool) or not isinstance(self.retries, int):
            raise TypeError(f"retries must be a whole number, not {self.retries!r}")
        if self.retries < 0:
            raise ValueError(f"retries must be zero or more, not {self.retries}")
        if self.registration_id is not None:
            require_id("registration_id", self.registration_id)
        if not isinstance(self.atomic, bool):
            raise TypeError(f"atomic must be True or False, not {self.atomic!r}")
        require_queue(self.queue)
        self._check_order()
        self._check_group()
        identity = (
            self.key,
            *map(_same, (self.handler, self.when, self.validator)),
            self.retries,
            *map(_same, (self.retry_on, self.dead_letter_handler)),
            self.atomic,
            self.queue,
            self.grouped,
            self.in_order,
            self.on_dead,
            self.registration_id,
        )
        object.__setattr__(self, "identity", identity)
        object.__setattr__(self, "id", self._make_id())

    def _check_group(self) -> None:
        if not isinstance(self.grouped, bool):
            raise TypeError(f"grouped must be True or False, not {self.grouped!r}")
        if self.grouped and not self.atomic:
            raise ValueError(
                "grouped=True needs atomic=True: what a group rolls back is delivered again"
            )
        if self.grouped and self.in_order:
            raise ValueError(
                "grouped=True excludes in_order=True: what is in order goes one by one"
            )

    def _check_order(self) -> None:
        if not isinstance(self.in_order, bool):
            raise TypeError(f"in_order must be True or False, not {self.in_order!r}")
        if self.on_dead not in ON_DEAD:
            raise ValueError(f"on_dead must be 'block' or 'skip', not {self.on_dead!r}")
        if self.on_dead != "block" and not self.in_order:
            raise ValueError("on_dead needs in_order=True: without an order nothing is blocked")

    def __str__(self) -> str:
        return f"{describe(self.handler)} for {self.key!r}"

    def _make_id(self) -> str:
        if self.registration_id is not None:
            return self.registration_id
        digest = sha256(repr((self.likeness, self.ordinal)).encode()).hexdigest()[:10]
        return f"{self.key}:{describe(self.handler)}"[: MAX_ID_LENGTH - 11] + f":{digest}"

    @property
    def is_fragile(self) -> bool:
        """Whether its id depends on the order of registrations, which a release may change."""
        return self.registration_id is None and bool(self.fragile_parts)

    @property
    def fragile_parts(self) -> list[str]:
        """Names of arguments whose functions another process cannot import."""
        parts = ("handler", *_OPTIONS)
        functions = {name: getattr(self, name) for name in parts}
        return [
            name for name, one in functions.items() if one is not None and not is_importable(one)
        ]

    @property
    def likeness(self) -> tuple[str | None, ...]:
        """Key and dotted paths, which other processes can compare. *ordinal* counts equal ones."""
        options = (getattr(self, name) for name in _OPTIONS)
        return (self.key, describe(self.handler), *(one and describe(one) for one in options))

    @property
    def shape(self) -> tuple[object, ...]:
        """Stays the same if the code that makes the registration runs again."""
        parts = (self.handler, *(getattr(self, name) for name in _OPTIONS))
        codes = (None if one is None else code_of(one) for one in parts)
        order = (self.in_order, self.on_dead)
        rest = (self.retries, self.atomic, self.queue, self.grouped, *order, self.registration_id)
        return (self.likeness, *rest, *codes)

    def wants(self, event: WorkflowEvent) -> bool:
        """Whether *event* matches this registration. Raises whatever the predicate raises."""
        return self.when is None or bool(called(self.when, event))

    def call(self, event: WorkflowEvent) -> None:
        """Validate *event* and call the handler. Raises `InvalidEvent` or what it raises."""
        if self.validator is not None:
            try:
                called(self.validator, event)
            except BaseException as error:
                if ends_the_process(error):
                    raise
                raise InvalidEvent(str(error) or type(error).__name__) from error
        with caused_by(event.event_id, lambda: _shown_subject(event.payload)):
            called(self.handler, event)

    def may_retry(self, error: BaseException) -> bool:
        """Whether to retry, by the exception's verdict or else by `retry_on`.

        In an exception group, one `PermanentFailure` is enough. If `retry_on` raises, the retry
        budget decides.
        """
        if is_permanent(error):
            return False
        if wanted_delay(error) is not None or self.retry_on is None:
            return True
        try:
            with called_aside(f"retry_on of {self}"):
                return bool(called(self.retry_on, real_error(error)))
        except BaseException as raised:
            if ends_the_process(raised):
                raise
            logger.exception("retry_on of %s raised; the failure is retried", self)
            return True

    def report_dead(
        self,
        event: WorkflowEvent,
        error: BaseException,
        *,
        fallback: DeadLetterHandler | None = None,
    ) -> None:
        """Call the hook, if there is one, for the final failure. A raising hook is only logged.

        If the validator rejected the event, the hook gets the validator's own exception.
        """
        hook = self.dead_letter_handler or fallback
        if hook is None:
            return
        try:
            with called_aside(f"The dead-letter hook of {self}"):
                called(hook, event, real_error(error))
        except BaseException as raised:
            if ends_the_process(raised):
                raise
            logger.exception("The dead-letter hook of %s raised for event %s", self, event.event_id)


def real_error(error: BaseException) -> BaseException:
    """The exception that the user's code raised."""
    cause = error.__cause__
    return cause if isinstance(error, InvalidEvent) and cause is not None else error


def _shown_subject(payload: Mapping[str, Any]) -> str | None:
    """The event's subject for executions that it starts; `None` if its key is a secret one."""
    about = {name: payload.get(name) for name in ("manager", "identification")}
    is_secret = is_configured() and redact(about) != about
    return None if is_secret else subject_of(about)


def _require_callable(option: str, function: object) -> None:
    if not callable(function):
        raise TypeError(f"{option} must be callable, not {function!r}")


def _same(function: Any) -> Any:
    """Represents a callable in an identity: itself, or its `id` if it is not hashable."""
    try:
        hash(function)
    except TypeError:
        return ("unhashable", id(function))
    return function
