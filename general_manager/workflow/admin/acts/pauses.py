"""The acts on pauses: pause a workflow or a registration, and unpause it."""

from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.db import OperationalError, transaction
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.admin.acts.dead_letters import NothingForm
from general_manager.workflow.admin.acts.seen import require_same
from general_manager.workflow.admin.pages import Text
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.core.actors import current_actor
from general_manager.workflow.core.ids import MAX_ID_LENGTH, require_id
from general_manager.workflow.exceptions import ChangedMeanwhileError, WorkflowError
from general_manager.workflow.models import WorkflowPause
from general_manager.workflow.operations.pauses import is_in_memory, list_pauses, paused_already
from general_manager.workflow.operations.reach import Reach
from general_manager.workflow.pauses import Pause, PauseKind

PERMISSION: Final = "pause_workflow"


def _is_name(value: str) -> None:
    try:
        require_id("name", value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


class NewPauseForm(forms.Form):
    kind = forms.ChoiceField(
        label=_("Pause"),
        choices=[
            (PauseKind.WORKFLOW, _("a workflow")),
            (PauseKind.REGISTRATION, _("a registration")),
        ],
    )
    name = forms.CharField(
        label=_("Name"),
        max_length=MAX_ID_LENGTH,
        validators=[_is_name],
        help_text=_("The workflow id, or the id of the registration, exactly."),
        widget=forms.TextInput(attrs={"size": 60, "spellcheck": "false"}),
    )
    reason = forms.CharField(
        label=_("Reason"),
        max_length=500,
        required=False,
        help_text=_("Shown on this page, in the status and in the history."),
        widget=forms.TextInput(attrs={"size": 60}),
    )

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        kind = values.get("kind")
        if kind and (reason := why_not_here(PauseKind(kind))):
            raise ValidationError(str(reason))
        return values


def pause_situation(row: WorkflowPause) -> list[str]:
    """What an act depends on."""
    return ["paused" if row.is_on else "lifted", str(row.paused_at)]


def pause_once(kind: str, name: str, reason: str) -> Pause:
    """Pause as the engine in force does; raise `ChangedMeanwhileError` if it is paused already."""
    asked = PauseKind(kind), name
    known = [one for one in list_pauses(Reach()) if (one.kind, one.name) == asked]
    found = known[0] if known else _pause(kind, name, reason)
    if known or (found.by, found.reason) != (current_actor(), reason):  # by somebody else, just now
        raise ChangedMeanwhileError(paused_already(found))
    return found


def _pause(kind: str, name: str, reason: str) -> Pause:
    engine = get_workflow_engine()
    if kind == PauseKind.WORKFLOW:
        return engine.pause(name, reason=reason)
    try:
        return engine.pause(registration=name, reason=reason)
    except OperationalError as error:  # it is paused in every database, and one cannot be reached
        raise WorkflowError(str(error)) from error


class _Unpause:
    """Lift a pause."""

    label: Promise = _("Unpause…")
    done: Promise = _("Unpaused.")
    permission: str = PERMISSION
    form: type[forms.Form] = NothingForm
    sentence: Promise = _("What was parked is due now, after newer work; workers go on with it.")
    is_grave: bool = False

    def why_not(self, row: WorkflowPause) -> Text | None:
        return why_not_here(PauseKind(row.kind)) or (None if row.is_on else _("It is not paused."))

    def perform_as_seen(self, row: WorkflowPause, seen: Any, _values: dict[str, Any]) -> None:
        """Unpause as the engine in force does, or raise `ChangedMeanwhileError`."""
        rows = WorkflowPause.objects.using(row._state.db or "default").select_for_update()
        with transaction.atomic(using=rows.db):
            now = rows.filter(pk=row.pk).first()
            if now is None:  # pruned since then
                raise ChangedMeanwhileError(_("It is not there any more."))
            require_same(seen, pause_situation(now))
            engine = get_workflow_engine()
            if row.kind == PauseKind.WORKFLOW:
                engine.unpause(row.name)
            else:
                engine.unpause(registration=row.name)


UNPAUSE: Final = _Unpause()


def why_not_here(*kinds: PauseKind) -> Text | None:
    """Why no pause of any of *kinds*, by default of any kind, can be made or lifted here."""
    if all(is_in_memory(one) for one in kinds or PauseKind):
        return _("In local mode each process keeps its pauses in its memory.")
    return None
