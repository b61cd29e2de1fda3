"""What the databases must have: our tables, and for SQLite the right options."""

import sys
from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage
from django.db import connections
from django.db.migrations.loader import MigrationLoader

from general_manager.checks.messages import PREFIX, warning
from general_manager.workflow.databases import aliases


def check_tables(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """W009: our migrations are applied. Only with ``manage.py check --database``."""
    if sys.argv[1:2] == ["migrate"]:
        return []  # it asks for checks before it does what this one would ask for
    return [message for alias in databases or () for message in _check_migrations(alias)]


def _check_migrations(alias: str) -> list[CheckMessage]:
    if alias not in aliases():
        return []
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
