"""Slots: one for each child of a gather, with what the child came to."""

from collections.abc import Collection
from typing import Any, Self

from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.core.ids import EXECUTION_ID_LENGTH
from general_manager.workflow.durable.children.specs import ChildOutcome
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models.children.states import IS_HELD
from general_manager.workflow.models.execution import WorkflowExecutionRecord
from general_manager.workflow.models.sql.columns import (
    IdField,
    PartialIndex,
    Utf8CharField,
    Utf8TextField,
)
from general_manager.workflow.models.step import WorkflowStep


class SlotQuerySet(models.QuerySet["WorkflowChildSlot"]):
    """Every write holds the lock of the execution that waits."""

    def of(self, execution_id: int, gather: str) -> Self:
        return self.filter(execution_id=execution_id, gather=gather)

    def open(self) -> Self:
        """Slots whose child is not over, as far as a look has found."""
        return self.filter(outcome=None)

    def waited_for(self) -> Self:
        """Open slots whose execution waits for the child: it may also have given it up.

        That is so after the gather's timeout; and if the execution is to end, which waits only for
        the children that it stops.
        """
        gathers = WorkflowStep.objects.using(self.db).filter(
            execution=OuterRef("execution"), name=OuterRef("gather"), status=StepStatus.GATHERING
        )
        stays = Q(is_stopped=True) | Q(execution__ending_at=None)
        return self.open().filter(stays, Exists(gathers))

    def naming(self, chains: Collection[str]) -> Self:
        """Slots of the children with these chains."""
        return self.filter(child__in=chains)

    def running(self) -> Self:
        """Open slots whose child has begun, or may: not those that join one that is held."""
        waits = Exists(self._children.filter(IS_HELD, execution_id=OuterRef("child")))
        return self.open().filter(Q(is_own=True) | ~waits, is_held=False)

    def stop(self) -> int:
        """Mark this execution's own open children to be cancelled.

        Not those with ``abandon=True``, unless they are held: nobody would release them.
        """
        abandoned = self._children.filter(abandoned=True)
        begun = abandoned.filter(~IS_HELD, execution_id=OuterRef("child"))
        goes_on = Exists(begun) | Exists(abandoned.filter(chain=OuterRef("child")))
        mine = self.open().filter(~goes_on, is_own=True, is_stopped=False)
        return mine.update(is_stopped=True)

    @property
    def _children(self) -> Any:
        return WorkflowExecutionRecord.objects.using(self.db)

    def outcomes(self) -> list[ChildOutcome]:
        return [row.as_outcome() for row in self.exclude(outcome=None).order_by("place")]


class WorkflowChildSlot(models.Model):
    """The place of one child in a gather, with the child's outcome once it is over."""

    #: The execution that waits.
    execution = models.ForeignKey(
        WorkflowExecutionRecord,
        on_delete=models.CASCADE,
        related_name="slots",
        db_index=False,  # the constraint's index begins with it
    )
    #: Name of the gather, given by the handler.
    gather = IdField()
    #: Position of the child in the gather, from 0.
    place = models.PositiveIntegerField()
    #: Key of the child in the gather; by default its position.
    key = IdField()
    #: Workflow id of the child.
    workflow_id = IdField()
    #: Id of the first execution of the child's chain; the newest one counts. No foreign key, whose
    #: check would lock the child.
    child = IdField(max_length=EXECUTION_ID_LENGTH)
    #: Whether this execution started the child, rather than joining it by its correlation id.
    is_own = models.BooleanField(db_default=True)
    #: Whether the child waits until another one of the gather is over.
    is_held = models.BooleanField(db_default=False)
    #: Whether the child is to be cancelled, because another one failed or the time is over.
    is_stopped = models.BooleanField(db_default=False)
    #: Terminal state of the child, or ``cycle``, copied by a look; NULL while it is not over.
    outcome = Utf8CharField(max_length=10, null=True)
    #: Id of the execution that came to the outcome; NULL while there is none.
    ended_as = IdField(max_length=EXECUTION_ID_LENGTH, null=True)
    #: Output of the child, copied so that it survives the child's retention; NULL without one.
    result = models.JSONField(null=True)
    #: Error or reason of the child, copied; empty if it completed.
    error = Utf8TextField(db_default="")

    objects = SlotQuerySet.as_manager()

    class Meta:
        verbose_name = _("child")
        verbose_name_plural = _("children")
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(
                fields=["execution", "gather", "place"], name="gm_one_slot_each"
            ),
        )
        indexes = (
            models.Index(fields=["child"], name="gm_slot_child"),
            PartialIndex(
                fields=["execution", "gather", "is_held", "place"],
                condition=Q(outcome__isnull=True),
                name="gm_slot_open",
            ),
        )

    def __str__(self) -> str:
        return visible(f"{self.gather}: {self.key}"[:MAX_TITLE])

    def as_outcome(self) -> ChildOutcome:
        return ChildOutcome(
            place=self.place,
            key=self.key,
            workflow_id=self.workflow_id,
            execution_id=self.ended_as or self.child,
            state=self.outcome or WorkflowState.PENDING,
            output=self.result,
            error=self.error,
        )


def child_values(record: Any, *, abandoned: bool) -> dict[str, Any]:
    """The columns of a child that come from its parent *record*."""
    return {
        "parent": record.execution_id,
        "root": record.root or record.execution_id,
        "depth": record.depth + 1,
        "abandoned": abandoned,
        "awaited": True,
        "caused_by": record.caused_by,
        "subject": record.subject,
    }
