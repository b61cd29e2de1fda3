"""The history: unusual events of executions, deliveries, schedules and pauses, and their actors."""

from collections.abc import Iterable
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.core.actors import MAX_ACTOR_LENGTH, current_actor
from general_manager.workflow.history import HistoryEntry, HistoryKind
from general_manager.workflow.models.sql.columns import (
    DatabaseNow,
    IdField,
    PartialIndex,
    Utf8CharField,
    Utf8TextField,
)
from general_manager.workflow.models.sql.compiled import Statement, inserting
from general_manager.workflow.models.texts import write_texts


class HistoryQuerySet(models.QuerySet["WorkflowHistory"]):
    def note(self, kind: HistoryKind, *, detail: str = "", **owner: Any) -> None:
        """Write one row; *owner* names the execution, delivery, schedule or pause."""
        self.note_each(kind, [owner], detail=detail)

    def note_each(
        self, kind: HistoryKind, owners: Iterable[dict[str, Any]], *, detail: str = ""
    ) -> None:
        """Write one row for each of *owners*, by the current actor, in one statement."""
        rows = list(owners)

        def write(by: str, detail: str) -> None:
            by = by[:MAX_ACTOR_LENGTH]
            self.bulk_create(self.model(kind=kind, by=by, detail=detail, **one) for one in rows)

        write_texts(self.db, write, current_actor(), detail)

    def noting(self, kind: HistoryKind, *, detail: str = "", **owner: Any) -> Statement | None:
        """The statement of `note`; `None` for texts that the database might refuse."""
        by = current_actor()[:MAX_ACTOR_LENGTH]
        if not (by.isascii() and detail.isascii()):
            return None
        return inserting(self.model, {"kind": kind, "by": by, "detail": detail, **owner}, self.db)


class WorkflowHistory(models.Model):
    """One unusual event in the life of one execution, delivery, schedule or pause."""

    #: The execution that it is about; NULL if it is about one of the others.
    execution = models.ForeignKey(
        "general_manager.WorkflowExecutionRecord",
        on_delete=models.CASCADE,
        null=True,
        related_name="history",
    )
    #: The delivery that it is about; NULL if it is about one of the others.
    delivery = models.ForeignKey(
        "general_manager.WorkflowDeliveryAttempt",
        on_delete=models.CASCADE,
        null=True,
        related_name="history",
    )
    #: The schedule that it is about; NULL if it is about one of the others.
    schedule = models.ForeignKey(
        "general_manager.WorkflowSchedule",
        on_delete=models.CASCADE,
        null=True,
        db_index=False,
        related_name="history",
    )
    #: The pause that it is about; NULL if it is about one of the others.
    pause = models.ForeignKey(
        "general_manager.WorkflowPause",
        on_delete=models.CASCADE,
        null=True,
        db_index=False,
        related_name="history",
    )
    #: What happened: one of `HistoryKind`.
    kind = Utf8CharField(max_length=20, choices=[(one.value, one.value) for one in HistoryKind])
    #: When it happened, on the database's clock.
    at = models.DateTimeField(db_default=DatabaseNow())
    #: Who caused it: a user, a worker or a command; empty if unknown.
    by = Utf8CharField(max_length=MAX_ACTOR_LENGTH, db_default="")
    #: Details: an error, a reason, another execution's id; may be empty.
    detail = Utf8TextField(db_default="")
    #: The step or wait that it is about; empty if it is about the whole execution.
    step = IdField(db_default="")
    #: Number of the failed attempt, counted from the last completed step; NULL for other kinds.
    number = models.PositiveIntegerField(null=True)

    objects = HistoryQuerySet.as_manager()

    class Meta:
        verbose_name = _("history entry")
        verbose_name_plural = _("history")
        default_permissions = ("view",)
        indexes = (
            PartialIndex(
                fields=["schedule", "id"],
                condition=Q(schedule__isnull=False),
                name="gm_history_schedule",
            ),
            PartialIndex(
                fields=["pause", "id"],
                condition=Q(pause__isnull=False),
                name="gm_history_pause",
            ),
        )

    def __str__(self) -> str:
        return visible(f"{self.kind}: {self.detail}"[:MAX_TITLE] if self.detail else str(self.kind))

    def as_entry(self) -> HistoryEntry:
        kind = HistoryKind(self.kind)
        return HistoryEntry(kind, self.at, self.by, self.detail, self.step, self.number)
