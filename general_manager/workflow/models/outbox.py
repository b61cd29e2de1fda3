"""The outbox: which events are still owed to somebody, and who is at work on them.

``available_at`` does all timing: when an entry is due, when it may be tried again, when the lease
of its claim ends. It is NULL once nobody needs to look at the entry any more.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.db import models, transaction
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.connections import persist
from general_manager.workflow.events import WorkflowEvent, subject_of
from general_manager.workflow.models.claiming import OutboxStatus
from general_manager.workflow.models.columns import DatabaseNow, OwedIndex, Utf8CharField, in_
from general_manager.workflow.models.event import WorkflowEventRecord
from general_manager.workflow.models.inserts import insert_new, rows_per_statement
from general_manager.workflow.models.pruning import PruningEntries

EVENT_FIELDS = (
    "event_id", "event_type", "event_name", "source", "payload", "metadata", "occurred_at",
)  # fmt: skip
ENTRY_FIELDS = ("event", "owed_to")


def _values_of(event: WorkflowEvent) -> list[Any]:
    return [*(getattr(event, name) for name in EVENT_FIELDS), subject_of(event.payload)]


class OutboxQuerySet(PruningEntries["WorkflowOutbox"]):
    def enqueue_many(self, events: Iterable[tuple[WorkflowEvent, list[str]]]) -> set[str]:
        """Store and owe each event whose id is not known; returns the ids that were new.

        Two statements for each few hundred events, in the caller's transaction.
        """
        owed: dict[str, tuple[WorkflowEvent, list[str]]] = {}
        for event, owed_to in events:
            owed.setdefault(event.event_id, (event, owed_to))
        # In the order of their ids: of two who store the same events, one waits for the other.
        rows = [_values_of(owed[one][0]) for one in sorted(owed)]
        stored: dict[str, int] = {}
        for chunk in self._chunks(rows):
            inserted = insert_new(
                WorkflowEventRecord,
                (*EVENT_FIELDS, "subject"),
                chunk,
                self.db,
                unless=("event_id",),
            )
            stored.update((event_id, key) for key, event_id in inserted)
        # In the order in which they were published, in which a chunk delivers them.
        entries = [[stored[one], owed_to] for one, (_, owed_to) in owed.items() if one in stored]
        for chunk in self._chunks(entries):
            insert_new(self.model, ENTRY_FIELDS, chunk, self.db, unless=("event",))
        return set(stored)

    def _chunks(self, rows: list[list[Any]]) -> Iterator[list[list[Any]]]:
        size = rows_per_statement(len(EVENT_FIELDS) + 1, self.db)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def claim_events(
        self, event_ids: Collection[str], *, lease: timedelta, by: str = ""
    ) -> tuple[str, list[int]]:
        """Take the entries of these events, due or not, that no worker has: a token, their keys."""
        token = uuid4().hex
        free = (OutboxStatus.PENDING, OutboxStatus.FAILED)
        entries = self.filter(event__event_id__in=event_ids)
        taken = entries.filter(status__in=free).update(
            status=OutboxStatus.CLAIMED,
            claim_token=token,
            claimed_by=by[:255],
            claimed_at=DatabaseNow(),
            available_at=in_(lease),
            begun=False,
        )
        if not taken:
            return token, []
        ours = self.filter(claim_token=token, event__event_id__in=event_ids)
        return token, list(ours.order_by("pk").values_list("pk", flat=True))

    def held(self, token: str) -> "OutboxQuerySet":
        return self.filter(claim_token=token, status=OutboxStatus.CLAIMED)

    def begin(
        self, token: str, keys: Collection[int], *, lease: timedelta, own: str | None = None
    ) -> int:
        """A worker starts on *keys*: from here, its death counts. Renews the lease.

        From now on *own*, a fresh token, proves the claim: so a worker that lost its connection
        meanwhile finds what it has begun, and a message that comes twice begins nothing.
        """
        new = own or token
        rows = self.held(token).filter(pk__in=keys, begun=False)

        def take() -> int:
            values = {"begun": True, "claim_token": new, "available_at": in_(lease)}
            return rows.update(**values) or (self.held(own).count() if own else 0)

        return persist(self.db, take)

    def renew(self, token: str, keys: Collection[int], *, lease: timedelta) -> int:
        """Push the end of the lease on; passes over rows that somebody has locked just now."""
        with transaction.atomic(using=self.db):
            rows = self.held(token).filter(pk__in=keys).select_for_update(skip_locked=True)
            free = list(rows.values_list("pk", flat=True))
            return self.held(token).filter(pk__in=free).update(available_at=in_(lease))

    def release(self, token: str, keys: Collection[int]) -> int:
        """Give back what was not started."""
        return (
            self.held(token)
            .filter(pk__in=keys)
            .update(
                status=OutboxStatus.PENDING,
                claim_token=None,
                available_at=DatabaseNow(),
                begun=False,
            )
        )

    def owe_again(self) -> int:
        """From any status but claimed: due now, and owed from now on."""
        return self.exclude(status=OutboxStatus.CLAIMED).update(
            status=OutboxStatus.PENDING,
            available_at=DatabaseNow(),
            owed_since=DatabaseNow(),
            settled_at=None,
            passes=F("passes") + 1,  # so that what is recorded of it is looked up
        )

    def release_claims(self) -> int:
        """Take claimed entries from whoever has them; what those still do is rolled back."""
        return self.filter(status=OutboxStatus.CLAIMED).update(
            status=OutboxStatus.PENDING,
            claim_token=None,
            available_at=DatabaseNow(),
            begun=False,
            passes=F("passes") + 1,
        )

    def settle(
        self,
        token: str,
        *,
        processed: Collection[int] = (),
        dead: Collection[int] = (),
        later: Mapping[int, timedelta] | None = None,
    ) -> int:
        """Write the outcome of entries that are still held; returns how many were."""
        held = self.held(token)
        settled = 0
        for status, keys in (
            (OutboxStatus.PROCESSED, processed),
            (OutboxStatus.DEAD_LETTER, dead),
        ):
            if keys:
                settled += held.filter(pk__in=keys).update(
                    status=status,
                    claim_token=None,
                    available_at=None,
                    settled_at=DatabaseNow(),
                    alone=False,
                )
        for key, delay in (later or {}).items():
            settled += held.filter(pk=key).update(
                status=OutboxStatus.FAILED,
                claim_token=None,
                available_at=in_(delay),
                passes=F("passes") + 1,
                alone=False,
            )
        return settled


class WorkflowOutbox(models.Model):
    """That an event is owed to handlers, and how far that has come."""

    event = models.OneToOneField(
        WorkflowEventRecord, on_delete=models.CASCADE, related_name="outbox"
    )
    status = Utf8CharField(max_length=12, choices=OutboxStatus, db_default=OutboxStatus.PENDING)
    available_at = models.DateTimeField(null=True, db_default=DatabaseNow())
    owed_since = models.DateTimeField(db_default=DatabaseNow())
    owed_to = models.JSONField(default=list)
    passes = models.PositiveIntegerField(db_default=0)
    alone = models.BooleanField(db_default=False)
    begun = models.BooleanField(db_default=False)
    claim_token = Utf8CharField(max_length=32, null=True)
    claimed_by = Utf8CharField(max_length=255, db_default="")
    claimed_at = models.DateTimeField(null=True)
    settled_at = models.DateTimeField(null=True)

    objects = OutboxQuerySet.as_manager()

    class Meta:
        verbose_name = _("outbox entry")
        verbose_name_plural = _("outbox")
        default_permissions = ("view",)
        permissions = (("drain_outbox", _("Can deliver what is owed now, and release claims")),)
        indexes = (
            OwedIndex(
                fields=["available_at"],
                condition=Q(available_at__isnull=False),
                name="gm_outbox_owed",
            ),
            OwedIndex(
                fields=["status", "settled_at"],  # what retention asks for
                condition=Q(settled_at__isnull=False),
                name="gm_outbox_settled",
            ),
        )

    def __str__(self) -> str:
        return f"{self.status}: event {self.event_id}"

    @property
    def is_fresh(self) -> bool:
        """Nobody has tried to deliver it, so nothing can be recorded of it."""
        return self.passes == 0 and not self.alone
