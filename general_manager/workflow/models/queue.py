"""Queues: in which a worker is busy, and in which there is work."""

from datetime import timedelta
from typing import Final

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.core.ids import MAX_QUEUE_LENGTH
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models.execution import WorkflowExecutionRecord
from general_manager.workflow.models.lane import WorkflowLane
from general_manager.workflow.models.outbox import WorkflowOutbox
from general_manager.workflow.models.sql.columns import Utf8CharField, from_now
from general_manager.workflow.models.sql.commits import update_without_waiting
from general_manager.workflow.models.sql.inserts import insert_new
from general_manager.workflow.models.sql.queues import (
    Table,
    due_queues,
    is_busy,
    is_due,
    used_queues,
)

BUSY_SECONDS: Final = 2.0
"""A busy worker that has not said so again after this time may be dead."""

CLOCK_STEP: Final = timedelta(seconds=0.01)
"""Marks that are closer together than that count as one: clocks of databases tick."""


class QueueQuerySet(models.QuerySet["WorkflowQueue"]):
    """Whether a worker will look again, so that nobody has to send it a message."""

    def is_busy(self, queue: str) -> bool:
        return is_busy(self, queue)

    def say_busy(self, queue: str) -> None:
        """A worker has found work in *queue*, and will look again when it is done."""
        until = from_now(timedelta(seconds=BUSY_SECONDS))
        if not update_without_waiting(self.filter(name=queue), busy_until=until):
            insert_new(self.model, ("name",), [[queue]], self.db, unless=("name",))
            update_without_waiting(self.filter(name=queue), busy_until=until)

    def clear_busy(self, queue: str, *, said_ago: timedelta | None = None) -> None:
        """A worker will stop after one more look.

        Or, if *said_ago* is when it said that it is busy, it stops at once and calls another one.
        Then what a busy worker has said since stays: that one will look.
        """
        rows = self.filter(name=queue)
        if said_ago is not None:
            since_then = max(said_ago - CLOCK_STEP, timedelta(0))
            rows = rows.filter(
                busy_until__lte=from_now(timedelta(seconds=BUSY_SECONDS) - since_then)
            )
        update_without_waiting(rows, busy_until=None)


class WorkflowQueue(models.Model):
    """A queue in which a worker was busy."""

    #: Name of the queue; empty for the project's own routing. Unique.
    name = Utf8CharField(max_length=MAX_QUEUE_LENGTH)
    #: Until then a worker is emptying it and needs no message; NULL or past for none.
    busy_until = models.DateTimeField(null=True)

    objects = QueueQuerySet.as_manager()

    class Meta:
        verbose_name = _("queue")
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=["name"], name="gm_queue_name"),)

    def __str__(self) -> str:
        return visible(self.name[:MAX_TITLE])


def queues_of_entries(using: str, *, only_due: bool = True) -> list[str]:
    """Queues with entries that are due, or else undelivered."""
    find = due_queues if only_due else used_queues
    return find(_entries(using))


def queues_of_lanes(using: str) -> list[str]:
    """Queues with lanes that are due."""
    return due_queues(_lanes(using))


def queues_of_deliveries(using: str, *, only_due: bool = True) -> list[str]:
    """Queues with entries or lanes that are due, or else undelivered."""
    find = due_queues if only_due else used_queues
    return find(_entries(using), _lanes(using))


def queues_of_executions(using: str) -> list[str]:
    """Queues with executions that may run now."""
    return due_queues(_executions(using))


def queues_with_work(using: str) -> list[str]:
    """Queues with entries, lanes or executions that are due."""
    return due_queues(_entries(using), _lanes(using), _executions(using))


def is_any_due(using: str, queue: str) -> bool:
    """Whether there is anything to do in *queue*: cheaper than claims that find nothing."""
    return is_due(queue, _entries(using), _lanes(using), _executions(using))


def _entries(using: str) -> Table:
    return WorkflowOutbox.objects.using(using), "available_at", "available_at IS NOT NULL"


def _lanes(using: str) -> Table:
    return WorkflowLane.objects.using(using), "available_at", "available_at IS NOT NULL"


def _executions(using: str) -> Table:
    ready = "state = 'pending' AND wake_at IS NOT NULL"
    return WorkflowExecutionRecord.objects.using(using), "wake_at", ready


def are_late(using: str, by: timedelta) -> Q:
    """Executions that should have been picked up longer ago than *by*; an index finds them."""
    since = from_now(-by)
    pending = Q(state=WorkflowState.PENDING, queue__in=queues_of_executions(using))
    others = Q(state__in=(WorkflowState.RUNNING, WorkflowState.WAITING))
    return (pending & Q(wake_at__lt=since)) | (others & Q(wake_at__lt=since))
