"""What open waits wait for, in words; and those that look back further than events are kept."""

from typing import Any

from general_manager.workflow.core.redaction import redact
from general_manager.workflow.durable.answers.sources import in_words, source_of
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.models import WorkflowEventWait, WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.models.databases import outboxes


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


def count_cut_waits() -> int:
    """Open waits that look back further than retention keeps events."""
    waits = [WorkflowEventWait.objects.using(alias).filter(is_cut=True) for alias in outboxes()]
    return sum(found.values("execution", "step").distinct().count() for found in waits)
