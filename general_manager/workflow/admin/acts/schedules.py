"""The acts on schedules: pause, unpause, run now, remove."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from django import forms
from django.db import DEFAULT_DB_ALIAS, transaction
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.admin.acts.dead_letters import NothingForm
from general_manager.workflow.admin.acts.seen import require_same
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models import WorkflowHistory, WorkflowSchedule
from general_manager.workflow.operations.schedules import CLOCK_AHEAD
from general_manager.workflow.schedules import sound_schedules
from general_manager.workflow.scheduling.rows import is_active, stored_schedules
from general_manager.workflow.scheduling.verbs import (
    locked,
    pause_schedule,
    remove_schedule,
    run_schedule,
    unpause_schedule,
)

Text = str | Promise


class PauseForm(forms.Form):
    reason = forms.CharField(
        label=_("Reason"),
        max_length=500,
        required=False,
        help_text=_("Shown on the schedule's page and kept in its history."),
        widget=forms.TextInput(attrs={"size": 60}),
    )


def schedule_situation(row: WorkflowSchedule, act: "ScheduleAct") -> list[str]:
    """What *act* depends on: also the last run by hand, if it is another one."""
    how = ["paused" if row.paused_at else "scheduled", str(row.paused_at or ""), row.version]
    if act is not RUN_NOW:
        return how
    runs = WorkflowHistory.objects.using(row._state.db or DEFAULT_DB_ALIAS)
    mine = runs.filter(schedule_id=row.pk, kind=HistoryKind.RUN_NOW).order_by("-pk")
    return [*how, str(mine.values_list("pk", flat=True).first() or "")]


@dataclass(frozen=True, slots=True)
class ScheduleAct:
    """One act with its permission and form. *perform* may return the execution it started."""

    name: str
    label: Promise
    done: Promise
    permission: str
    form: type[forms.Form]
    sentence: Promise
    rule: Callable[[WorkflowSchedule], Text | None]
    perform: Callable[[WorkflowSchedule, dict[str, Any]], Any]
    is_grave: bool = False

    def why_not(self, row: WorkflowSchedule) -> Text | None:
        if getattr(get_workflow_engine(), "supports_timers", False):
            return _("In local mode each process keeps its schedules in its memory.")
        return self.rule(row)

    def perform_as_seen(self, row: WorkflowSchedule, seen: Any, values: dict[str, Any]) -> Any:
        """Act as confirmed, or raise `ChangedMeanwhileError` with nothing done."""
        with transaction.atomic(using=stored_schedules().db):
            now = locked(row.name)
            require_same(seen, schedule_situation(now, self))
            return self.perform(now, values)


def _is_paused(row: WorkflowSchedule) -> Text | None:
    return None if row.paused_at is not None else _("It is not paused.")


def _is_not_paused(row: WorkflowSchedule) -> Text | None:
    return None if row.paused_at is None else _("It is paused already.")


def _may_run(row: WorkflowSchedule) -> Text | None:
    if row.name not in sound_schedules():
        return _("It is not registered in this process, so its workflow is not known here.")
    if row.overlap == "skip" and is_active(stored_schedules(), row.name):
        return _("An execution of it is still active, and its executions must not overlap.")
    return None


def _is_abandoned(row: WorkflowSchedule) -> Text | None:
    is_stuck = row.last_slot is not None and row.last_slot > timezone.now() + CLOCK_AHEAD
    if row.name in sound_schedules() and not is_stuck:
        return _("It is registered: a process would add it again. Pause it instead.")
    return None


PAUSE_SCHEDULE: Final = ScheduleAct(
    name="pause",
    label=_("Pause…"),
    done=_("Paused."),
    permission="pause_schedule",
    form=PauseForm,
    sentence=_(
        "No slot starts from now on, whatever is deployed. Executions that were started go on."
    ),
    rule=_is_not_paused,
    perform=lambda row, values: pause_schedule(row.name, reason=values.get("reason", "")),
)
UNPAUSE_SCHEDULE: Final = ScheduleAct(
    name="unpause",
    label=_("Unpause…"),
    done=_("Unpaused."),
    permission="pause_schedule",
    form=NothingForm,
    sentence=_("It goes on with its next slot. The slots of the pause are not made up for."),
    rule=_is_paused,
    perform=lambda row, values: unpause_schedule(row.name),
)
RUN_NOW: Final = ScheduleAct(
    name="run",
    label=_("Run now…"),
    done=_("Started."),
    permission="run_schedule",
    form=NothingForm,
    sentence=_("An execution starts now, with the schedule's input. Its slots stay as they are."),
    rule=_may_run,
    perform=lambda row, values: run_schedule(row.name),
)
REMOVE: Final = ScheduleAct(
    name="remove",
    label=_("Remove…"),
    done=_("Removed."),
    permission="remove_schedule",
    form=NothingForm,
    sentence=_(
        "The schedule disappears from this list, with its history; its executions stay. A process "
        "that registers it adds it again, with its next slot."
    ),
    rule=_is_abandoned,
    perform=lambda row, values: remove_schedule(row),
    is_grave=True,
)
ACTS: Final = {act.name: act for act in (PAUSE_SCHEDULE, UNPAUSE_SCHEDULE, RUN_NOW, REMOVE)}
