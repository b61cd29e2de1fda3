"""Schedules on tables; time is moved by moving their slots."""

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from general_manager.workflow import WorkflowDefinition, WorkflowSchedule, schedule
from general_manager.workflow.models import WorkflowHeartbeat
from general_manager.workflow.scheduling.firing import fire_due
from tests.testapp import flows

ECHO = WorkflowDefinition("echo", handler=flows.echo)


def hour(ago: int = 0) -> datetime:
    """A full hour, so many hours before the present one."""
    present = timezone.now().replace(minute=0, second=0, microsecond=0)
    return present - timedelta(hours=ago)


def hourly(name: str = "report", **options: Any) -> Any:
    """Register a schedule of full hours, with its row; its next slot is the next full hour."""
    made = schedule(name, ECHO, every=timedelta(hours=1), **options)
    fire_due()
    return made


def come_due(name: str = "report", slot: datetime | None = None) -> datetime:
    """Let the schedule's next slot be a past one; by default that of the present hour."""
    due = slot or hour()
    assert WorkflowSchedule.objects.filter(name=name).update(next_at=due) == 1
    return due


def forget_ticks() -> None:
    WorkflowHeartbeat.objects.filter(duty="tick").delete()
