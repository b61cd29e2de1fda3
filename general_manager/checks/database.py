"""The databases: our tables and migrations, isolation, autocommit, timeouts, SQLite options."""

import sys
from collections.abc import Sequence
from typing import Any, Final

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.migrations.loader import MigrationLoader

from general_manager.check_messages import warning
from general_manager.conf import find_problems, get_workflow_settings
from general_manager.names import APP_LABEL
from general_manager.workflow.models import WorkflowHeartbeat
from general_manager.workflow.models.databases import aliases
from general_manager.workflow.workers.tick import keeps_rows_here

TIMEOUTS: Final[dict[str, dict[str, object]]] = {
    "postgresql": {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "tcp_user_timeout": 60_000,
        "options": "-c statement_timeout=600000",
    },
    "mysql": {"connect_timeout": 10, "read_timeout": 600, "write_timeout": 600},
}
"""Driver options that limit a wait, with suggested values."""


def check_tables(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """W009, E007, W018: our migrations are applied, the tables are ours, due work is done.

    Only with ``manage.py check --database``.
    """
    if sys.argv[1:2] == ["migrate"]:
        return []  # `migrate` runs the checks before it applies the migrations
    messages: list[CheckMessage] = []
    for alias in databases or ():
        if alias in aliases():
            messages += _check_migrations(alias) or _check_columns(alias)
    return messages or _check_timer(databases or ())


def _check_migrations(alias: str) -> list[CheckMessage]:
    loader = MigrationLoader(connections[alias])
    ours = {key for key in loader.graph.nodes if key[0] == APP_LABEL}
    missing = sorted(name for _, name in ours - set(loader.applied_migrations))
    if not missing:
        return []
    return [
        warning(
            "W009",
            f"Database {alias!r} lacks these migrations of {APP_LABEL}: {', '.join(missing)}.",
            f"Run manage.py migrate --database={alias}.",
        )
    ]


def _check_columns(alias: str) -> list[CheckMessage]:
    """A table of the same name may belong to another package with our app label."""
    connection = connections[alias]
    messages: list[CheckMessage] = []
    with connection.cursor() as cursor:
        there = connection.introspection.table_names(cursor)
        for model in apps.get_app_config(APP_LABEL).get_models():
            if model._meta.proxy:
                continue
            table = model._meta.db_table
            found: set[str] = set()
            if table in there:
                described = connection.introspection.get_table_description(cursor, table)
                found = {column.name for column in described}
            wanted = [str(one.column) for one in model._meta.local_fields]
            missing = [column for column in wanted if column not in found]
            if missing:
                messages.append(_not_ours(alias, table, missing))
    return messages


def _not_ours(alias: str, table: str, missing: list[str]) -> CheckMessage:
    return Error(
        f"Table {table!r} of database {alias!r} was not created by {APP_LABEL}'s migrations: it "
        f"lacks {', '.join(missing)}.",
        hint="Another package, or another version, with the same app label created it. "
        f"Rename or drop those tables and delete the rows of app {APP_LABEL!r} from "
        f"django_migrations, then run manage.py migrate --database={alias}.",
        id=f"{APP_LABEL}.E007",
    )


def _check_timer(databases: Sequence[str]) -> list[CheckMessage]:
    if not databases or any(problem.is_error for problem in find_problems()):
        return []
    try:
        if not keeps_rows_here():
            return []
    except ImproperlyConfigured:
        return []  # E004 or E005
    beats = WorkflowHeartbeat.objects.using(router.db_for_read(WorkflowHeartbeat))
    if beats.db not in databases or beats.filter(duty="tick").exists():
        return []
    return [
        warning(
            "W018",
            "WORKFLOW_ASYNC is off, and no process has ever processed due work.",
            "A web server processes retries, sleeps and timeouts from its first request on. "
            "Without one, run manage.py workflow_drain_outbox from cron.",
        )
    ]


def check_sqlite() -> list[CheckMessage]:
    """W004: several SQLite processes can write at once."""
    messages = []
    for alias in aliases():
        options = connections[alias].settings_dict.get("OPTIONS", {})
        is_ready = (
            options.get("transaction_mode") == "IMMEDIATE"
            and "wal" in str(options.get("init_command", "")).lower()
        )
        if connections[alias].vendor == "sqlite" and not is_ready:
            messages.append(
                warning(
                    "W004",
                    f"DATABASES[{alias!r}] is SQLite without write-ahead logging or immediate "
                    "transactions: workers will fail with 'database is locked'.",
                    'Set OPTIONS = {"timeout": 20, "transaction_mode": "IMMEDIATE", '
                    '"init_command": "PRAGMA journal_mode=WAL;"}.',
                )
            )
    return messages


def check_timeouts() -> list[CheckMessage]:
    """W017: a database server that stops answering must not block a worker indefinitely."""
    messages = []
    for alias in aliases():
        settings = connections[alias].settings_dict
        if not settings.get("HOST") or str(settings["HOST"]).startswith("/"):
            continue  # no network in between
        wanted = TIMEOUTS.get(connections[alias].vendor, {})
        missing = [name for name in wanted if name not in settings.get("OPTIONS", {})]
        if missing:
            example = ", ".join(f'"{name}": {wanted[name]!r}' for name in missing)
            messages.append(
                warning(
                    "W017",
                    f"DATABASES[{alias!r}]['OPTIONS'] has no {' and no '.join(missing)}: a server "
                    "that takes a query and never answers would block a worker indefinitely.",
                    f"Add there, with times that suit your longest statements: {example}.",
                )
            )
    return messages


def check_isolation() -> list[CheckMessage]:
    """W015: transactions must see what others have committed."""
    messages = []
    for alias in aliases():
        level = connections[alias].settings_dict.get("OPTIONS", {}).get("isolation_level")
        name = str(getattr(level, "name", level)).replace("_", " ").lower()
        if level is not None and name != "read committed":
            messages.append(
                warning(
                    "W015",
                    f"DATABASES[{alias!r}] has the isolation level {name!r}.",
                    "Use READ COMMITTED, Django's default. Under another level the renewal of a "
                    "lease and the handler's own commit conflict, so a handler that takes "
                    "longer than a third of its lease can never complete.",
                )
            )
    return messages


def check_time_zones() -> list[CheckMessage]:
    """W030: the database's clock is compared with what Django stores, so both must be in UTC."""
    return [
        warning(
            "W030",
            f"DATABASES[{alias!r}] has TIME_ZONE = {zone!r}: leases, delays and ages would be off "
            "by its distance from UTC.",
            "Remove TIME_ZONE, or keep general_manager's tables in a database without it. Your "
            "other tables can stay where they are.",
        )
        for alias in aliases()
        if (zone := connections[alias].settings_dict.get("TIME_ZONE")) not in {None, "UTC"}
        and connections[alias].vendor != "postgresql"  # whose times carry their zone
    ]


def check_autocommit() -> list[CheckMessage]:
    """W029: our statements outside transactions must be committed at once."""
    return [
        warning(
            "W029",
            f"DATABASES[{alias!r}] has AUTOCOMMIT = False: claims, checkpoints and outcomes of "
            "workflows are never committed.",
            "Set AUTOCOMMIT to True, Django's default. Code that manages its own transactions can "
            "use transaction.atomic() or a second alias of that database.",
        )
        for alias in aliases()
        if not connections[alias].settings_dict.get("AUTOCOMMIT", True)
    ]


def check_synchronous_commit() -> list[CheckMessage]:
    """W060: only PostgreSQL lets one commit not wait for the disk."""
    if get_workflow_settings().synchronous_commit:
        return []
    return [
        warning(
            "W060",
            f"WORKFLOW_SYNCHRONOUS_COMMIT is off, which has no effect on DATABASES[{alias!r}]: it "
            f"is {connections[alias].display_name}, where every commit waits for the disk.",
            "Remove the setting, or keep general_manager's tables on PostgreSQL.",
        )
        for alias in aliases()
        if connections[alias].vendor != "postgresql"
    ]
