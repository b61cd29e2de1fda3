"""The engine and the registry that the settings build, and what they need around them."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import ngettext

from general_manager.checks.database import (
    check_autocommit,
    check_isolation,
    check_sqlite,
    check_timeouts,
)
from general_manager.checks.messages import PREFIX, warning
from general_manager.conf import find_problems, get_workflow_settings
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.dispatch import closes_connections, has_app
from general_manager.workflow.event_registry import (
    EventRegistry,
    Registration,
    get_event_registry,
    unused_registries,
)


def check_backends(**_: Any) -> list[CheckMessage]:
    """E004, E005: the engine and the registry can be built and are what they should be.

    W002 to W007 and W010: what works and will surprise.
    """
    if any(problem.is_error for problem in find_problems()):
        return []  # the wrong keys come first; what they would build is unknown
    messages = [
        *_check_backend(get_workflow_engine, "E004"),
        *_check_backend(get_event_registry, "E005"),
    ]
    return messages or [*_check_combination(), *_check_production(), *_check_registries()]


def _check_backend(get: Callable[[], object], check_id: str) -> list[CheckMessage]:
    try:
        get()
    except ImproperlyConfigured as error:
        hint = "Correct it, or set it to None to have the mode's default."
        return [Error(str(error), hint=hint, id=f"{PREFIX}.{check_id}")]
    return []


def _check_combination() -> list[CheckMessage]:
    settings = get_workflow_settings()
    messages: list[CheckMessage] = []
    engine = type(get_workflow_engine()).__name__
    if settings.run_async and engine == "LocalWorkflowEngine":
        messages.append(
            Warning(
                "WORKFLOW_ASYNC is True, and LocalWorkflowEngine runs everything at once.",
                hint="Use CeleryWorkflowEngine to run handlers in workers.",
                id=f"{PREFIX}.W002",
            )
        )
    registry = type(get_event_registry()).__name__
    if settings.mode == "production" and registry == "InMemoryEventRegistry":
        messages.append(
            Warning(
                "WORKFLOW_MODE is 'production', and InMemoryEventRegistry keeps events in memory.",
                hint="What a process has not delivered when it ends is lost: use "
                "DatabaseEventRegistry.",
                id=f"{PREFIX}.W003",
            )
        )
    return messages


def _check_production() -> list[CheckMessage]:
    """What events and executions in a database need around them."""
    registry = get_event_registry()
    names = (type(registry).__name__, type(get_workflow_engine()).__name__)
    if not {"DatabaseEventRegistry", "CeleryWorkflowEngine"} & set(names):
        return []
    messages = [
        *check_sqlite(),
        *check_isolation(),
        *check_autocommit(),
        *check_timeouts(),
    ]
    if not get_workflow_settings().run_async:
        pass  # nothing is sent to workers
    elif not has_app():
        messages.append(
            warning(
                "W005",
                "This process has no Celery app, so work waits for Beat's next tick.",
                "Import your app in your project's __init__.py.",
            )
        )
    elif closes_connections():
        messages.append(
            warning(
                "W006",
                "Celery closes the database connection after every task; CONN_MAX_AGE does not "
                "count in workers.",
                "Set CELERY_DB_REUSE_MAX = 1000.",
            )
        )
    if isinstance(registry, EventRegistry):
        messages += _check_ids(registry.registrations())
    return messages


def _check_registries() -> list[CheckMessage]:
    """What is registered by hand with a registry that nothing publishes to is never called."""
    return [
        warning(
            "W016",
            f"{describe_registry(one)} has {_counted(len(one.registrations()))} and is not the one "
            f"in force, which is {describe_registry(get_event_registry())}.",
            "Register with get_event_registry(), or put yours in force with "
            "configure_event_registry(registry): otherwise only what is published to it directly "
            "reaches its handlers.",
        )
        for one in unused_registries()
    ]


def describe_registry(registry: object) -> str:
    return f"{type(registry).__name__} at {id(registry):#x}"


def _counted(count: int) -> str:
    return ngettext("%d registration", "%d registrations", count) % count


def _check_ids(registrations: list[Registration]) -> list[CheckMessage]:
    """Stored deliveries know their registration by its id, in this release and the next."""
    unnamed = [one for one in registrations if one.registration_id is None]
    counted = Counter(one.likeness for one in unnamed if not one.is_fragile)
    return [
        warning(
            "W007",
            f"{registration} is known to the database by its place among the others, because "
            f"{' and '.join(registration.fragile_parts)} cannot be imported.",
            "Give it a registration_id, or use functions at the top level of a module: else a "
            "release that registers in another order takes one handler's deliveries for "
            "another's.",
        )
        for registration in unnamed
        if registration.is_fragile
    ] + [
        warning(
            "W010",
            f"{next(one for one in unnamed if one.likeness == likeness)} is registered {count} "
            "times, with options that a stored delivery cannot tell apart.",
            "Give each a registration_id: else a release that registers in another order, or "
            "drops one, takes the deliveries of one for those of the other.",
        )
        for likeness, count in counted.items()
        if count > 1
    ]
