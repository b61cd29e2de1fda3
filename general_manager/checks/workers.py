"""The Celery settings under which workers and Beat can do our work."""

from typing import Any

from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from general_manager.check_messages import warning
from general_manager.conf import find_problems, get_workflow_settings
from general_manager.workflow.transport import get_transport
from general_manager.workflow.transport.broker import (
    has_app,
    named_app,
    rival_apps,
    runs_at_once,
    this_app,
)
from general_manager.workflow.transport.celery_settings import find_broker_trouble, find_time_limit
from general_manager.workflow.workers.beat import ENTRY, is_scheduled


def check_workers(**_: Any) -> list[CheckMessage]:
    """W008, W011, W013, W014, W028. W005 covers a process without a Celery app."""
    if any(problem.is_error for problem in find_problems()):
        return []
    settings = get_workflow_settings()
    if not (_uses_celery() and has_app() and (settings.run_async or settings.beat_enabled)):
        return []
    messages = [*_check_apps(), *_check_broker()]
    if settings.beat_enabled and not is_scheduled():
        messages.append(
            warning(
                "W008",
                f"WORKFLOW_BEAT_ENABLED is on, but Beat's schedule has no entry {ENTRY!r}.",
                "Your code replaces beat_schedule after start-up. Add to it instead: "
                "app.conf.beat_schedule.update(...). Without the entry retries, timers and lost "
                "messages are never picked up.",
            )
        )
    limit, lease = find_time_limit(), settings.outbox_claim_ttl.total_seconds()
    if limit is not None and limit < lease:
        messages.append(
            warning(
                "W011",
                f"Celery's time limit of {limit:g} s is shorter than "
                f"WORKFLOW_OUTBOX_CLAIM_TTL_SECONDS, {lease:g} s.",
                "Celery would stop a healthy batch in the middle. Its events then wait until the "
                "lease expires, and the running handler is charged with a crash and becomes a "
                "dead letter after WORKFLOW_MAX_CRASHES. Give general_manager's tasks a longer "
                "limit with CELERY_TASK_ANNOTATIONS, and limit executions with "
                "WorkflowDefinition(timeout=...).",
            )
        )
    return messages


def _uses_celery() -> bool:
    try:
        return bool(getattr(get_transport(), "supports_celery", False))
    except ImproperlyConfigured:
        return False  # E008 reports it


def _check_apps() -> list[CheckMessage]:
    rivals = rival_apps()
    if len(rivals) < 2 or named_app() is not None:
        return []
    return [
        warning(
            "W028",
            f"This process has several Celery apps: {', '.join(map(repr, rivals))}. "
            f"general_manager sends its messages through {this_app().main!r}.",
            "Name your workers' app, such as WORKFLOW_CELERY_APP = 'project.celery.app'. Create "
            "others with Celery(..., set_as_current=False).",
        )
    ]


def _check_broker() -> list[CheckMessage]:
    if runs_at_once():
        return [
            warning(
                "W014",
                "CELERY_TASK_ALWAYS_EAGER is on: handlers and workflows run in the publishing "
                "process and delay its requests.",
                "Turn it off outside tests. For a project without workers use "
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
            "Set CELERY_BROKER_URL, and install its client library, for example celery[redis]. "
            "Without a broker neither messages nor Beat's ticks reach workers.",
        )
    ]
