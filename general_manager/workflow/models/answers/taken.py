"""Which events the waits of a chain of executions have taken."""

from collections.abc import Collection
from datetime import timedelta

from django.db import models
from django.db.models import Exists, OuterRef
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.core.ids import EXECUTION_ID_LENGTH
from general_manager.workflow.core.matching import MAILBOX_LENGTH
from general_manager.workflow.models.event import WorkflowEventRecord
from general_manager.workflow.models.pruning import delete
from general_manager.workflow.models.sql.columns import (
    DatabaseNow,
    IdField,
    Utf8CharField,
    from_now,
)


class TakenEventQuerySet(models.QuerySet["WorkflowTakenEvent"]):
    """Every verb is called under the lock of an execution of the chain."""

    def take(
        self, chain: str, mailbox: str, event_id: str, *, by: str, wait: str
    ) -> "WorkflowTakenEvent":
        """No other wait of the chain with this mailbox takes the event."""
        about = {"taken_by": by, "taken_as": wait}
        return self.create(chain=chain, mailbox=mailbox, event_id=event_id, **about)

    def give_back(self, chain: str, events: Collection[tuple[str, str]]) -> None:
        """The waits that took these are forgotten: the next ones may take them again."""
        for event_id, wait in events:
            self.filter(chain=chain, event_id=event_id, taken_as=wait, withdrawn=False).delete()

    def withdraw(self, chain: str, events: Collection[tuple[str, str]]) -> None:
        """The answers that they gave were taken back, and must not be given again."""
        for event_id, wait in events:
            self.filter(chain=chain, event_id=event_id, taken_as=wait).update(withdrawn=True)

    def prune(self, older_than: timedelta, limit: int) -> int:
        """Delete up to *limit* rows, older than that, whose events have been pruned."""
        events = WorkflowEventRecord.objects.using(self.db)
        gone = ~Exists(events.filter(event_id=OuterRef("event_id")))
        old = self.filter(gone, taken_at__lt=from_now(-older_than)).order_by("taken_at")
        keys = list(old.values_list("pk", flat=True)[:limit])
        if keys:
            delete(self.model, self.db, pk__in=keys)
        return len(keys)


class WorkflowTakenEvent(models.Model):
    """An event that answered a wait: no wait of the chain with the same match takes it again."""

    #: Id of the first execution of the chain. No foreign key, which would lock the execution.
    chain = IdField(max_length=EXECUTION_ID_LENGTH)
    #: Hash of the key and of the values of the match.
    mailbox = Utf8CharField(max_length=MAILBOX_LENGTH)
    #: Id of the event. No foreign key: the row is deleted after the event, or with the chain.
    event_id = IdField()
    #: Id of the execution whose wait took it.
    taken_by = IdField(max_length=EXECUTION_ID_LENGTH)
    #: Name of that wait.
    taken_as = IdField()
    #: When the wait took it, on the database's clock.
    taken_at = models.DateTimeField(db_default=DatabaseNow())
    #: Whether the answer was taken back for good, by a retry before the wait itself.
    withdrawn = models.BooleanField(db_default=False)

    objects = TakenEventQuerySet.as_manager()

    class Meta:
        verbose_name = _("taken event")
        verbose_name_plural = _("taken events")
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(
                fields=["chain", "mailbox", "event_id"], name="gm_event_taken_once"
            ),
        )
        indexes = (
            models.Index(fields=["taken_at"], name="gm_event_taken"),
            models.Index(fields=["event_id"], name="gm_event_taken_event"),
        )

    def __str__(self) -> str:
        return visible(f"{self.event_id}: {self.taken_as}"[:MAX_TITLE])
