"""The project's databases with an outbox: an event is stored in the database of its change."""

from typing import Final

from django.db import DatabaseError, connections, router

from general_manager.workflow.models import WorkflowOutbox

_found: Final[set[str]] = set()


def aliases() -> list[str]:
    """Databases that may have our tables, by the routers. Mirrors of another database have none."""
    return [
        one
        for one in connections
        if router.allow_migrate_model(one, WorkflowOutbox)
        and not connections.settings[one].get("TEST", {}).get("MIRROR")
    ]


def outboxes() -> list[str]:
    """Databases that do have our tables; an older database of the project may lack them.

    The default one for events always counts. So does one that cannot be reached, so that its
    failure is reported.
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
