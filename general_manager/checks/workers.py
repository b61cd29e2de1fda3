"""What Celery must be told so that workers and Beat do our work, and are left to finish it."""

from typing import Any

from django.core.checks import CheckMessage

from general_manager.checks.messages import warning
from general_manager.conf import find_problems, get_workflow_settings
from general_manager.workflow.beat import ENTRY, is_scheduled
from general_manager.workflow.dispatch import (
    find_broker_trouble,
    find_time_limit,
    has_app,
    named_app,
    rival_apps,
    runs_at_once,
    this_app,
)


def check_workers(**_: Any) -> list[CheckMessage]:
    """W008, W011, W013, W014, W028; a process without a Celery app has W005 already."""
    if any(problem.is_error for problem in find_problems()):
        return []
    settings = get_workflow_settings()
    if not (has_app() and (settings.run_async or settings.beat_enabled)):
        return []
    messages = [*_check_apps(), *_check_broker()]
    if settings.beat_enabled and not is_scheduled():
        messages.append(
            warning(
                "W008",
                f"WORKFLOW_BEAT_ENABLED is on, and Beat's schedule has no entry {ENTRY!r}.",
                "Something replaces beat_schedule after start-up: add to it instead, as in "
                "app.conf.beat_schedule.update(...). Without the entry no retry, no timer and no "
                "lost message is ever taken up.",
            )
        )
    limit, lease = find_time_limit(), settings.outbox_claim_ttl.total_seconds()
    if limit is not None and limit < lease:
        messages.append(
            warning(
                "W011",
                f"Celery's time limit of {limit:g} s is shorter than "
                f"WORKFLOW_OUTBOX_CLAIM_TTL_SECONDS, {lease:g} s.",
                "Celery would stop a healthy batch in the middle: its events wait until the lease "
                "ends, and whatever handler was running is charged with the death of its worker, "
                "and is a dead letter after WORKFLOW_MAX_CRASHES. Give general_manager's tasks a "
                "longer limit with CELERY_TASK_ANNOTATIONS, and bound executions with "
                "WorkflowDefinition(timeout=...).",
            )
        )
    return messages


def _check_apps() -> list[CheckMessage]:
    rivals = rival_apps()
    if len(rivals) < 2 or named_app() is not None:
        return []
    return [
        warning(
            "W028",
            f"Several Celery apps are in this process: {', '.join(map(repr, rivals))}. "
            f"general_manager sends its messages through {this_app().main!r}.",
            "Name the app of your workers, as in WORKFLOW_CELERY_APP = 'project.celery.app'; make "
            "others with Celery(..., set_as_current=False).",
        )
    ]


def _check_broker() -> list[CheckMessage]:
    if runs_at_once():
        return [
            warning(
                "W014",
                "CELERY_TASK_ALWAYS_EAGER is on: handlers and workflows run in the process that "
                "publishes, and hold up its requests.",
                "Leave it off outside of tests; for a project without workers there is "
                "WORKFLOW_MODE = 'local'.",
            )
        ]
    trouble = find_broker_trouble()
    if trouble is None:
        return []
    return [
        warning(
            "W013",
            f"Celery's broker cannot be used: {trouble}.",
            "Set CELERY_BROKER_URL, and install what it needs, for example celery[redis]. Without "
            "a broker nothing reaches workers, and Beat's ticks do not either.",
        )
    ]
