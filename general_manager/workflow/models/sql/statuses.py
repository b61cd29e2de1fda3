"""How a delivery may stand."""

from typing import Any, Final

from django.db import models


class DeliveryStatus(models.TextChoices):
    """How the delivery of one event to one registration stands."""

    QUEUED = "queued"
    """It waits in its lane for the events before it; or its pause has ended, and it is due."""
    PAUSED = "paused"
    """The registration is paused; the handler is called when it is unpaused."""
    RUNNING = "running"
    """A worker is calling the handler."""
    COMPLETED = "completed"
    """The handler returned."""
    FAILED = "failed"
    """The handler raised, and will be called again."""
    DEAD_LETTER = "dead_letter"
    """The handler failed for good; an operator can requeue or discard it."""
    DISCARDED = "discarded"
    """An operator decided that the handler never gets the event."""


SETTLED = (DeliveryStatus.COMPLETED, DeliveryStatus.DEAD_LETTER, DeliveryStatus.DISCARDED)
UNDER_WAY = (DeliveryStatus.QUEUED, DeliveryStatus.RUNNING, DeliveryStatus.FAILED)
AFRESH: Final[dict[str, Any]] = {
    "attempts": 0,
    "crashes": 0,
    "first_failed_at": None,
    "available_at": None,
    "finished_at": None,
}
"""With a new retry budget."""
