"""The forms of the acts, with a check box where a mistake is easy."""

from collections.abc import Sequence
from json import JSONDecodeError, loads
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, cut, visible
from general_manager.workflow.core.ids import MAX_ID_LENGTH, require_id
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.operations.timeline import result_in_short, shown_steps

Values = dict[str, Any]


class JsonField(forms.CharField):
    """One JSON value, validated on the server; `EMPTY` if nothing was typed."""

    widget = forms.Textarea(attrs={"rows": 6, "cols": 60, "spellcheck": "false"})
    EMPTY = object()

    def clean(self, value: Any) -> Any:
        text = str(super().clean(value)).strip()
        if not text:
            return self.EMPTY
        try:
            return loads(text, parse_constant=_refuse)
        except (JSONDecodeError, RecursionError, ValueError) as error:
            raise forms.ValidationError(_("This is not JSON: %s") % error) from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


class ActForm(forms.Form):
    """Asks only for a confirmation."""

    def __init__(
        self, *args: Any, record: WorkflowExecutionRecord | None = None, **kw: Any
    ) -> None:
        super().__init__(*args, **kw)
        self.record = record

    def chosen_json(self, name: str, box: str) -> Any:
        """The value of the field *name*; an empty field is null only if the *box* is ticked."""
        value, is_null = self.cleaned_data.get(name), self.cleaned_data.get(box)
        if name not in self.cleaned_data:  # not JSON; the error is already reported
            return None
        if value is JsonField.EMPTY and not is_null:
            self.add_error(name, _("Type a JSON value, or tick the box below for null."))
        elif value is not JsonField.EMPTY and value is not None and is_null:
            self.add_error(box, _("A value is given above: remove it, or untick this box."))
        return None if value is JsonField.EMPTY else value


class ReasonForm(ActForm):
    reason = forms.CharField(
        label=_("Reason"),
        max_length=500,
        required=False,
        help_text=_("Kept with the execution and in its history."),
        widget=forms.TextInput(attrs={"size": 60}),
    )


class CancelForm(ReasonForm):
    undo_first = forms.BooleanField(
        label=_("Undo first"),
        required=False,
        help_text=_(
            "Its open sagas are undone, and then it is cancelled; until then it is active. Without "
            "this it is cancelled at once, and what was done stays as it is."
        ),
    )


class AnswerForm(ActForm):
    answer = JsonField(
        label=_("Answer"),
        required=False,
        help_text=_('What the wait returns, as JSON: true, "text" or {"approved": true}.'),
    )
    null = forms.BooleanField(label=_("Answer with null"), required=False)

    def clean(self) -> Values:
        return {**self.cleaned_data, "answer": self.chosen_json("answer", "null")}


class SignalForm(ActForm):
    signal = forms.CharField(
        label=_("Name"), max_length=MAX_ID_LENGTH, widget=forms.TextInput(attrs={"size": 60})
    )
    value = JsonField(
        label=_("Value"),
        required=False,
        help_text=_('What the wait returns, as JSON: true, "text" or {"amount": 3}.'),
    )
    null = forms.BooleanField(label=_("The value is null"), required=False)

    def clean_signal(self) -> str:
        name = str(self.cleaned_data["signal"])
        try:
            require_id("name", name)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None
        return name

    def clean(self) -> Values:
        return {**self.cleaned_data, "value": self.chosen_json("value", "null")}


class RetryForm(ActForm):
    """Shows the check box only if a step marked once=True would run again."""

    repeat_once = forms.BooleanField()

    def __init__(self, *args: Any, repeats: Sequence[str] = (), **kw: Any) -> None:
        super().__init__(*args, **kw)
        label = _("Run again, although marked once=True: %s") % ", ".join(repeats)
        self.fields["repeat_once"].label = label
        if not repeats:
            del self.fields["repeat_once"]


class ResolveForm(ActForm):
    """The outcome of a step that was interrupted."""

    status = StepStatus.STARTED
    step = forms.ChoiceField(label=_("Step in doubt"))
    happened = forms.ChoiceField(
        label=_("Outcome"),
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
    null = forms.BooleanField(label=_("The result is null"), required=False)

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        if self.record is not None:
            which: dict[str, Any] = {"once": True, "status": self.status}
            rows = WorkflowStep.objects.using(self.record._state.db or "default")
            mine = rows.filter(execution=self.record, **which).order_by("pk")
            # Of thousands, the first have their results beside them.
            shown = {row.name: _choice(row) for row in shown_steps(self.record, **which)}
            step: Any = self.fields["step"]
            step.choices = [
                (name, shown.get(name) or visible(name[:MAX_TITLE]))
                for name in mine.values_list("name", flat=True)
            ]

    def clean(self) -> Values:
        values = dict(self.cleaned_data)
        if values.get("happened") == "yes":
            values["result"] = self.chosen_json("result", "null")
        elif values.get("happened") == "no":
            if values.get("result") is not JsonField.EMPTY or values.get("null"):
                self.add_error(
                    "result",
                    _("Leave the result empty: a step that did not happen has none."),
                )
            values["result"] = None
        return values


class CorrectForm(ResolveForm):
    """The right result for a step that has recorded a wrong one."""

    status = StepStatus.DONE
    repeat_once = forms.BooleanField(
        label=_("Also run later steps again that are marked once=True"), required=False
    )


def _choice(row: WorkflowStep) -> str:
    name = visible(row.name[:MAX_TITLE])
    if row.status == StepStatus.STARTED:
        return name
    result = cut(result_in_short(row), 60)
    return str(_("%(name)s (its result is %(result)s)") % {"name": name, "result": result})
