"""Which of the project's databases hold an outbox: a change and its event share one."""

from typing import Final

from django.db import DatabaseError, connections, router

from general_manager.workflow.models import WorkflowOutbox

_found: Final[set[str]] = set()


def aliases() -> list[str]:
    """Those that may hold an outbox; replicas, which mirror another, do not."""
    return [
        one
        for one in connections
        if router.allow_migrate_model(one, WorkflowOutbox)
        and not connections.settings[one].get("TEST", {}).get("MIRROR")
    ]


def outboxes() -> list[str]:
    """Those that do hold one: a project may have older databases beside them, without our tables.

    The one where they live by default is not asked. One that cannot be asked counts, so that its
    trouble is seen.
    """
    home = router.db_for_write(WorkflowOutbox)
    return [one for one in aliases() if one == home or one in _found or _has_tables(one)]


def _has_tables(alias: str) -> bool:
    connection = connections[alias]
    try:
        with connection.cursor() as cursor:
            tables = connection.introspection.table_names(cursor)
    except DatabaseError:
        return True
    if WorkflowOutbox._meta.db_table not in tables:
        return False
    _found.add(alias)
    return True
