"""The event ids that this process has seen, to ignore duplicates."""

from collections import OrderedDict
from threading import Lock
from typing import Any

from django.apps import apps
from django.db import connections, router, transaction

from general_manager.conf import is_configured
from general_manager.names import APP_LABEL


def home_of_events() -> str | None:
    """The database whose transactions an event belongs to by default.

    It is where events would be stored, so that local mode waits for the same commit as production.
    `None` without a project or a database.
    """
    if not is_configured() or not apps.models_ready:
        return None
    try:
        alias = router.db_for_write(apps.get_model(APP_LABEL, "WorkflowEventRecord"))
    except LookupError:  # a project that uses events without our tables
        alias = "default"
    return alias if alias in connections else None


class SeenEvents:
    """The latest *limit* ids; ids of an open transaction count until it is rolled back."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._for_now: dict[str, _Provisional] = {}
        self._lock = Lock()

    def __contains__(self, event_id: str) -> bool:
        with self._lock:
            return self._knows(event_id)

    def add(self, event_id: str) -> bool:
        """False if the id is known."""
        with self._lock:
            if self._knows(event_id):
                return False
            self._ids[event_id] = None
            if len(self._ids) > self._limit:
                self._ids.popitem(last=False)
            return True

    def add_for_now(self, event_id: str, using: str) -> bool:
        """`add`, but remove the id if the open transaction on *using* is rolled back."""
        with self._lock:
            if self._knows(event_id):
                return False
            provisional = _Provisional(using, lambda: self._keep(event_id))
            self._for_now[event_id] = provisional
        provisional.register()
        return True

    def _keep(self, event_id: str) -> None:
        with self._lock:
            self._for_now.pop(event_id, None)
        self.add(event_id)

    def _knows(self, event_id: str) -> bool:
        if event_id in self._ids:
            return True
        provisional = self._for_now.get(event_id)
        if provisional is None:
            return False
        if provisional.may_commit():
            return True
        # Rolled back, like any others that a long-lived process has accumulated.
        for known, one in list(self._for_now.items()):
            if not one.may_commit():
                del self._for_now[known]
        return False


class _Provisional:
    """Holds if a transaction commits, which is tracked by an on-commit callback."""

    def __init__(self, using: str, keep: Any) -> None:
        self._using = using
        self._connection: Any = connections[using]
        self._keep = keep
        self._is_registered = False

    def register(self) -> None:
        transaction.on_commit(self._keep, using=self._using, robust=True)
        self._is_registered = True

    def may_commit(self) -> bool:
        """A rollback, also of a savepoint, removes the callback from the connection's list."""
        callbacks = self._connection.run_on_commit
        return not self._is_registered or any(one[1] is self._keep for one in callbacks)
