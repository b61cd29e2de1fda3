"""The failure of a step: what is stored of its exception, and what is raised for it.

A handler may take another branch for an exception, so it must see the same one in every run: from
the first raise on it gets what can also be rebuilt from the store.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from json import dumps
from typing import Any, Final

from general_manager.escaping import get_logger
from general_manager.guarding import attempt
from general_manager.workflow.core.encoding import (
    ERROR_LIMIT,
    encode,
    error_text,
    storable_text,
    traceback_text,
)
from general_manager.workflow.core.importing import path_of, resolve
from general_manager.workflow.durable.errors import StepFailed

logger = get_logger(__name__)

STORED_TRACEBACK_LIMIT: Final = 10_000
"""Characters kept of a step's traceback: every later run reads it."""

PLAIN_TYPES: Final = (str, int, float, bool, type(None))
"""Types that come back from JSON as they were."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What is stored of an exception that a step raised."""

    kind: str
    """The dotted path of its class."""
    text: str
    traceback: str
    arguments: list[Any] | None = None
    """Arguments for its class; `None` if it cannot be rebuilt."""
    state: dict[str, Any] | None = None
    """Its other attributes, as far as JSON can store them."""
    is_bare: bool = False
    """It is rebuilt without calling its ``__init__``, which takes other arguments."""
    is_final: bool = False
    """The step had a budget of its own, so it comes as `StepFailed`."""
    cause: dict[str, Any] | None = None
    """Of a `StepFailed`: what is stored of the step's exception."""

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def failure_of(error: BaseException, *, is_final: bool) -> Failure:
    """What to store of *error*; *is_final* if the step had a budget of its own."""
    kind = type(error)
    trace = storable_text(traceback_text(error), limit=STORED_TRACEBACK_LIMIT)
    form = attempt(lambda: _form_of(error), None)
    arguments, state, is_bare = form if form is not None else (None, None, False)
    path = f"{kind.__module__}.{kind.__qualname__}"
    text, cause = error_text(error), _cause_of(error)
    return Failure(path, text, trace, arguments, state, is_bare, is_final, cause)


def _cause_of(error: BaseException) -> dict[str, Any] | None:
    cause = error.__cause__ if isinstance(error, StepFailed) else None
    return None if cause is None else failure_of(cause, is_final=False).to_json()


def raised_first(
    name: str, error: BaseException, failure: Failure, attempts: int = 1
) -> BaseException:
    """What step *name* raises for *error*, with *error* as its cause unless it is itself."""
    if not failure.is_final:
        found = _rebuilt(failure, type(error))
        if found is not None:
            return error if _is_true_of(_has_all_of, found, error) else found
    return _step_failed(name, failure, attempts)


def raised_again(name: str, stored: dict[str, Any], attempts: int = 1) -> BaseException:
    """What step *name* raises in later runs, from its *stored* failure."""
    failure = Failure(**stored)
    found = _rebuilt(failure, _class_at(failure.kind)) if failure.arguments is not None else None
    if found is not None:
        found.add_note(f"Recorded in an earlier run:\n{failure.traceback.rstrip()}")
    if found is not None and not failure.is_final:
        if failure.cause is not None:
            found.__cause__ = raised_again(name, failure.cause)
        return found
    error = _step_failed(name, failure, attempts)
    error.__cause__ = found
    if found is None:
        error.add_note(f"Recorded in an earlier run:\n{failure.traceback.rstrip()}")
    return error


def _step_failed(name: str, failure: Failure, attempts: int) -> StepFailed:
    return StepFailed(name, failure.text, failure.kind, attempts)


def _form_of(error: BaseException) -> tuple[list[Any], dict[str, Any], bool] | None:
    """Arguments and state from which *error* can be rebuilt, and whether without ``__init__``.

    If no way gives back everything, the first one that gives back class, arguments and text.
    """
    kind = type(error)
    reduced: Any = error.__reduce_ex__(2)
    if path_of(kind) is None or len(reduced) < 2 or reduced[0] is not kind:
        return None
    arguments = list(reduced[1])
    if not _is_exact(arguments) or len(dumps(arguments)) > ERROR_LIMIT:
        return None
    given = reduced[2] if len(reduced) > 2 and isinstance(reduced[2], dict) else {}
    state = {key: value for key, value in given.items() if _is_exact([key, value])}
    if len(dumps(state)) > ERROR_LIMIT:
        state = {}
    good = [
        (is_bare, made)
        for is_bare, made in _ways(kind, arguments, state)
        if _is_true_of(_is_like, made, error)
    ]
    whole = [is_bare for is_bare, made in good if _is_true_of(_has_all_of, made, error)]
    ways = whole or [is_bare for is_bare, _ in good]
    return (arguments, state, ways[0]) if ways else None


def _is_exact(value: Any) -> bool:
    """Whether *value* comes back from JSON, and from every database, as it was."""
    return attempt(
        lambda: _is_plain(encode(value, root="value")) and _is_plain(value), otherwise=False
    )


def _is_plain(value: Any) -> bool:
    if type(value) is list:
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return type(value) in PLAIN_TYPES


def _ways(
    kind: type[BaseException], arguments: list[Any], state: dict[str, Any]
) -> Iterator[tuple[bool, BaseException]]:
    for is_bare in (False, True):
        made = attempt(partial(_made, kind, arguments, state, is_bare=is_bare), None)
        if type(made) is kind:
            yield is_bare, made


def _made(
    kind: type[BaseException], arguments: list[Any], state: dict[str, Any], *, is_bare: bool
) -> BaseException:
    made = kind.__new__(kind, *arguments) if is_bare else kind(*arguments)
    if is_bare:
        made.args = tuple(arguments)
    made.__dict__.update(state)
    return made


def _rebuilt(failure: Failure, kind: type[BaseException] | None) -> BaseException | None:
    arguments, state = failure.arguments, failure.state or {}
    if arguments is None or kind is None:
        return None
    found = attempt(lambda: _made(kind, arguments, dict(state), is_bare=failure.is_bare), None)
    return found if type(found) is kind else None


def _is_true_of(
    question: Callable[[BaseException, BaseException], bool],
    made: BaseException,
    error: BaseException,
) -> bool:
    """Asked of user code, which may raise anything; then it is false."""
    return attempt(lambda: question(made, error), otherwise=False)


def _is_like(made: BaseException, error: BaseException) -> bool:
    return made.args == error.args and str(made) == str(error)


def _has_all_of(made: BaseException, error: BaseException) -> bool:
    return bool(made.__dict__ == error.__dict__)


def _class_at(path: str) -> type[BaseException] | None:
    """The class of a stored exception. Imports only from packages that are loaded already.

    The handler's module is loaded, and with it what it can catch.
    """
    if path.partition(".")[0] not in sys.modules:
        return _unknown(path, "its package is not loaded")
    try:
        found = resolve(path)
    except Exception as error:  # noqa: BLE001 - a module raises anything
        return _unknown(path, str(error))
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        return _unknown(path, "it is not an exception")
    return found


def _unknown(path: str, why: str) -> type[BaseException] | None:
    logger.warning("Exception %s of a recorded failure cannot be rebuilt: %s", path, why)
    return None
