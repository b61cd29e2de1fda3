"""What the entries of a chunk came to, until it is written."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

from django.db.models import F

from general_manager.workflow.models.outbox import OutboxQuerySet
from general_manager.workflow.models.parking.entries import Parking
from general_manager.workflow.models.sql.addresses import Elsewhere


@dataclass(slots=True)
class Settlement:
    """The outcomes of entries, by their keys; each entry has one."""

    processed: list[int] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    later: dict[int, timedelta] = field(default_factory=dict)
    elsewhere: dict[int, Elsewhere] = field(default_factory=dict)
    parked: dict[int, Parking] = field(default_factory=dict)
    """Not written by `write`: the caller parks them."""

    def visit_again(self, keys: Collection[int], delay: timedelta) -> None:
        """Have these due after *delay* at the latest, whatever else they came to."""
        for key in keys:
            self.later[key] = min(self.later.get(key, delay), delay)
            self.parked.pop(key, None)
            self.elsewhere.pop(key, None)
        self.processed = [key for key in self.processed if key not in keys]
        self.dead = [key for key in self.dead if key not in keys]

    def write(self, entries: OutboxQuerySet, token: str) -> None:
        entries.settle(
            token,
            processed=self.processed,
            dead=self.dead,
            later=self.later,
            elsewhere=self.elsewhere,
        )

    def leave(self, entries: OutboxQuerySet, token: str) -> None:
        """Release all of them, for a worker to settle; nothing is left here to be written."""
        every = (self.processed, self.dead, self.later, self.elsewhere, self.parked)
        keys = [key for outcomes in every for key in outcomes]
        entries.release(token, keys, visits=F("visits") + 1)
        for outcomes in every:
            outcomes.clear()
