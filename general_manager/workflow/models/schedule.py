"""The table of schedules: the next slot of each, which one tick takes, and why it is paused.

Its row makes a slot run once. The correlation id alone would not: it is free again if the slot's
execution failed, was cancelled or was pruned.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Self

from django.db import models
from django.db.models import F
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.core.actors import MAX_ACTOR_LENGTH, current_actor
from general_manager.workflow.core.slots import MAX_CRON_LENGTH, Timing, parse_timing
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

MOST_VERSIONS = 50
"""Versions of a schedule's options that its row remembers."""


class ScheduleQuerySet(models.QuerySet["WorkflowSchedule"]):
    """Every change of a schedule's row, each by what it expects to find there."""

    def at_present(self) -> Self:
        """With the database's time as *asked_at*."""
        return self.annotate(asked_at=DatabaseNow())

    def add(self, name: str, values: Mapping[str, Any]) -> None:
        """Insert the row, unless there is one. Its first slot is not set yet: see `place`."""
        fields = ("name", "versions", *values)
        row = [name, [values["version"]], *values.values()]
        insert_new(self.model, fields, [row], self.db, unless=("name",))

    def place(self, row: "WorkflowSchedule", slot: datetime | None) -> None:
        """Set the first slot of a row that has none."""
        self.filter(pk=row.pk, version=row.version, next_at=None).update(next_at=slot)

    def adopt(self, row: "WorkflowSchedule", values: Mapping[str, Any]) -> bool:
        """Change the options to a newer version; false if the row has changed meanwhile."""
        versions = [one for one in row.versions if one != values["version"]]
        kept = [*versions, values["version"]][-MOST_VERSIONS:]
        same = self.filter(pk=row.pk, version=row.version, next_at=row.next_at)
        changed = same.update(**values, versions=kept, registered_at=DatabaseNow())
        if changed:
            detail = f"{row.timing} ({row.tz}) -> {values['timing']} ({values['tz']})"
            self.note(row, HistoryKind.SCHEDULE_CHANGED, detail)
        return changed == 1

    def confirm(self, row: "WorkflowSchedule") -> None:
        """A running process registers this version."""
        self.filter(pk=row.pk, version=row.version).update(registered_at=DatabaseNow())

    def take(self, row: "WorkflowSchedule", following: datetime | None, slot: datetime) -> bool:
        """Take the slots up to *slot*, and move on to *following*; false if another tick did.

        Locks the row until the caller's transaction ends. A paused schedule is not taken.
        """
        same = self.filter(pk=row.pk, next_at=row.next_at, version=row.version, paused_at=None)
        return same.update(next_at=following, last_slot=slot, error="") == 1

    def started(self, row: "WorkflowSchedule", correlation_id: str) -> None:
        """An execution with this correlation id was started."""
        self.filter(pk=row.pk).update(
            last_correlation_id=correlation_id, last_started_at=DatabaseNow(), skipped=0
        )

    def skipped(self, row: "WorkflowSchedule", detail: str) -> None:
        """The slot was taken and nothing started: an earlier execution is still active."""
        self.filter(pk=row.pk).update(skipped=F("skipped") + 1)
        if not row.skipped:  # the count tells of the rest
            self.note(row, HistoryKind.SLOT_SKIPPED, detail)

    def failed(self, row: "WorkflowSchedule", error: str) -> None:
        """The slot could not be started and stays due. Repetitions of an error change nothing."""

        def write(text: str, _: str) -> bool:
            return bool(self.filter(pk=row.pk).exclude(error=text).update(error=text))

        if write_texts(self.db, write, error, ""):
            self.note(row, HistoryKind.START_FAILED, error)

    def pause(self, row: "WorkflowSchedule", reason: str) -> bool:
        """Start no slot from now on; false if it is paused already."""

        def write(by: str, text: str) -> int:
            values = {"paused_by": by[:MAX_ACTOR_LENGTH], "pause_reason": text}
            running = self.filter(pk=row.pk, paused_at=None)
            return running.update(paused_at=DatabaseNow(), **values)

        if not write_texts(self.db, write, current_actor(), reason):
            return False
        self.note(row, HistoryKind.PAUSED, reason)
        return True

    def unpause(self, row: "WorkflowSchedule", slot: datetime | None) -> bool:
        """Go on with *slot*; false if it is not paused. Slots of the pause are not missed ones."""
        same = self.filter(pk=row.pk, paused_at__isnull=False)
        values = {"paused_at": None, "paused_by": "", "pause_reason": "", "error": ""}
        if not same.update(next_at=slot, **values):
            return False
        self.note(row, HistoryKind.UNPAUSED)
        return True

    def note(self, row: "WorkflowSchedule", kind: HistoryKind, detail: str = "") -> None:
        WorkflowHistory.objects.using(self.db).note(kind, detail=detail, schedule_id=row.pk)

    def prune_history(self, older_than: timedelta, limit: int) -> int:
        """Delete up to *limit* entries of schedules' histories that are older than that."""
        entries = WorkflowHistory.objects.using(self.db).filter(schedule__isnull=False)
        old = entries.filter(at__lt=from_now(-older_than)).order_by("schedule_id", "pk")
        keys = list(old.values_list("pk", flat=True)[:limit])
        if keys:
            WorkflowHistory.objects.using(self.db).filter(pk__in=keys).delete()
        return len(keys)

    def named(self, names: Collection[str]) -> Self:
        return self.filter(name__in=list(names))


