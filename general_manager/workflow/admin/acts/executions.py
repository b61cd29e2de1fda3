"""The acts on executions: each with its permission, form and conditions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from django.db import DEFAULT_DB_ALIAS, transaction
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.admin.acts.cancelling import cancel, engine, how_cancelled
from general_manager.workflow.admin.acts.forms import (
    ActForm,
    AnswerForm,
    CancelForm,
    CorrectForm,
    ResolveForm,
    RetryForm,
    SignalForm,
    Values,
)
from general_manager.workflow.admin.acts.seen import last_signal, require_same, situation
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.engine import (
    ACTIVE_STATES,
    WorkflowExecution,
    WorkflowExecutionNotFoundError,
)
from general_manager.workflow.exceptions import ChangedMeanwhileError
from general_manager.workflow.executions.repairs import once_steps, why_not_continued
from general_manager.workflow.executions.rules import why_not_woken
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.execution import Executions

Record = WorkflowExecutionRecord
Text = str | Promise
Refusals = Mapping[int, Text]


class Standing:
    """Some executions, with the lookups that decide which acts are possible."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    @cached_property
    def not_continuable(self) -> Refusals:
        return why_not_continued(self._rows, self.records)

    @cached_property
    def started(self) -> Mapping[int, list[str]]:
        return once_steps(self._rows, self.records, StepStatus.STARTED)

    @cached_property
    def done(self) -> Mapping[int, list[str]]:
        return once_steps(self._rows, self.records, StepStatus.DONE)

    @property
    def _rows(self) -> Executions:
        using = self.records[0]._state.db if self.records else None
        return WorkflowExecutionRecord.objects.using(using or DEFAULT_DB_ALIAS)


@dataclass(frozen=True, slots=True)
class Act:
    """One act. *refusals* returns the executions to which it is refused, with reasons.

    It applies the engine's own rules, to all of them at once. *perform* raises if it lost a race.
    """

    name: str
    label: Promise
    done: Promise | Callable[[WorkflowExecution], Text]
    permission: str
    form: type[ActForm]
    sentence: Promise
    refusals: Callable[[Standing], Refusals]
    perform: Callable[[Record, Values], WorkflowExecution]
    counted: Text = ""
    """A sentence with the numbers *able* and *total*, if it can act on many at once."""
    is_grave: bool = False

    def why_not(self, record: Record, standing: Standing | None = None) -> Text | None:
        return self.refusals(standing or Standing([record])).get(record.pk)

    def perform_as_seen(self, record: Record, seen: Any, values: Values) -> WorkflowExecution:
        """Act as confirmed, or raise `ChangedMeanwhileError` with nothing done."""
        using = record._state.db or DEFAULT_DB_ALIAS
        with transaction.atomic(using=using):
            rows = WorkflowExecutionRecord.objects.using(using).select_for_update()
            now = rows.filter(pk=record.pk).first()
            if now is None:  # pruned since then
                raise WorkflowExecutionNotFoundError(record.execution_id)
            require_same(seen, situation(now))
            return self.perform(now, values)


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


def _is_sleeping(record: Record) -> Text | None:
    return (
        why_not_woken(
            record.state,
            record.waiting_for,
            is_delayed=not record.ready and not record.is_held,
            children=getattr(record, "gathered", None) is not None,  # set on the records of a page
        )
        or None
    )


def _not_continuable(standing: Standing) -> Refusals:
    in_doubt = {
        key: _("Step “%s” is in doubt: resolve it first.") % names[0]
        for key, names in standing.started.items()
    }
    return {**in_doubt, **standing.not_continuable}


def _not_in_doubt(standing: Standing) -> Refusals:
    reason = _("No step is in doubt.")
    certain = {one.pk: reason for one in standing.records if one.pk not in standing.started}
    return {**certain, **standing.not_continuable}


def _not_correctable(standing: Standing) -> Refusals:
    reason = _("No step marked once=True has a result.")
    without = {one.pk: reason for one in standing.records if one.pk not in standing.done}
    return {**without, **_not_continuable(standing)}


def _signal(record: Record, values: Values) -> WorkflowExecution:
    """Send a signal once for each time that the form was opened."""
    if values["last_signal"] != [last_signal(record)]:
        raise ChangedMeanwhileError(
            _("You have sent it a signal since you opened the form. Open it again to send another.")
        )
    return engine().signal(record.execution_id, values["signal"], values["value"])


ANSWER: Final = Act(
    name="answer",
    label=_("Answer…"),
    done=_("Answered."),
    permission="resume_execution",
    form=AnswerForm,
    sentence=_(
        "The execution continues with your answer. A wrong answer can be taken back by “Retry "
        "from checkpoint” once the execution has failed or has been cancelled."
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
        "The wait ends now as if its time limit had passed: the workflow gets WaitTimeout. A "
        "workflow that does not handle it fails; it can be retried from before the wait."
    ),
    refusals=_each(_asks),
    perform=lambda record, values: engine().time_out(record.execution_id, wait=record.waiting_for),
)
SIGNAL: Final = Act(
    name="signal",
    label=_("Send a signal…"),
    done=_("Signal sent."),
    permission="signal_execution",
    form=SignalForm,
    sentence=_(
        "The signal is kept in order under its name until the workflow waits for it; an open wait "
        "for that name takes it at once. A wrong one can be taken back like an answer."
    ),
    refusals=_each(_is_active),
    perform=_signal,
)
WAKE: Final = Act(
    name="wake",
    label=_("Wake now…"),
    done=_("Woken."),
    permission="retry_execution",
    form=ActForm,
    sentence=_("The sleep, or the delay before the next attempt, ends now."),
    refusals=_each(_is_sleeping),
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
        "A fresh execution takes over the kept results and runs the rest; this one stays as it "
        "is. The failed step may repeat its effects outside the database."
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
        "The step was interrupted, so whether it had its effect is unknown. Find out, for "
        "example in the other system, and choose the outcome; a fresh execution continues."
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
        "Use this if a wrong result was recorded for a step marked once=True. A fresh execution "
        "continues with the right one; everything that ended after the step runs again."
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
    done=how_cancelled,
    permission="cancel_execution",
    form=CancelForm,
    sentence=_(
        "The execution stops at its next step at the latest; a running atomic step is rolled "
        "back. Its correlation id becomes free. “Retry from checkpoint” can later reuse its "
        "finished steps in a fresh execution."
    ),
    refusals=_each(_is_active),
    perform=lambda record, values: cancel(
        record, values.get("reason") or None, undo_first=bool(values.get("undo_first"))
    ),
    counted=_("%(able)d of %(total)d can be cancelled."),
    is_grave=True,
)
ACTS: Final = {
    act.name: act for act in (ANSWER, SIGNAL, TIME_OUT, WAKE, RETRY, RESOLVE, CORRECT, CANCEL)
}
IN_BULK: Final = (RETRY, WAKE, CANCEL)
