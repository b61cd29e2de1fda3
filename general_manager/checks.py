"""`manage.py check`: every mistake in the settings at once, each with what to do about it."""

from collections.abc import Callable
from typing import Any

from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from general_manager.conf import find_problems, get_workflow_settings
from general_manager.manager import GeneralManager
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.dispatch import closes_connections, has_app
from general_manager.workflow.event_registry import EventRegistry, get_event_registry
from general_manager.workflow.outbox import aliases

PREFIX = "general_manager"


def check_settings(**_: Any) -> list[CheckMessage]:
    """E001 to E003 and W001: the keys and values of `GENERAL_MANAGER`."""
    return [
        (Error if problem.is_error else Warning)(
            problem.message, hint=problem.hint, id=f"{PREFIX}.{problem.id}"
        )
        for problem in find_problems()
    ]


def check_backends(**_: Any) -> list[CheckMessage]:
    """E004, E005: the engine and the registry can be built and are what they should be.

    W002 to W007: what works and will surprise.
    """
    if any(problem.is_error for problem in find_problems()):
        return []  # the wrong keys come first; what they would build is unknown
    messages = [
        *_check_backend(get_workflow_engine, "E004"),
        *_check_backend(get_event_registry, "E005"),
    ]
    return messages or [*_check_combination(), *_check_production()]


def check_managers(**_: Any) -> list[CheckMessage]:
    """E006: every manager's model exists."""
    messages: list[CheckMessage] = []
    for manager in GeneralManager.known_managers:
        try:
            manager.get_model()
        except ImproperlyConfigured as error:
            messages.append(
                Error(
                    str(error),
                    hint='Write "app_label.ModelName" of a model in an installed app.',
                    obj=manager,
                    id=f"{PREFIX}.E006",
                )
            )
    return messages


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
    messages = _check_sqlite()
    if not has_app():
        messages.append(
            _warning(
                "W005",
                "This process has no Celery app, so work waits for Beat's next tick.",
                "Import your app in your project's __init__.py.",
            )
        )
    elif closes_connections():
        messages.append(
            _warning(
                "W006",
                "Celery closes the database connection after every task; CONN_MAX_AGE does not "
                "count in workers.",
                "Set CELERY_DB_REUSE_MAX = 1000.",
            )
        )
    if isinstance(registry, EventRegistry):
        messages += [
            _warning(
                "W007",
                f"{registration} is known to the database by its place among the others.",
                "Use functions at the top level of a module, or give it a registration_id: else a "
                "release that registers in another order takes one handler's deliveries for "
                "another's.",
            )
            for registration in registry.registrations()
            if registration.is_fragile
        ]
    return messages


def _check_sqlite() -> list[CheckMessage]:
    messages = []
    for alias in aliases():
        options = connections[alias].settings_dict.get("OPTIONS", {})
        is_ready = (
            options.get("transaction_mode") == "IMMEDIATE"
            and "wal" in str(options.get("init_command", "")).lower()
        )
        if connections[alias].vendor == "sqlite" and not is_ready:
            messages.append(
                _warning(
                    "W004",
                    f"DATABASES[{alias!r}] is SQLite without write-ahead logging or immediate "
                    "transactions: workers will meet 'database is locked'.",
                    'Set OPTIONS = {"timeout": 20, "transaction_mode": "IMMEDIATE", '
                    '"init_command": "PRAGMA journal_mode=WAL;"}.',
                )
            )
    return messages


def _warning(check_id: str, message: str, hint: str) -> CheckMessage:
    return Warning(message, hint=hint, id=f"{PREFIX}.{check_id}")
