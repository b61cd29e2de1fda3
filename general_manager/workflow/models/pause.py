"""The table of pauses: a row is on, or lifted, and what it parked may not be released yet.

A claim reads it in its own statement. Nothing keeps a copy: a worker with an old one would run what
was paused.
"""

from datetime import timedelta
from typing import Final, NamedTuple, Self

from django.db import models, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.core.actors import MAX_ACTOR_LENGTH, current_actor
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.history import WorkflowHistory
from general_manager.workflow.models.sql.columns import (
    DatabaseNow,
    IdField,
    Utf8CharField,
    Utf8TextField,
    from_now,
)
from general_manager.workflow.models.sql.inserts import insert_new
from general_manager.workflow.models.texts import write_texts
from general_manager.workflow.models.timing import LIFTED_KEPT
from general_manager.workflow.pauses import PauseKind

RELEASE_BATCH: Final = 500
"""Rows that one transaction releases."""


class Released(NamedTuple):
    """What is due again, because its pause was lifted."""

    ids: list[str]
    """Ids of executions, or keys of entries."""
    queues: set[str]
    """The queues in which they are due."""
    lines: frozenset[str] = frozenset()
    """Keys of the limits in whose lines some of them wait now: look there."""


class PauseQuerySet(models.QuerySet["WorkflowPause"]):
    """Every change of a pause's row."""

    def on(self) -> Self:
        """Pauses that are in force."""
        return self.filter(lifted_at=None)

    def of(self, kind: PauseKind, name: str) -> Self:
        return self.filter(kind=kind, name=name)

    def pause(self, kind: PauseKind, name: str, reason: str) -> bool:
        """None or lifted to on; false if it is on already."""

        def write(by: str, text: str) -> bool:
            now = DatabaseNow()
            fields = ("kind", "name", "paused_by", "reason", "paused_at")
            row = [kind, name, by[:MAX_ACTOR_LENGTH], text, now]
            if insert_new(self.model, fields, [row], self.db, unless=("kind", "name")):
                return True
            lifted = self.of(kind, name).filter(lifted_at__isnull=False)
            return bool(
                lifted.update(
                    paused_by=by[:MAX_ACTOR_LENGTH],
                    reason=text,
                    paused_at=now,
                    lifted_at=None,
                    released_at=None,
                )
            )

        with transaction.atomic(using=self.db):
            won = write_texts(self.db, write, current_actor(), reason)
            if won:
                self._note(kind, name, HistoryKind.PAUSED, reason)
        return won

    def lift(self, kind: PauseKind, name: str) -> bool:
        """On to lifted; false if it is not on. What it has parked is released after the commit."""
        with transaction.atomic(using=self.db):
            won = self.of(kind, name).on().update(lifted_at=DatabaseNow(), released_at=None)
            if won:
                self._note(kind, name, HistoryKind.UNPAUSED)
        return bool(won)

    def lifted(self) -> list[tuple[PauseKind, str, bool]]:
        """Lifted pauses that may have parked something that is not released yet.

        Each with whether no claim can be under way that saw it before it was lifted.
        """
        rows = self.filter(lifted_at__isnull=False, released_at=None).order_by("pk")
        is_old = Q(lifted_at__lt=from_now(-LIFTED_KEPT))
        found = rows.annotate(is_old=is_old).values_list("kind", "name", "is_old")
        return [(PauseKind(kind), name, bool(is_old)) for kind, name, is_old in found]

    def released(self, kind: PauseKind, name: str) -> None:
        """Nothing is parked any more, and no claim under way can park."""
        old = self.of(kind, name).filter(lifted_at__lt=from_now(-LIFTED_KEPT), released_at=None)
        old.update(released_at=DatabaseNow())

    def prune(self, older_than: timedelta, limit: int) -> int:
        """Delete up to *limit* pauses that have been over for longer than that, with histories."""
        old = self.filter(released_at__lt=from_now(-older_than)).order_by("pk")
        keys = list(old.values_list("pk", flat=True)[:limit])
        if not keys:
            return 0
        WorkflowHistory.objects.using(self.db).filter(pause__in=keys).delete()
        return self.filter(pk__in=keys, released_at__isnull=False).delete()[0]

    def _note(self, kind: PauseKind, name: str, what: HistoryKind, detail: str = "") -> None:
        key = self.of(kind, name).values_list("pk", flat=True).get()
        WorkflowHistory.objects.using(self.db).note(what, detail=detail, pause_id=key)


class WorkflowPause(models.Model):
    """One workflow or registration that is paused, or was."""

    #: One of `PauseKind`.
    kind = Utf8CharField(max_length=12, choices=[(one.value, one.value) for one in PauseKind])
    #: The workflow id, or the id of the registration; unique for each kind.
    name = IdField()
    #: Why it was paused; may be empty.
    reason = Utf8TextField(db_default="")
    #: Who paused it; empty if unknown.
    paused_by = Utf8CharField(max_length=MAX_ACTOR_LENGTH, db_default="")
    #: Since when it is paused, or when it last was.
    paused_at = models.DateTimeField(db_default=DatabaseNow())
    #: When it was unpaused, written by `lift`; NULL while it is paused.
    lifted_at = models.DateTimeField(null=True)
    #: When nothing was left to release, written by a tick; NULL until then.
    released_at = models.DateTimeField(null=True)

    objects = PauseQuerySet.as_manager()

    class Meta:
        verbose_name = _("pause")
        verbose_name_plural = _("pauses")
        default_permissions = ("view",)
        permissions = (("pause_workflow", _("Can pause and unpause workflows and registrations")),)
        constraints = (models.UniqueConstraint(fields=["kind", "name"], name="gm_pause_name"),)

    def __str__(self) -> str:
        return visible(f"{self.kind} {self.name}"[:MAX_TITLE])

    @property
    def is_on(self) -> bool:
        return self.lifted_at is None


def is_workflow_paused(column: str = "workflow_id") -> Exists:
    """Whether the workflow that *column* of a row names is paused."""
    pauses = WorkflowPause.objects.filter(kind=PauseKind.WORKFLOW, lifted_at=None)
    return Exists(pauses.filter(name=OuterRef(column)))


def is_any_registration_paused() -> Exists:
    """Whether the names are worth a query."""
    return Exists(WorkflowPause.objects.filter(kind=PauseKind.REGISTRATION, lifted_at=None))


def is_registration_paused() -> Exists:
    """Whether the registration of the outer query's row is paused."""
    pauses = WorkflowPause.objects.filter(kind=PauseKind.REGISTRATION, lifted_at=None)
    return Exists(pauses.filter(name=OuterRef("registration_id")))
