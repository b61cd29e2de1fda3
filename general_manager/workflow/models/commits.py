"""Commits that need not wait for the disk."""

from django.db import connections


def without_waiting(using: str) -> str:
    """What to put behind a RETURNING list, where a crash of the database may undo the statement.

    Its own transaction then commits without waiting for the disk. PostgreSQL writes commits to
    disk in order: whatever later transaction survives a crash, this one does too. Empty inside
    a caller's transaction, which must not lose that promise, and on other databases.
    """
    connection = connections[using]
    if connection.vendor == "postgresql" and connection.get_autocommit():
        # Asked once a statement, not once a row; and forgotten with the transaction, for poolers.
        return ", (SELECT set_config('synchronous_commit', 'off', true))"
    return ""
