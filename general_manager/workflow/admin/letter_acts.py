"""What an operator may do to a dead letter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from django import forms
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.exceptions import WorkflowError
from general_manager.workflow.messages import drain_outbox_soon
from general_manager.workflow.models import WorkflowDeliveryAttempt


class NothingForm(forms.Form):
    """Asks for nothing but a yes."""


class DiscardForm(forms.Form):
    reason = forms.CharField(
        label=_("Reason"),
        max_length=500,
        help_text=_("Kept in the history of the delivery."),
        widget=forms.TextInput(attrs={"size": 60}),
    )


class NotDeadError(WorkflowError):
    """Somebody was faster."""

    def __str__(self) -> str:
        return "It is no dead letter any more."


@dataclass(frozen=True, slots=True)
class LetterAct:
    """One verb, with its permission and its form; *perform* raises if it lost a race."""

    name: str
    label: Promise
    done: Promise
    permission: str
    form: type[forms.Form]
    sentence: Promise
    perform: Callable[[WorkflowDeliveryAttempt, dict[str, Any]], Any]
    is_grave: bool = False


def _replay(letter: WorkflowDeliveryAttempt, values: dict[str, Any]) -> None:
    del values
    using = letter._state.db or "default"
    rows = WorkflowDeliveryAttempt.objects.using(using).filter(pk=letter.pk)
    count, _entries = rows.requeue_dead()
    if not count:
        raise NotDeadError
    drain_outbox_soon(using)


def _discard(letter: WorkflowDeliveryAttempt, values: dict[str, Any]) -> None:
    using = letter._state.db or "default"
    rows = WorkflowDeliveryAttempt.objects.using(using).filter(pk=letter.pk)
    if not rows.discard(values["reason"]):
        raise NotDeadError


REPLAY: Final = LetterAct(
    name="replay",
    label=_("Replay…"),
    done=_("Owed again, with new attempts."),
    permission="replay_delivery",
    form=NothingForm,
    sentence=_(
        "The handler gets the event again, with all its attempts before it. Only what is dead is "
        "repeated; what the handler did outside of the database before it failed may happen again."
    ),
    perform=_replay,
)
DISCARD: Final = LetterAct(
    name="discard",
    label=_("Discard…"),
    done=_("Discarded."),
    permission="discard_delivery",
    form=DiscardForm,
    sentence=_("The handler will never have this event."),
    perform=_discard,
    is_grave=True,
)
ACTS: Final = {act.name: act for act in (REPLAY, DISCARD)}
