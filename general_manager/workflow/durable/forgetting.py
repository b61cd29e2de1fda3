"""What a fresh execution forgets of sagas and of failures: pure functions over the records."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from general_manager.workflow.durable.records import UNFINISHED, StepRecord, StepStatus
from general_manager.workflow.history import HistoryKind

MOST_NAMES: Final = 30
"""Names listed in one message."""


class SagaPlan(NamedTuple):
    dropped: set[str]
    undoing: str
    incomplete: str


def saga_plan(by_name: Mapping[str, StepRecord], dropped: set[str]) -> SagaPlan:
    """What is forgotten of sagas, as the steps *dropped* are forgotten already."""
    last = max((one.position for one in by_name.values()), default=0)
    gone: set[str] = set()
    undoing = incomplete = ""
    for saga in [one for one in by_name.values() if one.is_saga]:
        undos = {name for name, one in by_name.items() if one.saga == saga.name}
        about = saga.result or {}
        block = {
            name
            for name, one in by_name.items()
            if about.get("opened", 0) <= one.position <= saga.position
        }
        if saga.status is StepStatus.UNDONE and (saga.position >= last or dropped & block):
            gone |= block | undos
        elif saga.status in (StepStatus.INCOMPLETE, StepStatus.UNDOING):
            gone |= {name for name in undos if by_name[name].status is StepStatus.FAILED}
            undoing = undoing or str((saga.failure or {}).get("text", ""))
            incomplete = incomplete or saga.name
    return SagaPlan(gone, undoing, incomplete)


def not_older_than(starts: Collection[StepRecord], by_name: Mapping[str, StepRecord]) -> set[str]:
    """*starts*, and all steps that may have known one of their outcomes."""
    ended = [step.position for step in starts if step.status not in UNFINISHED]
    names = {step.name for step in starts}
    if ended:
        first = min(ended)
        names |= {name for name, one in by_name.items() if one.position >= first}
    return names


def failures_that_left_the_handler(steps: Iterable[StepRecord]) -> set[str]:
    found = list(steps)
    last = max((one.position for one in found), default=0)
    return {one.name for one in found if one.status is StepStatus.FAILED and one.position >= last}


def was_continued(execution_id: str) -> str:
    return f"It was continued as execution {execution_id}."


def key_is_taken(execution_id: str, state: str) -> str:
    return f"Its correlation id is taken by execution {execution_id}, which is {state}."


def events_taken(
    forgotten: Iterable[StepRecord], before: str | None, *, is_own: bool
) -> dict[tuple[str, str], str]:
    """The events that forgotten waits had taken: id and wait, with the key of the event.

    *is_own*: only the one that answered *before* itself, which is taken back for good.
    """
    return {
        (one.event, one.name): source["name"]
        for one in sorted(forgotten, key=lambda step: step.position)
        for source in one.sources
        if one.event is not None and source["branch"] == one.branch and source["kind"] == "event"
        if (one.name == before) is is_own
    }


def notes_of_mailboxes(
    returned: Mapping[Any, str],
    withdrawn: Mapping[Any, str],
    events_returned: Mapping[Any, str],
    events_withdrawn: Mapping[Any, str],
) -> dict[HistoryKind, str]:
    """What the history says about the signals and events that forgotten waits had taken."""
    found = {
        HistoryKind.SIGNALS_RETURNED: returned,
        HistoryKind.SIGNAL_WITHDRAWN: withdrawn,
        HistoryKind.EVENTS_RETURNED: events_returned,
        HistoryKind.EVENT_WITHDRAWN: events_withdrawn,
    }
    return {kind: ", ".join(names.values()) for kind, names in found.items() if names}


def resolution_in_words(name: str, resolved: Mapping[str, tuple[bool, Any]]) -> str:
    """An operator's decision about a step, for the history."""
    return f"{name}: {'it happened' if resolved[name][0] else 'it did not happen'}"


def listed(steps: list[StepRecord]) -> str:
    names = [repr(step.name) for step in steps[:MOST_NAMES]]
    if len(steps) > MOST_NAMES:
        names.append(f"and {len(steps) - MOST_NAMES} more")
    return ", ".join(names) or "none"


def in_order(steps: Iterable[StepRecord]) -> list[StepRecord]:
    """In the order in which their outcomes were written; steps without an outcome come last."""
    return sorted(steps, key=lambda one: (one.status in UNFINISHED, one.position))
