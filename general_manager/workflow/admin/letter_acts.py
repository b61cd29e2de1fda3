"""What an operator may do to a dead letter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from django import forms
from django.db import transaction
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.admin.seen import dead_since, require_same
from general_manager.workflow.exceptions import ChangedMeanwhileError
from general_manager.workflow.messages import drain_outbox_soon
from general_manager.workflow.models import (
    DeliveryStatus,
    OutboxStatus,
    WorkflowDeliveryAttempt,
    WorkflowOutbox,
)
from general_manager.workflow.models.delivery import DeliveryQuerySet


class NothingForm(forms.Form):
    """Asks for nothing but a yes."""


class DiscardForm(forms.Form):
    reason = forms.CharField(
        label=_("Reason"),
        max_length=500,
        help_text=_("Kept in the history of the delivery."),
        widget=forms.TextInput(attrs={"size": 60}),
    )


def why_not(letter: WorkflowDeliveryAttempt) -> str | Promise | None:
    """Why nothing can be done to it now: what the act itself asks."""
    if letter.status != DeliveryStatus.DEAD_LETTER:
        return _("It is no longer a dead letter.")
    if letter.outbox.status == OutboxStatus.CLAIMED:
        return _("A worker is delivering its event right now: try again when it is done.")
    return None


@dataclass(frozen=True, slots=True)
class LetterAct:
    """One verb, with its permission and its form; *perform* says how many rows it changed."""

    name: str
    label: Promise
    done: Promise
    permission: str
    form: type[forms.Form]
    sentence: Promise
    perform: Callable[[DeliveryQuerySet, dict[str, Any]], int]
    counted: Promise
    is_grave: bool = False

    def perform_as_seen(
        self, letter: WorkflowDeliveryAttempt, seen: Any, values: dict[str, Any]
    ) -> None:
        """Act on the death that was confirmed, or raise `ChangedMeanwhileError`."""
        using = letter._state.db or "default"
        rows = WorkflowDeliveryAttempt.objects.using(using)
        with transaction.atomic(using=using):
            # It may die again between the question and the answer: that would be another letter.
            # Every way to that leads through its entry.
            entry = WorkflowOutbox.objects.using(using).filter(pk=letter.outbox_id)
            entry.select_for_update().values_list("pk").first()
            require_same(seen, dead_since(rows.filter(pk=letter.pk).first() or letter))
            if not self.perform(rows.filter(pk=letter.pk), values):
                now = rows.select_related("outbox").filter(pk=letter.pk).first()
                reason = why_not(now) if now is not None else None
                changed = _("It has changed since you were asked.")
                raise ChangedMeanwhileError(str(reason or changed))


def _replay(rows: DeliveryQuerySet, values: dict[str, Any]) -> int:
    del values
    count, _entries = rows.requeue_dead()
    if count:
        drain_outbox_soon(rows.db)
    return count


REPLAY: Final = LetterAct(
    name="replay",
    label=_("Replay…"),
    done=_("Queued for redelivery with a fresh retry budget."),
    permission="replay_delivery",
    form=NothingForm,
    sentence=_(
        "The handler gets the event again, with a fresh retry budget. Only what is dead is "
        "repeated; what the handler did outside of the database before it failed may happen again."
    ),
    perform=_replay,
    counted=_("%(able)d of %(total)d can be replayed."),
)
DISCARD: Final = LetterAct(
    name="discard",
    label=_("Discard…"),
    done=_("Discarded."),
    permission="discard_delivery",
    form=DiscardForm,
    sentence=_("The handler will never get this event."),
    perform=lambda rows, values: rows.discard(values["reason"]),
    counted=_("%(able)d of %(total)d can be discarded."),
    is_grave=True,
)
ACTS: Final = {act.name: act for act in (REPLAY, DISCARD)}
