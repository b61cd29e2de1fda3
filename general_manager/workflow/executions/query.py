"""Looking up executions: what is asked for, and the lazy list that answers. The same everywhere."""

import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from json import dumps
from typing import Any, Final, Protocol, overload

from asgiref.sync import sync_to_async

from general_manager.workflow.core.encoding import encode_mapping
from general_manager.workflow.core.ids import first_id_at, require_id
from general_manager.workflow.engine import WorkflowDefinition, WorkflowExecution, WorkflowState
from general_manager.workflow.exceptions import WorkflowExecutionNotFoundError
from general_manager.workflow.executions.subjects import subjects_of

__all__ = ["ExecutionQuery"]

FIRST_PAGE: Final = 100
LARGEST_PAGE: Final = 1_000
"""Executions that are read at a time: more and more, up to this."""
MOST_ATTRIBUTES: Final = 20
LONGEST_ATTRIBUTES: Final = 4_000
"""Bytes of an execution's attributes as JSON: an index holds them, and lists show them."""
ATTRIBUTE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
FIRST_TIME: Final = datetime(1970, 1, 2, tzinfo=UTC)
"""No execution is older."""


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """Selects the executions that match every given value."""

    workflow_id: str | None = None
    correlation_id: str | None = None
    states: frozenset[WorkflowState] = frozenset()
    """Empty for every state."""
    subjects: frozenset[str] = frozenset()
    """Texts of one subject; empty for every subject."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    started_after: datetime | None = None
    started_before: datetime | None = None

    @property
    def first_id(self) -> str | None:
        """Ids begin with the time of `start`: a lower bound."""
        return (
            None if self.started_after is None else first_id_at(max(self.started_after, FIRST_TIME))
        )

    @property
    def end_id(self) -> str | None:
        return (
            None
            if self.started_before is None
            else first_id_at(max(self.started_before, FIRST_TIME))
        )


def make_filter(
    *,
    workflow: object,
    state: object,
    subject: object,
    attributes: Mapping[str, Any] | None,
    correlation_id: object,
    started_after: object,
    started_before: object,
) -> ExecutionFilter:
    """The arguments of `executions`, validated. Raises `TypeError` or `ValueError`."""
    if correlation_id is not None:
        require_id("correlation_id", correlation_id)
    for name, moment in (("started_after", started_after), ("started_before", started_before)):
        if moment is not None:
            _require_aware(name, moment)
    text: Any = correlation_id
    after: Any = started_after
    before: Any = started_before
    return ExecutionFilter(
        workflow_id=None if workflow is None else workflow_id_of(workflow),
        correlation_id=text,
        states=_states(state),
        subjects=frozenset() if subject is None else frozenset(subjects_of(subject)),
        attributes=check_attributes(attributes),
        started_after=after,
        started_before=before,
    )


def workflow_id_of(workflow: object) -> str:
    """The id of a definition, or the id itself."""
    if isinstance(workflow, WorkflowDefinition):
        return workflow.workflow_id
    require_id("workflow", workflow)
    return str(workflow)


def check_attributes(attributes: object) -> dict[str, Any]:
    """The encoded attributes; raises `TypeError` or `ValueError` if they are not flat and few."""
    if attributes is None:
        return {}
    if not isinstance(attributes, Mapping):
        raise TypeError(f"attributes must be a mapping, not {attributes!r}")
    found = encode_mapping(attributes, root="attributes")
    if len(found) > MOST_ATTRIBUTES:
        raise ValueError(f"attributes has {len(found)} entries, more than {MOST_ATTRIBUTES}")
    for name, value in found.items():
        if not ATTRIBUTE_NAME.fullmatch(name):
            raise ValueError(
                f"The attribute {name[:120]!r} must have a name of at most 100 ASCII letters, "
                "digits, '_', '-' and '.'"
            )
        if isinstance(value, dict | list):
            raise TypeError(f"The attribute {name!r} must be a single value, not {value!r}")
        if isinstance(value, int) and abs(value) >= 2**53:
            raise ValueError(
                f"The attribute {name!r} is a number that not every database compares exactly: "
                "pass it as text"
            )
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            found[name] = int(value)  # 7.0 is 7 in every JSON
    if len(dumps(found, ensure_ascii=False).encode()) > LONGEST_ATTRIBUTES:
        raise ValueError(f"attributes has more than {LONGEST_ATTRIBUTES} bytes as JSON")
    return found


def same_values(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether *stored* has each of *wanted*, as JSON compares them: ``true`` is not 1."""
    return all(
        name in stored
        and stored[name] == value
        and isinstance(stored[name], bool) == isinstance(value, bool)
        for name, value in wanted.items()
    )


def _states(given: object) -> frozenset[WorkflowState]:
    if given is None:
        return frozenset()
    several = [given] if isinstance(given, str) else given
    if not isinstance(several, Collection):
        raise TypeError(f"state must be a state or several, not {given!r}")
    try:
        found = frozenset(WorkflowState(one) for one in several)
    except ValueError:
        names = ", ".join(WorkflowState)
        raise ValueError(f"state must be among {names}, not {given!r}") from None
    if not found:
        raise ValueError("state must name at least one state")
    return found


