"""Signals: values sent to executions, kept in order until a wait takes them."""

from collections.abc import Collection
from typing import Any

from django.db import models, transaction
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.core.actors import MAX_ACTOR_LENGTH, current_actor
from general_manager.workflow.core.ids import EXECUTION_ID_LENGTH
from general_manager.workflow.durable.signals import SignalSnapshot, SignalStatus
from general_manager.workflow.models.sql.columns import (
    DatabaseNow,
    IdField,
    PartialIndex,
    Utf8CharField,
    from_now,
)
from general_manager.workflow.models.timing import END_GRACE, LOOK_GRACE


class SignalQuerySet(models.QuerySet["WorkflowSignal"]):
    """Sending locks no execution. What takes, returns or withdraws holds the execution's lock."""

    def send(self, chain: str, sent_to: str, name: str, value: Any) -> int:
        """Insert a signal, due for a look if its sender dies; returns its key.

        Keys are the order of signals: one that was accepted before another began comes first.
        """
        return self.create(
            chain=chain,
            sent_to=sent_to,
            name=name,
            value=value,
            sent_by=current_actor(),
            available_at=from_now(LOOK_GRACE),
        ).pk

    def kept(self, chain: str) -> "SignalQuerySet":
        return self.filter(chain=chain, status=SignalStatus.KEPT)

    def oldest(self, chain: str, name: str) -> "WorkflowSignal | None":
        return self.kept(chain).filter(name=name).order_by("pk").first()

    def take(self, signal: "WorkflowSignal", execution_id: str, wait: str) -> bool:
        """Kept to taken, by the wait of an execution; returns whether it won."""
        kept = self.filter(pk=signal.pk, status=SignalStatus.KEPT)
        by = {"taken_by": execution_id, "taken_as": wait, "taken_at": DatabaseNow()}
        return kept.update(status=SignalStatus.TAKEN, **by) == 1

    def give_back(self, keys: Collection[int]) -> None:
        """Taken to kept: the waits that took them are forgotten. They keep their places."""
        taken = self.filter(pk__in=keys, status=SignalStatus.TAKEN)
        nobody = {"taken_by": None, "taken_as": None, "taken_at": None}
        taken.update(status=SignalStatus.KEPT, **nobody)

    def withdraw(self, keys: Collection[int]) -> None:
        """Taken to withdrawn: the answer was taken back, and must not be given again."""
        taken = self.filter(pk__in=keys, status=SignalStatus.TAKEN)
        taken.update(status=SignalStatus.WITHDRAWN)

    def due(self, limit: int) -> dict[str, list[int]]:
        """Signals whose sender died before its look, by chain; one plain statement for none.

        They stay due, later: this process may die before its look, too.
        """
        late = self.filter(available_at__lte=DatabaseNow())
        if not late.exists():
            return {}
        found: dict[str, list[int]] = {}
        with transaction.atomic(using=self.db):
            rows = late.select_for_update(skip_locked=True).order_by("available_at")
            for key, chain in rows.values_list("pk", "chain")[:limit]:
                found.setdefault(chain, []).append(key)
            keys = [key for each in found.values() for key in each]
            self.filter(pk__in=keys).update(available_at=from_now(END_GRACE))
        return found


class WorkflowSignal(models.Model):
    """A value sent to an execution under a name, until a wait takes it, and afterwards."""

    #: Id of the first execution of the chain, to which it belongs. No foreign key, whose check
    #: would lock the execution: two steps that signal each other's execution would deadlock.
    chain = IdField(max_length=EXECUTION_ID_LENGTH)
    #: Id of the execution that the sender named.
    sent_to = IdField(max_length=EXECUTION_ID_LENGTH)
    #: Name given by the sender; waits take the signals of one name in the order of their keys.
    name = IdField()
    #: The encoded value; the answer of the wait that takes it.
    value = models.JSONField(null=True)
    #: One of `SignalStatus`; changed by the verbs of `SignalQuerySet` only.
    status = Utf8CharField(
        max_length=10,
        choices=[(one.value, one.value) for one in SignalStatus if one is not SignalStatus.UNREAD],
        default=SignalStatus.KEPT,
    )
    #: When it was sent, on the database's clock.
    sent_at = models.DateTimeField(db_default=DatabaseNow())
    #: Who sent it; empty if unknown.
    sent_by = Utf8CharField(max_length=MAX_ACTOR_LENGTH, db_default="")
    #: When the sweep looks whether a wait takes it; NULL once a look has happened.
    available_at = models.DateTimeField(null=True)
    #: Id of the execution whose wait took it; NULL while it is kept.
    taken_by = IdField(max_length=EXECUTION_ID_LENGTH, null=True)
    #: Name of the wait that took it; NULL while it is kept.
    taken_as = IdField(null=True)
    #: When that wait took it; NULL while it is kept.
    taken_at = models.DateTimeField(null=True)

    objects = SignalQuerySet.as_manager()

    class Meta:
        verbose_name = _("signal")
        verbose_name_plural = _("signals")
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=["chain", "status", "name", "id"], name="gm_signal_mailbox"),
            PartialIndex(
                fields=["available_at"],
                condition=Q(available_at__isnull=False),
                name="gm_signal_due",
            ),
        )

    def __str__(self) -> str:
        return visible(f"{self.name}: {self.status}"[:MAX_TITLE])

    def snapshot(self, *, is_over: bool) -> SignalSnapshot:
        """*is_over*: the chain has ended, so that no wait will read what is still kept."""
        is_unread = is_over and self.status == SignalStatus.KEPT
        return SignalSnapshot(
            name=self.name,
            value=self.value,
            status=SignalStatus.UNREAD if is_unread else SignalStatus(self.status),
            sent_to=self.sent_to,
            sent_at=self.sent_at,
            sent_by=self.sent_by,
            taken_by=self.taken_by,
            wait=self.taken_as,
            taken_at=self.taken_at,
        )