class WorkflowSchedule(models.Model):
    """One schedule, as the latest registration of its name describes it."""

    #: The name given to `schedule`; unique.
    name = IdField()
    #: Workflow id of the definition that it starts.
    workflow_id = IdField()
    #: The cron expression, or ``every 600 s``.
    timing = Utf8CharField(_("runs at"), max_length=MAX_CRON_LENGTH)
    #: The time zone of the cron expression.
    tz = IdField(_("time zone"))
    #: What happens to slots that are late: ``latest``, ``all`` or ``skip``.
    missed = Utf8CharField(_("missed slots"), max_length=10)
    #: Whether executions may overlap: ``allow`` or ``skip``.
    overlap = Utf8CharField(_("overlapping executions"), max_length=10)
    #: Hash of the options that are in force, of all of the above.
    version = Utf8CharField(max_length=16)
    #: The latest versions that were in force: an older process does not write one of them back.
    versions = models.JSONField(default=list)
    #: When a tick last ran in a process that registers this version.
    registered_at = models.DateTimeField(db_default=DatabaseNow())
    #: The next slot, which one tick takes; NULL until the first tick, and if there is none.
    next_at = models.DateTimeField(null=True)
    #: The last slot that was taken, whether it started an execution or not; NULL for none.
    last_slot = models.DateTimeField(null=True)
    #: When it last started an execution; NULL if it never did.
    last_started_at = models.DateTimeField(null=True)
    #: Correlation id of that execution; NULL if there is none.
    last_correlation_id = IdField(null=True)
    #: Slots that were skipped since, because an execution was active.
    skipped = models.PositiveIntegerField(_("skipped since then"), db_default=0)
    #: Why the slot that is due could not be started; empty if nothing is wrong.
    error = Utf8TextField(db_default="")
    #: Since when it is paused, written by `pause`; NULL if it is not.
    paused_at = models.DateTimeField(null=True)
    #: Who paused it; empty if unknown.
    paused_by = Utf8CharField(max_length=MAX_ACTOR_LENGTH, db_default="")
    #: Why it was paused; may be empty.
    pause_reason = Utf8TextField(db_default="")
    #: When its name was first registered.
    created_at = models.DateTimeField(db_default=DatabaseNow())

    objects = ScheduleQuerySet.as_manager()

    class Meta:
        verbose_name = _("schedule")
        verbose_name_plural = _("schedules")
        default_permissions = ("view",)
        permissions = (
            ("pause_schedule", _("Can pause and unpause schedules")),
            ("run_schedule", _("Can start a schedule's workflow now")),
            ("remove_schedule", _("Can remove schedules that no process registers")),
        )
        constraints = (models.UniqueConstraint(fields=["name"], name="gm_schedule_name"),)

    def __str__(self) -> str:
        return visible(self.name[:MAX_TITLE])

    def as_timing(self) -> Timing:
        """The slots of the options that are in force. Raises `WrongTiming`."""
        return parse_timing(self.timing, self.tz)
