"""Let the slots of schedules come in a test, by a time of their own."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.utils import timezone

from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.models import WorkflowHeartbeat
from general_manager.workflow.schedules import Schedule, get_schedule, sound_schedules
from general_manager.workflow.scheduling.firing import fire_at
from general_manager.workflow.scheduling.memory import memory_of
from general_manager.workflow.scheduling.rows import stored_schedules

KIT_DUTY: Final = "testing.schedules"
"""A heartbeat keeps the time that has come, so that a test's rollback takes it back."""
MOST_SLOTS: Final = 1_000

_local_times: Final["WeakKeyDictionary[Any, datetime]"] = WeakKeyDictionary()


class SlotClock:
    """The time of schedules: the present, or where the last `advance` of this test ended."""

    def __init__(self, *, wanted: bool | Collection[str]) -> None:
        self._engine = get_workflow_engine()
        self.is_local = bool(getattr(self._engine, "supports_timers", False))
        self.schedules: Mapping[str, Schedule] = {}
        if wanted is True:
            self.schedules = sound_schedules()
        elif wanted:
            self.schedules = {name: get_schedule(name) for name in wanted}
        self._fired = 0
        self.now = timezone.now()
        if timezone.is_naive(self.now):  # without USE_TZ
            self.now = timezone.make_aware(self.now)
        kept = self._kept() if self.schedules else None
        if kept is not None:
            self._continue_from(kept)
            self.now = max(self.now, kept)

    def fire(self) -> int:
        """Start the slots that have come; returns the executions that have run by that."""
        if not self.schedules:
            return 0
        started = fire_at(self.schedules, self.now)
        self._fired += started
        if self._fired > MOST_SLOTS:
            raise AssertionError(
                f"More than {MOST_SLOTS:,} slots of schedules have come. Pass schedules=False to "
                f"advance(), or the names that the test is about: {', '.join(self.schedules)}"
            )
        return started if self.is_local else 0

    def next(self) -> datetime | None:
        """The next slot of all, if it is still to come."""
        found: list[datetime | None] = []
        if self.is_local and self.schedules:
            states = memory_of(self._engine).states
            found = [one.next_at for name, one in states.items()
                     if name in self.schedules and not one.paused]  # fmt: skip
        elif self.schedules:
            rows = stored_schedules().named(self.schedules).filter(paused_at=None)
            found = list(rows.values_list("next_at", flat=True))
        return min((one for one in found if one is not None and one > self.now), default=None)

    def keep(self) -> None:
        """The next `advance` of this test goes on from here."""
        if not self.schedules:
            return
        if self.is_local:
            _local_times[self._engine] = self.now
        else:
            beats = WorkflowHeartbeat.objects.using(stored_schedules().db)
            beats.update_or_create(duty=KIT_DUTY, defaults={"at": self.now})

    def _continue_from(self, kept: datetime) -> None:
        """The next slots are those after *kept*: `unpause_schedule` goes by the real time."""
        if self.is_local:
            for name, state in memory_of(self._engine).states.items():
                timing = self.schedules[name].timing if name in self.schedules else None
                if timing is not None and not state.paused:
                    state.next_at = timing.after(kept)
            return
        rows = stored_schedules().named(self.schedules)
        for row in rows.filter(paused_at=None, next_at__isnull=False):
            rows.filter(pk=row.pk).update(next_at=row.as_timing().after(kept))

    def _kept(self) -> datetime | None:
        if self.is_local:
            return _local_times.get(self._engine)
        beats = WorkflowHeartbeat.objects.using(stored_schedules().db).filter(duty=KIT_DUTY)
        return beats.values_list("at", flat=True).first()
