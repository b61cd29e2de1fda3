"""What happened to executions and deliveries out of the ordinary: when, what, and by whom."""

from collections.abc import Iterable
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.actors import MAX_ACTOR_LENGTH, current_actor
from general_manager.workflow.engine import HistoryEntry, HistoryKind
from general_manager.workflow.models.columns import (
    DatabaseNow,
    IdField,
    Utf8CharField,
    Utf8TextField,
)
from general_manager.workflow.models.texts import write_texts


class HistoryQuerySet(models.QuerySet["WorkflowHistory"]):
    def note(self, kind: HistoryKind, *, detail: str = "", **owner: Any) -> None:
        """Write one row; *owner* names the execution or the delivery."""
        self.note_each(kind, [owner], detail=detail)

    def note_each(
        self, kind: HistoryKind, owners: Iterable[dict[str, Any]], *, detail: str = ""
    ) -> None:
        """One row for each of *owners*, in one statement, by whoever acts here."""
        rows = list(owners)

        def write(by: str, detail: str) -> None:
            by = by[:MAX_ACTOR_LENGTH]
            self.bulk_create(self.model(kind=kind, by=by, detail=detail, **one) for one in rows)

        write_texts(self.db, write, current_actor(), detail)


class WorkflowHistory(models.Model):
    """One thing out of the ordinary, to one execution or one delivery."""

    execution = models.ForeignKey(
        "general_manager.WorkflowExecutionRecord",
        on_delete=models.CASCADE,
        null=True,
        related_name="history",
    )
    delivery = models.ForeignKey(
        "general_manager.WorkflowDeliveryAttempt",
        on_delete=models.CASCADE,
        null=True,
        related_name="history",
    )
    kind = Utf8CharField(max_length=20, choices=[(one.value, one.value) for one in HistoryKind])
    at = models.DateTimeField(db_default=DatabaseNow())
    by = Utf8CharField(max_length=MAX_ACTOR_LENGTH, db_default="")
    detail = Utf8TextField(db_default="")
    #: The step or wait that it is about; empty if it is about the whole execution.
    step = IdField(db_default="")
    #: Which attempt failed, counted since the last step that completed.
    number = models.PositiveIntegerField(null=True)

    objects = HistoryQuerySet.as_manager()

    class Meta:
        verbose_name = _("history entry")
        verbose_name_plural = _("history")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return visible(f"{self.kind}: {self.detail}"[:MAX_TITLE] if self.detail else str(self.kind))

    def as_entry(self) -> HistoryEntry:
        kind = HistoryKind(self.kind)
        return HistoryEntry(kind, self.at, self.by, self.detail, self.step, self.number)
