"""What an operator may do to an execution: each act with its permission, form and limits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from django.db import DEFAULT_DB_ALIAS, transaction
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.admin.forms import (
    ActForm,
    AnswerForm,
    CorrectForm,
    ReasonForm,
    ResolveForm,
    RetryForm,
    Values,
)
from general_manager.workflow.admin.seen import require_same, situation
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.backends.repairs import once_steps, why_not_continued
from general_manager.workflow.checkpoints import why_not_woken
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowExecution
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.execution import ExecutionQuerySet
from general_manager.workflow.steps import StepStatus

Record = WorkflowExecutionRecord
Text = str | Promise
Refusals = Mapping[int, Text]


class Standing:
    """Some executions, and what has to be looked up for all of them to know what is possible."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    @cached_property
    def not_continuable(self) -> Refusals:
        return why_not_continued(self._rows, self.records)

    @cached_property
    def begun(self) -> Mapping[int, list[str]]:
        return once_steps(self._rows, self.records, StepStatus.BEGUN)

    @cached_property
    def done(self) -> Mapping[int, list[str]]:
        return once_steps(self._rows, self.records, StepStatus.DONE)

    @property
    def _rows(self) -> ExecutionQuerySet:
        using = self.records[0]._state.db if self.records else None
        return WorkflowExecutionRecord.objects.using(using or DEFAULT_DB_ALIAS)


@dataclass(frozen=True, slots=True)
class Act:
    """One verb. *refusals* says of which of some executions it is refused, and why: it asks what
    the engine asks, for all of them at once. *perform* raises if it lost a race.
    """

    name: str
    label: Promise
    done: Promise
    permission: str
    form: type[ActForm]
    sentence: Promise
    refusals: Callable[[Standing], Refusals]
    perform: Callable[[Record, Values], WorkflowExecution]
    counted: Text = ""
    """A sentence with the numbers *able* and *total* in it, for many at once."""
    is_grave: bool = False

    def why_not(self, record: Record, standing: Standing | None = None) -> Text | None:
        return self.refusals(standing or Standing([record])).get(record.pk)

    def perform_as_seen(self, record: Record, seen: Any, values: Values) -> WorkflowExecution:
        """Act on what was confirmed, or raise `ChangedMeanwhileError` with nothing done."""
        using = record._state.db or DEFAULT_DB_ALIAS
        with transaction.atomic(using=using):
            rows = WorkflowExecutionRecord.objects.using(using).select_for_update()
            now = rows.get(pk=record.pk)
            require_same(seen, situation(now))
            return self.perform(now, values)


def engine() -> CeleryWorkflowEngine:
    """The engine of what is stored, also where the project runs another one."""
    found = get_workflow_engine()
    return found if isinstance(found, CeleryWorkflowEngine) else CeleryWorkflowEngine()


def _each(rule: Callable[[Record], Text | None]) -> Callable[[Standing], Refusals]:
    def refusals(standing: Standing) -> Refusals:
        found = {one.pk: rule(one) for one in standing.records}
        return {key: reason for key, reason in found.items() if reason}

    return refusals


def _asks(record: Record) -> Text | None:
    if record.waiting_for is not None and record.state in ACTIVE_STATES:
        return None
    return _("It is not waiting for an answer.")


def _is_active(record: Record) -> Text | None:
    return None if record.state in ACTIVE_STATES else _("It has ended.")


def _rests(record: Record) -> Text | None:
    return why_not_woken(record.state, record.waiting_for, rests=not record.ready) or None


def _not_continuable(standing: Standing) -> Refusals:
    in_doubt = {
        key: _("Step “%s” is in doubt: resolve it first.") % names[0]
        for key, names in standing.begun.items()
    }
    return {**in_doubt, **standing.not_continuable}


def _not_in_doubt(standing: Standing) -> Refusals:
    reason = _("No step is in doubt.")
    certain = {one.pk: reason for one in standing.records if one.pk not in standing.begun}
    return {**certain, **standing.not_continuable}


def _not_correctable(standing: Standing) -> Refusals:
    reason = _("It has no result of a step that is marked once=True.")
    without = {one.pk: reason for one in standing.records if one.pk not in standing.done}
    return {**without, **_not_continuable(standing)}