def _require_aware(name: str, moment: object) -> None:
    if not isinstance(moment, datetime):
        raise TypeError(f"{name} must be a datetime, not {moment!r}")
    if moment.utcoffset() is None:
        raise ValueError(f"{name} must have a time zone: {moment!r}")


class CorrelationNotFoundError(WorkflowExecutionNotFoundError):
    """The workflow has no execution with this correlation id."""

    def __init__(self, workflow_id: str, correlation_id: str) -> None:
        super().__init__(correlation_id)
        self.args = (workflow_id, correlation_id)
        self.workflow_id = workflow_id
        self.correlation_id = correlation_id

    def __str__(self) -> str:
        return (
            f"Workflow {self.workflow_id!r} has no execution with the correlation id "
            f"{self.correlation_id!r}."
        )


class ExecutionSource(Protocol):
    """Where an engine's executions are read: newest first, each with a number that falls."""

    def page(self, before: int | None, skip: int, size: int) -> list[tuple[int, WorkflowExecution]]:
        """Up to *size* executions with a number below *before*, without the first *skip*."""
        ...

    def count(self, skip: int, most: int | None) -> int:
        """How many there are without the first *skip*, up to *most*."""
        ...


class ExecutionQuery:
    """The executions that an engine found, newest first: lazy, and read in pages.

    ``for`` reads page by page, so memory is bounded however many there are; executions that start
    meanwhile do not appear. A slice is lazy too; ``[0]`` and `first` read one. It is true if there
    is an execution.
    """

    def __init__(self, source: ExecutionSource, *, skip: int = 0, most: int | None = None) -> None:
        self._source = source
        self._skip = skip
        self._most = most

    def __iter__(self) -> Iterator[WorkflowExecution]:
        before, skip, left, size = None, self._skip, self._most, FIRST_PAGE
        while left is None or left > 0:
            wanted = size if left is None else min(size, left)
            found = self._source.page(before, skip, wanted)
            for _, execution in found:
                yield execution
            if len(found) < wanted:
                return
            before, skip = found[-1][0], 0
            left = None if left is None else left - len(found)
            size = min(size * 2, LARGEST_PAGE)

    @overload
    def __getitem__(self, place: int) -> WorkflowExecution: ...
    @overload
    def __getitem__(self, place: slice) -> "ExecutionQuery": ...
    def __getitem__(self, place: int | slice) -> "WorkflowExecution | ExecutionQuery":
        if isinstance(place, slice):
            return self._sliced(place)
        if not isinstance(place, int):
            raise TypeError(f"executions are indexed by numbers and slices, not {place!r}")
        if place < 0:
            raise ValueError("Executions are counted from the newest: an index is 0 or more")
        found = self._sliced(slice(place, place + 1)).first()
        if found is None:
            raise IndexError(f"There is no execution at {place}")
        return found

    def _sliced(self, wanted: slice) -> "ExecutionQuery":
        start = 0 if wanted.start is None else wanted.start
        stop = wanted.stop
        if wanted.step is not None or start < 0 or (stop is not None and stop < 0):
            raise ValueError("A slice of executions counts from the newest and has no step")
        most = None if stop is None else max(0, stop - start)
        if self._most is not None:
            rest = max(0, self._most - start)
            most = rest if most is None else min(most, rest)
        return ExecutionQuery(self._source, skip=self._skip + start, most=most)

    def first(self) -> WorkflowExecution | None:
        """The newest, or `None`."""
        if self._most == 0:
            return None
        found = self._source.page(None, self._skip, 1)
        return found[0][1] if found else None

    def count(self) -> int:
        """How many there are; the tables count them without reading them."""
        return 0 if self._most == 0 else self._source.count(self._skip, self._most)

    def exists(self) -> bool:
        return self.first() is not None

    async def __aiter__(self) -> AsyncIterator[WorkflowExecution]:
        before, skip, left, size = None, self._skip, self._most, FIRST_PAGE
        page = sync_to_async(self._source.page, thread_sensitive=True)
        while left is None or left > 0:
            wanted = size if left is None else min(size, left)
            found = await page(before, skip, wanted)
            for _, execution in found:
                yield execution
            if len(found) < wanted:
                return
            before, skip = found[-1][0], 0
            left = None if left is None else left - len(found)
            size = min(size * 2, LARGEST_PAGE)

    async def afirst(self) -> WorkflowExecution | None:
        """`first`, from async code."""
        return await sync_to_async(self.first, thread_sensitive=True)()

    async def acount(self) -> int:
        """`count`, from async code."""
        return await sync_to_async(self.count, thread_sensitive=True)()

    async def aexists(self) -> bool:
        """`exists`, from async code."""
        return await self.afirst() is not None

    def __bool__(self) -> bool:
        return self.exists()

    def __repr__(self) -> str:
        shown = [f"{one.workflow_id} {one.execution_id} {one.state}" for one in self[:3]]
        more = ", ..." if self[3:4] else ""
        return f"<{type(self).__name__} [{', '.join(shown)}{more}]>"
