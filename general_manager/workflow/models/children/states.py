"""What children are now: the newest execution of each chain counts."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from django.db.models import Q

from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.models.sql.columns import not_indexed

CHILDREN_CHUNK: Final = 500
"""Children that one statement reads or inserts."""

IS_HELD: Final = Q(state=WorkflowState.PENDING, ready=False, wake_at=None)
"""Children that wait until another one of their gather is over."""

Item = TypeVar("Item")


class ChildState(NamedTuple):
    """The newest execution of a child's chain."""

    execution_id: str
    state: str
    is_ending: bool = False
    """Whether it was asked to end."""

    @property
    def is_over(self) -> bool:
        return self.state not in ACTIVE_STATES


GONE: Final = ChildState("", WorkflowState.FAILED)
"""Somebody has deleted its row."""


def in_chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), CHILDREN_CHUNK):
        yield items[start : start + CHILDREN_CHUNK]


def newest_of(executions: Any, chains: Collection[str]) -> dict[str, ChildState]:
    """The newest execution of each chain, in two statements; `GONE` without one."""
    found = dict.fromkeys(chains, GONE)
    firsts = executions.filter(execution_id__in=chains)
    for key, state, asked in firsts.values_list("execution_id", "state", "ending_at"):
        found[key] = ChildState(key, state, asked is not None)
    later = executions.filter(chain__in=chains).order_by("pk")
    names = ("chain", "execution_id", "state", "ending_at")
    for chain, key, state, asked in later.values_list(*names):
        found[chain] = ChildState(key, state, asked is not None)
    return found


def waiters_of(executions: Any, slots: Any, chains: Collection[str], most: int) -> set[str]:
    """The chains of all executions that wait for one of *chains*, directly or not.

    Follows slots upwards, through *most* executions at most.
    """
    found: set[str] = set()
    new = set(chains)
    while new and len(found) < most:
        found |= new
        waiting = executions.filter(not_indexed("state", *ACTIVE_STATES))
        keys = slots.waited_for().naming(new).values_list("execution_id", flat=True)[:most]
        rows = waiting.filter(pk__in=set(keys)).values_list("execution_id", "chain")
        new = {chain or key for key, chain in rows} - found
    return found - set(chains)
