"""What open waits wait for, in words; and those that look back further than events are kept."""

from collections.abc import Iterable
from typing import Any, Final

from general_manager.workflow.core.redaction import REDACTED, is_secret, redact
from general_manager.workflow.durable.answers.sources import in_words, source_of
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.models import WorkflowEventWait, WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.operations.moments import MOST_MOMENTS

LAST_ANSWER: Final = "resume_signal"
"""The key of the last answer in an execution's metadata."""


def sources_in_words(step: WorkflowStep) -> str:
    """What can answer the wait *step*, redacted; empty if `wait_for` opened it."""
    stored: list[dict[str, Any]] = step.sources or []
    return in_words([source_of({**one, "match": redact(one["match"])}) for one in stored])


def awaited(record: WorkflowExecutionRecord) -> str:
    """What can answer the open wait of *record*; empty without events or several sources."""
    if record.waiting_for is None:
        return ""
    steps = WorkflowStep.objects.using(record._state.db or "default")
    step = steps.filter(execution=record, name=record.waiting_for, status=StepStatus.OPEN).first()
    return "" if step is None else sources_in_words(step)


def metadata_to_show(record: WorkflowExecutionRecord) -> Any:
    """The metadata of *record* with its last answer redacted by the names of its waits.

    The answer does not say which wait it was for. By its keys, who shows it redacts it.
    """
    found: Any = record.metadata
    if not isinstance(found, dict) or found.get(LAST_ANSWER) is None:
        return found
    steps = WorkflowStep.objects.using(record._state.db or "default")
    waits = steps.filter(execution=record, answerable=True, status=StepStatus.DONE)
    names = waits.order_by("-pk").values_list("name", flat=True)[:MOST_MOMENTS]
    return {**found, LAST_ANSWER: REDACTED} if any(map(is_secret, names)) else found


def count_cut_waits(aliases: Iterable[str]) -> int:
    """Open waits in these databases that look back further than retention keeps events."""
    waits = [WorkflowEventWait.objects.using(alias).filter(is_cut=True) for alias in aliases]
    return sum(found.values("execution", "step").distinct().count() for found in waits)
