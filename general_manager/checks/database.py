"""What the databases must have: our tables, and for SQLite the right options."""

import sys
from collections.abc import Sequence
from typing import Any, Final

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.migrations.loader import MigrationLoader

from general_manager.checks.messages import PREFIX, warning
from general_manager.conf import find_problems
from general_manager.workflow.databases import aliases
from general_manager.workflow.models import WorkflowHeartbeat
from general_manager.workflow.sweep import keeps_rows_here

TIMEOUTS: Final[dict[str, dict[str, object]]] = {
    "postgresql": {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "tcp_user_timeout": 60_000,
        "options": "-c statement_timeout=600000",
    },
    "mysql": {"connect_timeout": 10, "read_timeout": 600, "write_timeout": 600},
}
"""Options of the drivers that bound a wait, with values to begin with."""


def check_tables(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """W009, E007, W018: our migrations are applied, and the tables are ours; somebody does what is
    due. Only with ``manage.py check --database``.
    """
    if sys.argv[1:2] == ["migrate"]:
        return []  # it asks for checks before it does what this one would ask for
    messages: list[CheckMessage] = []
    for alias in databases or ():
        if alias in aliases():
            messages += _check_migrations(alias) or _check_columns(alias)
    return messages or _check_timer(databases or ())


def _check_migrations(alias: str) -> list[CheckMessage]:
    loader = MigrationLoader(connections[alias])
    ours = {key for key in loader.graph.nodes if key[0] == PREFIX}
    missing = sorted(name for _, name in ours - set(loader.applied_migrations))
    if not missing:
        return []
    return [
        warning(
            "W009",
            f"Database {alias!r} lacks migrations of {PREFIX}: {', '.join(missing)}.",
            f"Run manage.py migrate --database={alias}.",
        )
    ]


def _check_columns(alias: str) -> list[CheckMessage]:
    """A table of the same name may be another package's, whose app had our label."""
    connection = connections[alias]
    messages: list[CheckMessage] = []
    with connection.cursor() as cursor:
        there = connection.introspection.table_names(cursor)
        for model in apps.get_app_config(PREFIX).get_models():
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
        f"Table {table!r} of database {alias!r} is not the one that {PREFIX}'s migrations make: it "
        f"lacks {', '.join(missing)}.",
        hint="It was made by another package, or another version, whose app has the same label. "
        f"Rename or drop those tables and delete the rows of app {PREFIX!r} from "
        f"django_migrations, then run manage.py migrate --database={alias}.",
        id=f"{PREFIX}.E007",
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
            "WORKFLOW_ASYNC is off, and no process has ever looked for work that is due.",
            "Retries, sleeps and timeouts are done by a web server once it has had a request; or "
            "run manage.py workflow_drain_outbox from cron.",
        )
    ]


def check_sqlite() -> list[CheckMessage]:
    """W004: several processes can write at once."""
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
                    "transactions: workers will meet 'database is locked'.",
                    'Set OPTIONS = {"timeout": 20, "transaction_mode": "IMMEDIATE", '
                    '"init_command": "PRAGMA journal_mode=WAL;"}.',
                )
            )
    return messages


def check_timeouts() -> list[CheckMessage]:
    """W017: a server that stops answering does not hold a worker for good."""
    messages = []
    for alias in aliases():
        settings = connections[alias].settings_dict
        if not settings.get("HOST") or str(settings["HOST"]).startswith("/"):
            continue  # nothing lies in between
        wanted = TIMEOUTS.get(connections[alias].vendor, {})
        missing = [name for name in wanted if name not in settings.get("OPTIONS", {})]
        if missing:
            example = ", ".join(f'"{name}": {wanted[name]!r}' for name in missing)
            messages.append(
                warning(
                    "W017",
                    f"DATABASES[{alias!r}] has no {' and no '.join(missing)}: a server that takes "
                    "what it is sent and never answers would hold a worker for good.",
                    f"Add to its OPTIONS, with times that suit your longest statements: {example}.",
                )
            )
    return messages


def check_isolation() -> list[CheckMessage]:
    """W015: transactions see what others have committed."""
    messages = []
    for alias in aliases():
        level = connections[alias].settings_dict.get("OPTIONS", {}).get("isolation_level")
        name = str(getattr(level, "name", level)).replace("_", " ").lower()
        if level is not None and name != "read committed":
            messages.append(
                warning(
                    "W015",
                    f"DATABASES[{alias!r}] has the isolation level {name!r}.",
                    "Leave it at READ COMMITTED, Django's default: under another level the renewal "
                    "of a lease and the handler's own commit refuse each other, so what takes "
                    "longer than a third of its lease can never complete.",
                )
            )
    return messages


def check_autocommit() -> list[CheckMessage]:
    """W029: what a statement of ours writes is committed without another word."""
    return [
        warning(
            "W029",
            f"DATABASES[{alias!r}] has AUTOCOMMIT = False: claims, checkpoints and outcomes of "
            "workflows would never be committed.",
            "Leave AUTOCOMMIT at True, Django's default, and use transaction.atomic(), or a second "
            "alias of that database for code that manages its transactions itself.",
        )
        for alias in aliases()
        if not connections[alias].settings_dict.get("AUTOCOMMIT", True)
    ]
