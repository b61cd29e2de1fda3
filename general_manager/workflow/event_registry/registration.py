"""One handler, what it wants, and what to do when it fails: the same for every registry."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from inspect import iscoroutinefunction
from typing import Any

from general_manager.escaping import get_logger
from general_manager.workflow.actors import caused_by
from general_manager.workflow.aside import aside
from general_manager.workflow.events import WorkflowEvent, subject_of
from general_manager.workflow.exceptions import (
    PermanentFailure,
    ends_the_process,
    is_permanent,
    wanted_delay,
)
from general_manager.workflow.ids import MAX_ID_LENGTH, require_id
from general_manager.workflow.importing import describe, is_importable
from general_manager.workflow.populations import code_of

logger = get_logger(__name__)

EventHandler = Callable[[WorkflowEvent], Any]
EventPredicate = Callable[[WorkflowEvent], Any]
EventValidator = Callable[[WorkflowEvent], Any]
RetryPredicate = Callable[[Any], Any]
DeadLetterHandler = Callable[[WorkflowEvent, Any], Any]

_OPTIONS = ("when", "validator", "retry_on", "dead_letter_handler")


class InvalidEvent(PermanentFailure):
    """A validator refused the event; the refusal itself is the ``__cause__``."""


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """A handler for one event key, with its options; build it with `EventRegistry.register`.

    Two registrations with the same `identity` are one. Its `id` is *registration_id* where that
    is given, else made of the key, the dotted paths and the order; *retries* has no part in it.
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
    ordinal: int = 1
    identity: tuple[Any, ...] = field(init=False, repr=False)
    id: str = field(init=False, repr=False)
    """The registration's name: the same in every process that registers the same in order."""

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
        identity = (
            self.key,
            *map(_same, (self.handler, self.when, self.validator)),
            self.retries,
            *map(_same, (self.retry_on, self.dead_letter_handler)),
            self.atomic,
            self.registration_id,
        )
        object.__setattr__(self, "identity", identity)
        object.__setattr__(self, "id", self._make_id())

    def __str__(self) -> str:
        return f"{describe(self.handler)} for {self.key!r}"

    def _make_id(self) -> str:
        if self.registration_id is not None:
            return self.registration_id
        digest = sha256(repr((self.likeness, self.ordinal)).encode()).hexdigest()[:10]
        return f"{self.key}:{describe(self.handler)}"[: MAX_ID_LENGTH - 11] + f":{digest}"

    @property
    def is_fragile(self) -> bool:
        """Whether its id hangs on the order of registrations: another release may change that."""
        return self.registration_id is None and bool(self.fragile_parts)

    @property
    def fragile_parts(self) -> list[str]:
        """Names of the arguments whose functions another process cannot import by their path."""
        parts = ("handler", *_OPTIONS)
        functions = {name: getattr(self, name) for name in parts}
        return [
            name for name, one in functions.items() if one is not None and not is_importable(one)
        ]

    @property
    def likeness(self) -> tuple[str | None, ...]:
        """Key and dotted paths: all that another process can compare. *ordinal* counts these."""
        options = (getattr(self, name) for name in _OPTIONS)
        return (self.key, describe(self.handler), *(one and describe(one) for one in options))

    @property
    def shape(self) -> tuple[object, ...]:
        """What remains the same when the code that makes the registration runs again."""
        parts = (self.handler, *(getattr(self, name) for name in _OPTIONS))
        codes = (None if one is None else code_of(one) for one in parts)
        return (self.likeness, self.retries, self.atomic, self.registration_id, *codes)

    def wants(self, event: WorkflowEvent) -> bool:
        """Whether *event* is for this handler. Raises whatever the predicate raises."""
        return self.when is None or bool(self.when(event))

    def call(self, event: WorkflowEvent) -> None:
        """Validate *event* and handle it. Raises `InvalidEvent`, or what the handler raises."""
        if self.validator is not None:
            try:
                self.validator(event)
            except BaseException as error:
                if ends_the_process(error):
                    raise
                raise InvalidEvent(str(error) or type(error).__name__) from error
        with caused_by(event.event_id, lambda: subject_of(event.payload)):
            self.handler(event)

    def may_retry(self, error: BaseException) -> bool:
        """What the handler's verdict, or else `retry_on`, says of another try.

        In an exception group, one `PermanentFailure` is enough. A `retry_on` that raises decides
        nothing: the budget of retries alone does.
        """
        if is_permanent(error):
            return False
        if wanted_delay(error) is not None or self.retry_on is None:
            return True
        try:
            with aside():
                return bool(self.retry_on(real_error(error)))
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
        """Tell the hook, if there is one, of the final failure. A raising hook is only logged.

        A refusal by the validator is told as the validator raised it.
        """
        hook = self.dead_letter_handler or fallback
        if hook is None:
            return
        try:
            with aside():
                hook(event, real_error(error))
        except BaseException as raised:
            if ends_the_process(raised):
                raise
            logger.exception("The dead-letter hook of %s raised for event %s", self, event.event_id)


def real_error(error: BaseException) -> BaseException:
    """The exception as the user's code raised it."""
    cause = error.__cause__
    return cause if isinstance(error, InvalidEvent) and cause is not None else error


def _require_callable(option: str, function: object) -> None:
    if not callable(function):
        raise TypeError(f"{option} must be callable, not {function!r}")
    if iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004 - the class's own __call__ is what may be async
        raise TypeError(
            f"{option} {describe(function)} is async, and nothing here would await it: "
            "wrap it in asgiref.sync.async_to_sync"
        )


def _same(function: Any) -> Any:
    """What stands for a callable in an identity: itself, or its `id` where it has no hash."""
    try:
        hash(function)
    except TypeError:
        return ("unhashable", id(function))
    return function
