"""The exceptions of one run's steps: where each came from, and which are not recorded yet."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from general_manager.workflow.durable.errors import CompensationIncomplete
from general_manager.workflow.durable.failures import (
    Failure,
    failure_of,
    raised_again,
    raised_first,
)
from general_manager.workflow.durable.records import StepRecord
from general_manager.workflow.exceptions import StepInDoubt, WaitTimeout, parts

LONGEST_CHAIN: Final = 20
"""Causes of an error that are searched for the step that raised it."""
MOST_RAISED: Final = 1_000
"""Exceptions of one run that are remembered: each keeps its traceback's variables alive."""


class Unrecorded(NamedTuple):
    """Something to *write* before the handler's next call; a failure also has what was *raised*."""

    write: Callable[[], None]
    raised: BaseException | None = None
    closes: str | None = None
    """The saga that it closes."""


class Outcomes:
    """What the steps of one run raised."""

    def __init__(self) -> None:
        self.unrecorded: list[Unrecorded] = []
        """In order: failures that the handler may have caught, and sagas that it entered and left.
        They are recorded before it can act on them: a later run must take the same branch."""
        self._last: tuple[str, BaseException] | None = None
        self._origins: deque[tuple[BaseException, BaseException]] = deque(maxlen=MOST_RAISED)
        self._final: deque[BaseException] = deque(maxlen=MOST_RAISED)

    @property
    def failed_in(self) -> str:
        """The step that raised last."""
        return self._last[0] if self._last is not None else ""

    def failed(self, name: str, error: BaseException) -> None:
        """*error* is what step *name* raises as it is, and nothing is recorded."""
        self._last = (name, error)

    def unless_it_leaves(
        self, name: str, error: BaseException, fail: Callable[[str, dict[str, Any], int], None]
    ) -> BaseException:
        """What a step without a budget raises for *error*: recorded only if it is caught."""
        failure = failure_of(error, is_final=False)
        raised = raised_first(name, error, failure)
        self.unrecorded.append(Unrecorded(partial(fail, name, failure.to_json(), 1), raised))
        self._last = (name, error)
        if raised is not error:
            self._origins.append((raised, error))
        return raised

    def recorded(self, *, most: int | None = None) -> None:
        """The first *most* unrecorded failures, or all of them, are recorded."""
        done = self.unrecorded[:most]
        self._final.extend(one.raised for one in done if one.raised is not None)
        del self.unrecorded[:most]

    def for_good(self, name: str, error: BaseException, attempts: int) -> BaseException:
        """What a step with a budget raises after its last attempt, which raised *error*."""
        raised = raised_first(name, error, failure_of(error, is_final=True), attempts)
        return self._finally(name, raised)

    def of_saga(self, name: str, error: BaseException, failure: Failure) -> BaseException:
        """What leaves saga *name* for *error*, now that it is recorded and undone."""
        error = self.origin(error)
        raised = raised_first(name, error, failure)
        if raised is not error:
            self._origins.append((raised, error))
        self._final.append(raised)
        return raised

    def again(self, record: StepRecord) -> BaseException:
        """What a step raises whose failure was recorded in an earlier run."""
        stored = record.failure or {}
        return self._finally(record.name, raised_again(record.name, stored, record.attempts))

    def _finally(self, name: str, raised: BaseException) -> BaseException:
        self._last = (name, raised)
        self._final.append(raised)
        return raised

    def is_final(self, error: BaseException) -> bool:
        """Whether *error* is recorded: every later run would raise it again."""
        found = list(parts(error))
        return any(isinstance(one, WaitTimeout | CompensationIncomplete) for one in found) or any(
            one is final for one in found for final in self._final
        )

    def origin(self, error: BaseException) -> BaseException:
        """The exception that *error* stands for: it decides about retries, and is shown."""
        return next((origin for raised, origin in self._origins if raised is error), error)

    def where(self, error: BaseException) -> str:
        """The step that raised *error* or its cause; empty if no step raised it."""
        seen: BaseException | None = error
        for _ in range(LONGEST_CHAIN):  # a cause may be its own cause
            if seen is None or self._last is None:
                break
            if seen is self._last[1]:
                return self._last[0]
            seen = seen.__cause__ or seen.__context__
        return error.name if isinstance(error, StepInDoubt | WaitTimeout) else ""
