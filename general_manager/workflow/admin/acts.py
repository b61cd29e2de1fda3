"""What an operator may do to an execution: each act with its permission, form and limits."""

from collections.abc import Callable
from dataclasses import dataclass
from json import JSONDecodeError, loads
from typing import Any, Final

from django import forms
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowExecution, WorkflowState
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.steps import StepStatus


class JsonField(forms.CharField):
    """One JSON value, checked on the server; empty means `None`."""

    widget = forms.Textarea(attrs={"rows": 6, "cols": 60, "spellcheck": "false"})

    def clean(self, value: Any) -> Any:
        text = str(super().clean(value)).strip()
        if not text:
            return None
        try:
            return loads(text, parse_constant=_refuse)
        except (JSONDecodeError, RecursionError, ValueError) as error:
            raise forms.ValidationError(_("This is not JSON: %s") % error) from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


class ActForm(forms.Form):
    """Asks for nothing but a yes."""

    def __init__(
        self, *args: Any, record: WorkflowExecutionRecord | None = None, **kw: Any
    ) -> None:
        super().__init__(*args, **kw)
        self.record = record


class ReasonForm(ActForm):
    reason = forms.CharField(
        label=_("Reason"),
        max_length=500,
        required=False,
        help_text=_("Kept with the execution and in its history."),
        widget=forms.TextInput(attrs={"size": 60}),
    )


class AnswerForm(ActForm):
    answer = JsonField(
        label=_("Answer"),
        required=False,
        help_text=_('What wait_for() returns, as JSON: true, "text" or {"approved": true}.'),
    )


class ResolveForm(ActForm):
    step = forms.ChoiceField(label=_("Step in doubt"))
    happened = forms.ChoiceField(
        label=_("What became of it"),
        choices=[
            ("yes", _("It happened: keep this result and go on")),
            ("no", _("It did not happen: run it again")),
        ],
        widget=forms.RadioSelect,
    )
    result = JsonField(
        label=_("Result, if it happened"),
        required=False,
        help_text=_("What step() returns, as JSON."),
    )

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        if self.record is not None:
            names = doubtful_steps(self.record)
            step: Any = self.fields["step"]
            step.choices = [(name, name) for name in names]


def doubtful_steps(record: WorkflowExecutionRecord) -> list[str]:
    rows = WorkflowStep.objects.using(record._state.db or "default").filter(execution=record)
    return list(rows.filter(status=StepStatus.BEGUN).values_list("name", flat=True))


Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Act:
    """One verb: *allows* says why it cannot be done, or nothing; *perform* raises if it lost."""

    name: str
    label: Promise
    done: Promise
    permission: str
    form: type[ActForm]
    sentence: Promise
    allows: Callable[[WorkflowExecutionRecord], str | Promise | None]
    perform: Callable[[WorkflowExecutionRecord, Values], WorkflowExecution]
    is_grave: bool = False


def engine() -> CeleryWorkflowEngine:
    """The engine of what is stored, also where the project runs another one."""
    found = get_workflow_engine()
    return found if isinstance(found, CeleryWorkflowEngine) else CeleryWorkflowEngine()


def _asks(record: WorkflowExecutionRecord) -> str | Promise | None:
    if record.waiting_for is not None and record.state in ACTIVE_STATES:
        return None
    return _("It waits for no answer.")


def _is_active(record: WorkflowExecutionRecord) -> str | Promise | None:
    return None if record.state in ACTIVE_STATES else _("It is over.")


def _has_failed(record: WorkflowExecutionRecord) -> str | Promise | None:
    if record.state != WorkflowState.FAILED:
        return _("It has not failed.")
    return _("It never ran.") if record.handler_path is None else None


def _may_be_in_doubt(record: WorkflowExecutionRecord) -> str | Promise | None:
    is_doubtful = _has_failed(record) is None and "once=True" in (record.error or "")
    return None if is_doubtful else _("No step is in doubt.")


def _rests(record: WorkflowExecutionRecord) -> str | Promise | None:
    rests = record.state == WorkflowState.PENDING and not record.ready
    sleeps = record.state == WorkflowState.WAITING and record.waiting_for is None
    return None if rests or sleeps else _("It neither rests nor sleeps.")


ANSWER: Final = Act(
    name="answer",
    label=_("Answer…"),
    done=_("Answered."),
    permission="resume_execution",
    form=AnswerForm,
    sentence=_("The execution goes on with your answer. An answer is given once and stands."),
    allows=_asks,
    perform=lambda record, values: engine().resume(
        record.execution_id, values.get("answer"), wait=record.waiting_for
    ),
)
WAKE: Final = Act(
    name="wake",
    label=_("Wake now…"),
    done=_("Woken."),
    permission="retry_execution",
    form=ActForm,
    sentence=_("The rest between two attempts, or the sleep, ends now."),
    allows=_rests,
    perform=lambda record, values: engine().wake(record.execution_id),
)
RETRY: Final = Act(
    name="retry",
    label=_("Retry from checkpoint…"),
    done=_("Continued by a fresh execution."),
    permission="retry_execution",
    form=ActForm,
    sentence=_(
        "A fresh execution takes over the finished steps and runs the rest. The failed one stays "
        "as it is. What the step that failed did outside of the database may happen again."
    ),
    allows=_has_failed,
    perform=lambda record, values: engine().retry_from_checkpoint(record.execution_id),
)
RESOLVE: Final = Act(
    name="resolve",
    label=_("Resolve step in doubt…"),
    done=_("Resolved, and continued by a fresh execution."),
    permission="resolve_execution",
    form=ResolveForm,
    sentence=_(
        "Nobody knows whether the step had its effect. Find out, for example in the other system, "
        "and say so here; a fresh execution then goes on from there."
    ),
    allows=_may_be_in_doubt,
    perform=lambda record, values: engine().resolve_step(
        record.execution_id,
        values["step"],
        happened=values["happened"] == "yes",
        result=values.get("result"),
    ),
)
CANCEL: Final = Act(
    name="cancel",
    label=_("Cancel…"),
    done=_("Cancelled."),
    permission="cancel_execution",
    form=ReasonForm,
    sentence=_(
        "The execution stops for good, at its next step at the latest; an atomic step that is "
        "under way is rolled back. Its correlation id becomes free."
    ),
    allows=_is_active,
    perform=lambda record, values: engine().cancel(
        record.execution_id, reason=values.get("reason") or None
    ),
    is_grave=True,
)
ACTS: Final = {act.name: act for act in (ANSWER, WAKE, RETRY, RESOLVE, CANCEL)}
IN_BULK: Final = (RETRY, WAKE, CANCEL)
