"""Deliveries whose commits did not wait for the disk, until their entries are settled.

A crash of the database may undo them while the worker lives on, which would settle their entries. A
crash ends every session: what the same session settles needs no question.
"""

from typing import Any, Final

from django.db import connections

from general_manager.escaping import get_logger
from general_manager.workflow.models import DeliveryStatus, WorkflowDeliveryAttempt

logger = get_logger(__name__)

DELIVERIES_UNDONE: Final = (
    "A crash of the database has undone %d deliveries, whose commits did not wait for the disk; "
    "delivering again"
)


class Unwaited:
    """What one chunk has delivered so."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._sessions: dict[tuple[int, str], Any] = {}
        """By entry and registration, the session of the database that committed it."""

    def note(self, entry_id: int, registration_id: str, session: Any) -> None:
        self._sessions[entry_id, registration_id] = session

    def find_undone(self) -> set[int]:
        """Entries of which a delivery is not there any more. No statement in the same session."""
        now = connections[self._using].connection
        asked = [mark for mark, session in self._sessions.items() if session is not now]
        if not asked:
            return set()
        rows = WorkflowDeliveryAttempt.objects.using(self._using).filter(
            outbox_id__in={entry for entry, _ in asked}, status=DeliveryStatus.COMPLETED
        )
        found = set(rows.values_list("outbox_id", "registration_id"))
        undone = [mark for mark in asked if mark not in found]
        if undone:
            logger.warning(DELIVERIES_UNDONE, len(undone))
        return {entry for entry, _ in undone}