ANSWER: Final = Act(
    name="answer",
    label=_("Answer…"),
    done=_("Answered."),
    permission="resume_execution",
    form=AnswerForm,
    sentence=_(
        "The execution continues with your answer. If it turns out to be wrong, it can be taken "
        "back by “Retry from checkpoint”, once the execution has failed or was cancelled."
    ),
    refusals=_each(_asks),
    perform=lambda record, values: engine().resume(
        record.execution_id, values["answer"], wait=record.waiting_for
    ),
)
TIME_OUT: Final = Act(
    name="time_out",
    label=_("Time out now…"),
    done=_("Timed out."),
    permission="time_out_execution",
    form=ActForm,
    sentence=_(
        "The wait ends now as if nobody had answered in time: the workflow gets WaitTimeout. One "
        "that does not expect it fails, and can be retried from before the wait."
    ),
    refusals=_each(_asks),
    perform=lambda record, values: engine().time_out(record.execution_id, wait=record.waiting_for),
)
WAKE: Final = Act(
    name="wake",
    label=_("Wake now…"),
    done=_("Woken."),
    permission="retry_execution",
    form=ActForm,
    sentence=_("The delay before the next attempt, or the sleep, ends now."),
    refusals=_each(_rests),
    perform=lambda record, values: engine().wake(record.execution_id),
    counted=_("%(able)d of %(total)d can be woken."),
)
RETRY: Final = Act(
    name="retry",
    label=_("Retry from checkpoint…"),
    done=_("Continued by a fresh execution."),
    permission="retry_execution",
    form=RetryForm,
    sentence=_(
        "A fresh execution takes over what is kept and runs the rest; this one stays as it is. "
        "What the step that failed did outside of the database may happen again."
    ),
    refusals=_not_continuable,
    perform=lambda record, values: engine().retry_from_checkpoint(
        record.execution_id,
        before=values.get("before"),
        repeat_once=bool(values.get("repeat_once")),
    ),
    counted=_("%(able)d of %(total)d can be retried."),
)
RESOLVE: Final = Act(
    name="resolve",
    label=_("Resolve step in doubt…"),
    done=_("Resolved, and continued by a fresh execution."),
    permission="resolve_execution",
    form=ResolveForm,
    sentence=_(
        "Nobody knows whether the step had its effect. Find out, for example in the other system, "
        "and say so here; a fresh execution then continues from there."
    ),
    refusals=_not_in_doubt,
    perform=lambda record, values: engine().resolve_step(
        record.execution_id,
        values["step"],
        happened=values["happened"] == "yes",
        result=values["result"],
    ),
)
CORRECT: Final = Act(
    name="correct",
    label=_("Correct a result…"),
    done=_("Corrected, and continued by a fresh execution."),
    permission="resolve_execution",
    form=CorrectForm,
    sentence=_(
        "The result of a step that happens once was recorded wrongly. A fresh execution continues "
        "with the right one; everything that ended after the step happens again."
    ),
    refusals=_not_correctable,
    perform=lambda record, values: engine().resolve_step(
        record.execution_id,
        values["step"],
        happened=values["happened"] == "yes",
        result=values["result"],
        repeat_once=bool(values.get("repeat_once")),
    ),
)
CANCEL: Final = Act(
    name="cancel",
    label=_("Cancel execution…"),
    done=_("Cancelled."),
    permission="cancel_execution",
    form=ReasonForm,
    sentence=_(
        "The execution stops at its next step at the latest; an atomic step that is running is "
        "rolled back. Its correlation id becomes free. A fresh execution can take over its "
        "finished steps later, by “Retry from checkpoint”."
    ),
    refusals=_each(_is_active),
    perform=lambda record, values: engine().cancel(
        record.execution_id, reason=values.get("reason") or None
    ),
    counted=_("%(able)d of %(total)d can be cancelled."),
    is_grave=True,
)
ACTS: Final = {act.name: act for act in (ANSWER, TIME_OUT, WAKE, RETRY, RESOLVE, CORRECT, CANCEL)}
IN_BULK: Final = (RETRY, WAKE, CANCEL)
