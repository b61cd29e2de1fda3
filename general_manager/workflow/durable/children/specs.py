"""Children as a handler describes them, and as it finds them again: plain values."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from general_manager.workflow.core.encoding import encode_mapping
from general_manager.workflow.core.ids import require_id
from general_manager.workflow.core.limits import line_of
from general_manager.workflow.durable.errors import ChildCycle, ChildFailed
from general_manager.workflow.durable.failures import failure_of
from general_manager.workflow.engine import WorkflowDefinition, WorkflowState, check_start
from general_manager.workflow.exceptions import StepUsageError

__all__ = ["Child", "child"]

RAISE: Final = "raise"
COLLECT: Final = "collect"
CYCLE: Final = "cycle"
"""The outcome of a joined child that waits for the execution that joined it."""
MOST_GENERATIONS: Final = 50
"""Generations of children below one execution; a workflow that starts itself ends there."""


@dataclass(frozen=True, slots=True)
class Child:
    """An execution to start and to wait for; made by `child`, started by `gather`."""

    definition: WorkflowDefinition
    input_data: dict[str, Any]
    key: str | None = None
    correlation_id: str | None = None
    abandon: bool = False


def child(
    definition: WorkflowDefinition,
    input_data: Mapping[str, Any] | None = None,
    *,
    key: str | int | None = None,
    correlation_id: str | None = None,
    abandon: bool = False,
) -> Child:
    """Describe an execution for `gather`; this starts nothing.

    *key* names it among the children of its gather, by default by its position. While an execution
    with the same workflow id and *correlation_id* is active or completed, the gather waits for that
    one instead of starting another. With *abandon* the child goes on if its parent is cancelled or
    fails, its gather times out, or another child fails.
    """
    check_start(definition, correlation_id)
    if key is not None and (isinstance(key, bool) or not isinstance(key, str | int)):
        raise TypeError(f"key must be text or a whole number, not {key!r}")
    if not isinstance(abandon, bool):
        raise TypeError(f"abandon must be True or False, not {abandon!r}")
    if key is not None:
        require_id("key", str(key))
    return Child(
        definition,
        encode_mapping({} if input_data is None else input_data, root="input_data"),
        None if key is None else str(key),
        correlation_id or None,
        abandon,
    )


@dataclass(frozen=True, slots=True)
class GatherOptions:
    """The arguments of `gather`."""

    at_once: int | None = None
    on_failure: str = RAISE
    timeout: timedelta | None = None

    def to_json(self) -> dict[str, Any]:
        """What later looks need, wherever they happen."""
        return {"at_once": self.at_once, "on_failure": self.on_failure}


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """What is copied of a child that is over, so that it survives the child's retention."""

    place: int
    key: str
    workflow_id: str
    execution_id: str
    state: str
    """A terminal state, or `CYCLE`."""
    output: Any = None
    error: str = ""

    @property
    def is_bad(self) -> bool:
        return self.state != WorkflowState.COMPLETED

    def failure(self, name: str) -> ChildFailed:
        """What the gather *name* raises for it, or puts in its place."""
        is_cycle = self.state == CYCLE
        kind = ChildCycle if is_cycle else ChildFailed
        state = "waiting for this execution" if is_cycle else str(self.state)
        return kind(name, self.key, self.workflow_id, self.execution_id, state, self.error)

    def result(self, name: str) -> Any:
        return self.failure(name) if self.is_bad else self.output


def stored_failure(name: str, outcome: ChildOutcome) -> dict[str, Any]:
    """The failure of the gather *name*, as its record keeps it."""
    return failure_of(outcome.failure(name), is_final=False).to_json()


def with_keys(name: str, children: Sequence[Child]) -> list[Child]:
    """*children*, each with its key; raises `StepUsageError` for a key that is used twice."""
    keyed: list[Child] = []
    used: set[str] = set()
    for place, one in enumerate(children):
        if not isinstance(one, Child):
            raise TypeError(f"gather({name!r}) takes what child() returns, not {one!r}")
        key = str(place) if one.key is None else one.key
        if key in used:
            raise StepUsageError(
                f"The key {key!r} is used twice in gather({name!r}): give each child a key of its "
                "own, or none."
            )
        used.add(key)
        keyed.append(replace(one, key=key))
    return keyed


def require_lines(children: Sequence[Child]) -> None:
    """Raises `LimitKeyError` if the input of one has no key for its workflow's limit.

    For all of them, before the first one is started: a gather that is refused leaves nothing.
    """
    for one in children:
        workflow = one.definition
        line_of(workflow.workflow_id, workflow.limit, workflow.rate, one.input_data)


def require_depth(name: str, depth: int) -> None:
    """Raises `StepUsageError` if children of an execution at *depth* would be too deep."""
    if depth >= MOST_GENERATIONS:
        raise StepUsageError(
            f"gather({name!r}) is called {depth} generations below the first execution, and at "
            f"most {MOST_GENERATIONS} are possible: does the workflow start itself without an end?"
        )


def in_start_order(
    children: Sequence[Child], known: Collection[int], keys: Mapping[int, str]
) -> list[int]:
    """The places of children that are not *known* yet: first those with dedup *keys*, in order.

    Two parents that start children with the same correlation ids insert them in one order, so that
    neither waits for the other.
    """
    missing = [place for place in range(len(children)) if place not in known]
    return sorted(missing, key=lambda place: (place not in keys, keys.get(place, ""), place))
