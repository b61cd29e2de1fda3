"""What removing the app would lose, what blocks it, and what migrations leave behind."""

from dataclasses import dataclass, field
from typing import Any, Final

from django.apps import apps
from django.db import connections, router
from django.db.migrations.loader import MigrationLoader

from general_manager.names import APP_LABEL
from general_manager.workflow.engine import ACTIVE_STATES
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from general_manager.workflow.models.databases import aliases
from general_manager.workflow.models.sql.claims import OutboxStatus
from general_manager.workflow.transport.base import TICK

UNDELIVERED: Final = (OutboxStatus.PENDING, OutboxStatus.CLAIMED, OutboxStatus.FAILED)


@dataclass(frozen=True, slots=True)
class Losses:
    """The unfinished work in the tables of one database."""

    undelivered: int = 0
    dead_letters: int = 0
    executions: dict[str, int] = field(default_factory=dict)
    """Number of executions by active state."""

    def __bool__(self) -> bool:
        return bool(self.undelivered or any(self.executions.values()))


def find_losses() -> dict[str, Losses]:
    """What dropping our tables would lose, by database."""
    return {alias: _losses(alias) for alias in aliases() if _has_tables(alias)}


def _has_tables(alias: str) -> bool:
    return WorkflowOutbox._meta.db_table in connections[alias].introspection.table_names()


def _losses(alias: str) -> Losses:
    entries = WorkflowOutbox.objects.using(alias)
    executions = WorkflowExecutionRecord.objects.using(alias)
    return Losses(
        entries.filter(status__in=UNDELIVERED).count(),
        entries.filter(status=OutboxStatus.DEAD_LETTER).count(),
        {str(state): executions.filter(state=state).count() for state in ACTIVE_STATES},
    )


def find_dependants(alias: str) -> list[str]:
    """The project's migrations that ``migrate general_manager zero`` would reverse with ours."""
    loader = MigrationLoader(connections[alias])
    ours = [key for key in loader.graph.nodes if key[0] == APP_LABEL]
    plan = {key for node in ours for key in loader.graph.backwards_plan(node)}
    applied = plan & set(loader.applied_migrations)
    return sorted(f"{app}.{name}" for app, name in applied if app != APP_LABEL)


def find_leftovers() -> dict[str, int]:
    """Rows about our app in other apps' tables; they remain after our tables are dropped."""
    return {name: rows.count() for name, rows in _leftovers().items() if rows.exists()}


def forget_leftovers() -> dict[str, int]:
    """Delete the leftovers. Returns how many there were."""
    found = find_leftovers()
    for rows in _leftovers().values():
        rows.delete()
    return found


def _leftovers() -> dict[str, Any]:
    rows: dict[str, Any] = {}
    if apps.is_installed("django.contrib.auth"):
        permissions = apps.get_model("auth", "Permission")
        rows["permissions"] = _of(permissions).filter(content_type__app_label=APP_LABEL)
    if apps.is_installed("django.contrib.contenttypes"):
        types = apps.get_model("contenttypes", "ContentType")
        rows["content types"] = _of(types).filter(app_label=APP_LABEL)
    if apps.is_installed("django_celery_beat"):
        entries: Any = apps.get_app_config("django_celery_beat").get_model("PeriodicTask")
        rows["entries in Beat's schedule"] = _of(entries).filter(task=TICK)
    return rows


def _of(model: Any) -> Any:
    return model._default_manager.using(router.db_for_write(model))
