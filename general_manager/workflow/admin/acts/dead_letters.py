"""The acts on dead letters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from django import forms
from django.db import transaction
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.admin.acts.seen import dead_since, require_same
from general_manager.workflow.exceptions import ChangedMeanwhileError
from general_manager.workflow.models import (
    DeliveryStatus,
    OutboxStatus,
    WorkflowDeliveryAttempt,
    WorkflowOutbox,
)
from general_manager.workflow.models.delivery import DeliveryQuerySet
from general_manager.workflow.outbox.drain import drain_soon


class NothingForm(forms.Form):
    """Asks only for a confirmation."""


class DiscardForm(forms.Form):
    reason = forms.CharField(
        label=_("Reason"),
        max_length=500,
        help_text=_("Kept in the history of the delivery."),
        widget=forms.TextInput(attrs={"size": 60}),
    )


def why_not(letter: WorkflowDeliveryAttempt) -> str | Promise | None:
    """Why no act is possible now, by the same rules as the act itself."""
    if letter.status != DeliveryStatus.DEAD_LETTER:
        return _("It is no longer a dead letter.")
    if letter.lane is None and letter.outbox.status == OutboxStatus.CLAIMED:
        return _("A worker is delivering its event right now. Try again when it has finished.")
    return None


@dataclass(frozen=True, slots=True)
class LetterAct:
    """One act with its permission and form. *perform* returns how many rows it changed."""

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
        """Act on the dead letter as confirmed, or raise `ChangedMeanwhileError`."""
        using = letter._state.db or "default"
        rows = WorkflowDeliveryAttempt.objects.using(using)
        with transaction.atomic(using=using):
            # The delivery may fail for good again before the confirmation: that is another dead
            # letter. Every path to that locks its entry.
            rows.filter(pk=letter.pk).wake_lanes()  # lanes are locked before entries
            entry = WorkflowOutbox.objects.using(using).filter(pk=letter.outbox_id)
            entry.select_for_update().values_list("pk").first()
            require_same(seen, dead_since(rows.filter(pk=letter.pk).first() or letter))
            if not self.perform(rows.filter(pk=letter.pk), values):
                now = rows.select_related("outbox").filter(pk=letter.pk).first()
                reason = why_not(now) if now is not None else None
                changed = _("It has changed since you were asked. Confirm again.")
                raise ChangedMeanwhileError(str(reason or changed))


def _requeue(rows: DeliveryQuerySet, values: dict[str, Any]) -> int:
    del values
    return _go_on(rows, rows.requeue_dead()[0])


def _go_on(rows: DeliveryQuerySet, count: int) -> int:
    """Have what is due delivered, such as the events that a dead letter held up."""
    if count:
        drain_soon(rows.db)
    return count


REQUEUE: Final = LetterAct(
    name="requeue",
    label=_("Requeue…"),
    done=_("Queued for redelivery with a fresh retry budget."),
    permission="requeue_delivery",
    form=NothingForm,
    sentence=_(
        "Delivers the event to the handler again, with a fresh retry budget. Handlers that "
        "completed do not run again; this one may repeat its effects outside the database."
    ),
    perform=_requeue,
    counted=_("%(able)d of %(total)d can be requeued."),
)
DISCARD: Final = LetterAct(
    name="discard",
    label=_("Discard…"),
    done=_("Discarded."),
    permission="discard_delivery",
    form=DiscardForm,
    sentence=_("The handler will never get this event."),
    perform=lambda rows, values: _go_on(rows, rows.discard(values["reason"])),
    counted=_("%(able)d of %(total)d can be discarded."),
    is_grave=True,
)
SKIP: Final = LetterAct(
    name="skip",
    label=_("Skip…"),
    done=_("Skipped: the later events of its key are delivered."),
    permission="skip_lane",
    form=DiscardForm,
    sentence=_(
        "The later events of its key are delivered without it. It stays a dead letter; if it is "
        "requeued later, it comes after what was delivered meanwhile."
    ),
    perform=lambda rows, values: _go_on(rows, rows.pass_over(values["reason"])),
    counted=_("%(able)d of %(total)d can be skipped."),
    is_grave=True,
)
ACTS: Final = {act.name: act for act in (REQUEUE, DISCARD)}
LANE_ACTS: Final = {act.name: act for act in (REQUEUE, SKIP, DISCARD)}
