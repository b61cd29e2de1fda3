"""What was reported, and what is in the tables, read by no means of the product's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

from general_manager.manager import DataChange
from general_manager.manager.signals import post_data_change
from general_manager.manager.trackers import (
    Tracker,
    add_tracker,
    plan_for,
    trackers,
    trackers_of,
)


@contextmanager
def reported() -> Iterator[list[DataChange]]:
    changes: list[DataChange] = []

    def hear(sender: Any, change: DataChange, using: str, **_: Any) -> None:
        assert connections[using].in_atomic_block
        changes.append(change)

    post_data_change.connect(hear)
    try:
        yield changes
    finally:
        post_data_change.disconnect(hear)


def restore(known: dict[Any, Tracker]) -> None:
    """Have just these classes tracked, and as they were."""
    trackers.clear()
    for one in known.values():
        add_tracker(one)
    plan_for.cache_clear()
    trackers_of.cache_clear()


def brief(changes: list[DataChange]) -> list[tuple[str, str]]:
    return [(one.action, one.manager) for one in changes]


def returns_old_values(using: str = "default") -> bool:
    """Whether the server returns a row's old values from its UPDATE."""
    connection: Any = connections[using]
    return bool(connection.vendor == "postgresql" and connection.pg_version >= 18_00_00)
