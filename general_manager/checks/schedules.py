"""Schedules that cannot run, or whose workflow no worker can run."""

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error

from general_manager.check_messages import warning
from general_manager.conf import find_problems, get_workflow_settings
from general_manager.names import APP_LABEL
from general_manager.workflow.executions.children.handlers import stored_handler
from general_manager.workflow.schedules import Schedule, all_schedules, doubled_schedules


def check_schedules(**_: Any) -> list[CheckMessage]:
    """E020 to E022, W040: expression, zone, name and handler of each schedule."""
    if any(problem.is_error for problem in find_problems()):
        return []
    messages = [message for one in all_schedules().values() for message in _check_one(one)]
    messages += [
        Error(
            f"The schedule {one.name!r} is registered twice: as {_described(all_schedules(), one)} "
            f"and as {one.text!r} ({one.tz}) for workflow {one.workflow.workflow_id!r}. Only the "
            "first one runs.",
            hint="Give each schedule a name of its own.",
            id=f"{APP_LABEL}.E021",
        )
        for one in doubled_schedules().values()
    ]
    return messages


def _described(known: dict[str, Schedule], one: Schedule) -> str:
    first = known[one.name]
    return f"{first.text!r} ({first.tz}) for workflow {first.workflow.workflow_id!r}"


def _check_one(one: Schedule) -> Iterator[CheckMessage]:
    if one.problem:
        yield Error(
            f"The schedule {one.name!r} never runs: {one.problem}.",
            hint=one.hint,
            id=f"{APP_LABEL}.E020",
        )
    settings = get_workflow_settings()
    if settings.run_async:
        error = stored_handler(one.workflow).error
        if error is not None:
            yield Error(
                f"Each execution of the schedule {one.name!r} fails: {error}",
                hint="Name a function at the top level of one of your modules.",
                id=f"{APP_LABEL}.E022",
            )
    if settings.mode == "production" and not settings.beat_enabled and settings.run_async:
        yield warning(
            "W040",
            f"The schedule {one.name!r} waits for ticks, but WORKFLOW_BEAT_ENABLED is off.",
            "Turn it on, or see that general_manager.workflow.tasks.beat_tick runs every few "
            "seconds.",
        )
