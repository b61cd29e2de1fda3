"""The engine and registry that the settings name, and what they need from the project."""

from collections.abc import Callable
from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.utils.translation import ngettext

from general_manager.check_messages import warning
from general_manager.checks.database import (
    check_autocommit,
    check_isolation,
    check_sqlite,
    check_synchronous_commit,
    check_time_zones,
    check_timeouts,
)
from general_manager.conf import find_problems, get_workflow_settings
from general_manager.names import APP_LABEL
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.durable.answers.sources import DIFFERENT_DATABASES, DIFFERENT_KINDS
from general_manager.workflow.event_registry import (
    get_event_registry,
    unused_registries,
)
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from general_manager.workflow.transport import get_transport


def check_backends(**_: Any) -> list[CheckMessage]:
    """E004, E005, E008: engine, registry and transport can be built and have the right type.

    W002 to W007, W010 and W019: combinations that work but are probably mistakes.
    """
    if any(problem.is_error for problem in find_problems()):
        return []  # report wrong settings first: nothing can be built from them
    messages = [
        *_check_backend(get_workflow_engine, "E004"),
        *_check_backend(get_event_registry, "E005"),
        *_check_backend(get_transport, "E008"),
    ]
    return messages or [*_check_in_force(), *_check_registries()]


def _check_backend(get: Callable[[], object], check_id: str) -> list[CheckMessage]:
    try:
        get()
    except ImproperlyConfigured as error:
        hint = "Correct the setting, or set it to None for the mode's default."
        return [Error(str(error), hint=hint, id=f"{APP_LABEL}.{check_id}")]
    return []


def _check_in_force() -> list[CheckMessage]:
    """The checks of engine, registry and transport themselves, and of what our tables need."""
    engine, registry = get_workflow_engine(), get_event_registry()
    messages = [*_own_check(engine), *_own_check(registry), *_check_kinds(engine, registry)]
    if not any(getattr(one, "supports_tables", False) for one in (engine, registry)):
        return messages
    messages += [
        *check_sqlite(),
        *check_isolation(),
        *check_autocommit(),
        *check_timeouts(),
        *check_synchronous_commit(),
        *check_time_zones(),
    ]
    if get_workflow_settings().run_async:
        messages += get_transport().check()
    return messages


def _check_kinds(engine: object, registry: object) -> list[CheckMessage]:
    """W019: events are kept where the executions are, or they cannot answer waits."""
    has_rows = [getattr(one, "supports_tables", False) for one in (registry, engine)]
    if has_rows[0] != has_rows[1]:
        names = {"registry": type(registry).__name__, "engine": type(engine).__name__}
        text, hint = DIFFERENT_KINDS.format(**names), "Without such waits, silence this check."
        return [warning("W019", text, hint)]
    homes = [router.db_for_write(one) for one in (WorkflowEventRecord, WorkflowExecutionRecord)]
    if all(has_rows) and homes[0] != homes[1]:
        text = DIFFERENT_DATABASES.format(events=homes[0], executions=homes[1])
        return [warning("W019", text, "Have a router return one database for both.")]
    return []


def _own_check(backend: object) -> list[CheckMessage]:
    """The messages of a backend's own check; a project's backend need not have one."""
    check: Callable[[], list[CheckMessage]] | None = getattr(backend, "check", None)
    return [] if check is None else check()


def _check_registries() -> list[CheckMessage]:
    """W016: handlers of a registry that is not in use are never called."""
    return [
        warning(
            "W016",
            f"{describe_registry(one)} has {_counted(len(one.registrations()))} but is not in use. "
            f"The registry in use is {describe_registry(get_event_registry())}.",
            "Register with get_event_registry(), or activate your registry with "
            "configure_event_registry(registry). Otherwise only events that are published to it "
            "directly reach its handlers.",
        )
        for one in unused_registries()
    ]


def describe_registry(registry: object) -> str:
    return f"{type(registry).__name__} at {id(registry):#x}"


def _counted(count: int) -> str:
    return ngettext("%d registration", "%d registrations", count) % count
