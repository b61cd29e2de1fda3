"""The outbox: undelivered events, and which workers have claimed them.

``available_at`` does all timing: when an entry is due, when it is retried, when the lease of its
claim expires. It is NULL once the entry is settled.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.db import connections, models
from django.db.models import Case, Exists, F, OuterRef, Q, Value, When
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.core.connections import persist
from general_manager.workflow.core.ids import MAX_QUEUE_LENGTH
from general_manager.workflow.events import ordering_key_of
from general_manager.workflow.models.event import WorkflowEventRecord
from general_manager.workflow.models.history import WorkflowHistory
from general_manager.workflow.models.lane import Place
from general_manager.workflow.models.pruning import prune_alone, prune_referred
from general_manager.workflow.models.sql.addresses import (
    ENTRY_FIELDS,
    STORED_FIELDS,
    Addressed,
    Elsewhere,
    rows_in_turn,
    values_of,
)
from general_manager.workflow.models.sql.claims import (
    Claim,
    OutboxStatus,
    claim_at_once,
    claim_surely,
    seen_now,
    select_and_claim,
)
from general_manager.workflow.models.sql.columns import (
    DatabaseNow,
    PartialIndex,
    Utf8CharField,
    from_now,
)
from general_manager.workflow.models.sql.commits import bookkeeping, update_without_waiting
from general_manager.workflow.models.sql.deletes import Family, references
from general_manager.workflow.models.sql.due import ANY_AGE, Share
from general_manager.workflow.models.sql.inserts import (
    insert_both,
    insert_new,
    rows_per_statement,
)


class OutboxQuerySet(models.QuerySet["WorkflowOutbox"]):
    """The status transitions of outbox entries."""

    def enqueue_many(self, events: Iterable[Addressed]) -> dict[str, int]:
        """Store each event with a new id, and an entry to deliver it; returns these by event id.

        In the caller's transaction: two statements for every few hundred events, on PostgreSQL one
        for a single event; one more for deliveries in order, which take their places here.
        """
        given: dict[str, Addressed] = {}
        for one in events:
            given.setdefault(one.event.event_id, one)
        if len(given) == 1 and connections[self.db].vendor == "postgresql":
            ((event, *address),) = given.values()
            entry = insert_both(
                WorkflowEventRecord,
                dict(zip(STORED_FIELDS, values_of(event), strict=True)),
                self.model,
                dict(zip(ENTRY_FIELDS[1:], address, strict=True)),
                self.db,
                by="event",
            )
            new = {} if entry is None else {event.event_id: entry}
        else:
            new = self._enqueue_each(given)
        in_order = [one for one in given.values() if one.lanes and one.event.event_id in new]
        if in_order:
            self._deliveries().queue_in_lanes(
                Place(new[one.event.event_id], name, str(ordering_key_of(one.event)))
                for one in in_order
                for name in one.lanes or ()
            )
        return new

    def _enqueue_each(self, given: dict[str, Addressed]) -> dict[str, int]:
        events = [one.event for one in given.values()]
        fields, rows = rows_in_turn(WorkflowEventRecord, events, self.db)
        stored = self._insert_rows(WorkflowEventRecord, fields, rows)
        # In the order of publication, in which a chunk delivers them.
        entries = [[stored[one], *each[1:]] for one, each in given.items() if one in stored]
        new = self._insert_rows(self.model, ENTRY_FIELDS, entries)
        return {one: new[event] for one, event in stored.items()}

    def _insert_rows(
        self, model: type[models.Model], fields: tuple[str, ...], rows: list[list[Any]]
    ) -> dict[Any, int]:
        """The keys of new rows by their first field, which is unique."""
        size = rows_per_statement(len(STORED_FIELDS), self.db)
        found: dict[Any, int] = {}
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            inserted = insert_new(model, fields, chunk, self.db, unless=fields[:1])
            found.update((first, key) for key, first in inserted)
        return found

    def due(self) -> "OutboxQuerySet":
        return self.filter(available_at__lte=DatabaseNow())

    def claim(
        self,
        limit: int,
        *,
        lease: timedelta,
        by: str = "",
        begin: int = 0,
        share: Share = ANY_AGE,
    ) -> Claim:
        """Claim up to *limit* due entries for *lease*; one statement if none is due.

        The first *begin* entries are marked as started, so a death of the caller counts as a
        crash. Entries whose last worker died after it had started them are in `Claim.alone`.
        """
        token = uuid4().hex
        is_at_once = connections[self.db].vendor == "postgresql"
        take_due = claim_at_once if is_at_once else select_and_claim
        return claim_surely(
            self.db,
            lambda: take_due(self, token, limit, lease, by=by, begin=begin, share=share),
            lambda: self._claimed(token),
        )

    def _claimed(self, token: str) -> Claim | None:
        held = self.filter(claim_token=token, status=OutboxStatus.CLAIMED).order_by("pk")
        rows = list(held.values_list("pk", "deliver_alone", "started"))
        if not rows:
            return None
        return Claim(
            token,
            tuple(key for key, is_alone, _ in rows if not is_alone),
            tuple(key for key, is_alone, _ in rows if is_alone),
            frozenset(key for key, _, is_begun in rows if is_begun),
        )

    def claim_events(
        self, event_ids: Collection[str], *, lease: timedelta, by: str = ""
    ) -> tuple[str, list[int]]:
        """Claim the free entries of these events, due or not. Returns the token and the keys."""
        token = uuid4().hex
        free = (OutboxStatus.PENDING, OutboxStatus.FAILED)
        entries = self.filter(event__event_id__in=event_ids)
        taken = entries.filter(status__in=free).update(
            status=OutboxStatus.CLAIMED,
            claim_token=token,
            claimed_by=by[:255],
            claimed_at=DatabaseNow(),
            available_at=from_now(lease),
            started=False,
        )
        if not taken:
            return token, []
        ours = self.filter(claim_token=token, event__event_id__in=event_ids)
        return token, list(ours.order_by("pk").values_list("pk", flat=True))

    def held(self, token: str) -> "OutboxQuerySet":
        return self.filter(claim_token=token, status=OutboxStatus.CLAIMED)

    def begin(
        self,
        token: str,
        keys: Collection[int],
        *,
        lease: timedelta,
        own: str | None = None,
        is_seen: bool = True,
    ) -> int:
        """Mark *keys* as started by a worker, whose death counts from now on, and renew the lease.

        *own*, a fresh token, replaces the token of the claim: a worker that lost the response
        finds its entries by it, and a duplicate message starts nothing. *is_seen* is false while
        the publisher's transaction is open: an event is not in the mailbox before its commit.
        """
        new = own or token
        rows = self.held(token).filter(pk__in=keys, started=False)

        def take() -> int:
            values = {"started": True, "claim_token": new, "available_at": from_now(lease)}
            values |= seen_now() if is_seen else {}
            begun = update_without_waiting(rows, **values)
            return begun or (self.held(own).count() if own else 0)

        return persist(self.db, take)

    def renew(self, token: str, keys: Collection[int], *, lease: timedelta) -> int:
        """Extend the lease; skips rows that are locked at the moment."""
        with bookkeeping(self.db) as update:
            rows = self.held(token).filter(pk__in=keys).select_for_update(skip_locked=True)
            free = list(rows.values_list("pk", flat=True))
            return update(self.held(token).filter(pk__in=free), available_at=from_now(lease))

    def release(self, token: str, keys: Collection[int], **more: Any) -> int:
        """Release entries that were not started: they are due at once for any worker."""
        values = {"status": OutboxStatus.PENDING, "claim_token": None, "started": False, **more}
        ours = self.held(token).filter(pk__in=keys)
        return update_without_waiting(ours, available_at=DatabaseNow(), **values)

    def requeue(self) -> int:
        """Any status but claimed to pending and due; its age counts from now."""
        return self.exclude(status=OutboxStatus.CLAIMED).update(
            status=OutboxStatus.PENDING,
            available_at=DatabaseNow(),
            undelivered_since=DatabaseNow(),
            settled_at=None,
            unwanted_by=None,
            visits=F("visits") + 1,  # so that its recorded deliveries are read
        )

    def release_claims(self) -> int:
        """Take claimed entries from their workers, whose further writes are refused."""
        return self.filter(status=OutboxStatus.CLAIMED).update(
            status=OutboxStatus.PENDING,
            claim_token=None,
            available_at=DatabaseNow(),
            started=False,
            visits=F("visits") + 1,
        )

    def settle(
        self,
        token: str,
        *,
        processed: Collection[int] = (),
        dead: Collection[int] = (),
        later: Mapping[int, timedelta] | None = None,
        elsewhere: Mapping[int, Elsewhere] | None = None,
    ) -> int:
        """Write the outcomes of entries that the claim still holds; returns how many it did.

        Those *elsewhere* are due in another queue, after a delay.

        Their deliveries are recorded already: if a crash of the database undoes a settlement, it
        is repeated when the lease expires, and no handler is called again.
        """
        held = self.held(token)
        settled = 0
        for status, keys in (
            (OutboxStatus.PROCESSED, processed),
            (OutboxStatus.DEAD_LETTER, dead),
        ):
            if keys:
                settled += update_without_waiting(
                    held.filter(pk__in=keys),
                    status=status,
                    claim_token=None,
                    available_at=None,
                    settled_at=DatabaseNow(),
                    deliver_alone=False,
                )
        for key, delay in (later or {}).items():
            settled += update_without_waiting(
                held.filter(pk=key),
                status=OutboxStatus.FAILED,
                claim_token=None,
                available_at=from_now(delay),
                visits=F("visits") + 1,
                deliver_alone=False,
            )
        for key, (queue, delay, unwanted_by) in (elsewhere or {}).items():
            settled += update_without_waiting(
                held.filter(pk=key),
                status=OutboxStatus.FAILED if delay else OutboxStatus.PENDING,
                queue=queue,
                unwanted_by=list(unwanted_by) or None,
                claim_token=None,
                available_at=from_now(delay),
                visits=F("visits") + 1,
                deliver_alone=False,
            )
        return settled

    def prunable(self, older_than: timedelta, *, include_failed: bool = False) -> "OutboxQuerySet":
        """Entries settled longer ago than that; dead letters only with *include_failed*."""
        settled = (OutboxStatus.PROCESSED,)
        statuses = (*settled, OutboxStatus.DEAD_LETTER) if include_failed else settled
        old = self.filter(status__in=statuses, settled_at__lt=from_now(-older_than))
        queued = self._deliveries().filter(outbox_id=OuterRef("pk"), in_lane=True)
        return old.exclude(Exists(queued))

    def mark_dead(self) -> int:
        """Processed to dead letter, of those with a dead delivery; locks each, whatever it is."""
        dead = self._deliveries().dead().filter(outbox_id=OuterRef("pk"))
        is_dead = Q(Exists(dead), status=OutboxStatus.PROCESSED)
        dead_letter = When(is_dead, then=Value(OutboxStatus.DEAD_LETTER))
        status = Case(dead_letter, default=F("status"), output_field=Utf8CharField())
        return self.update(status=status)

    def _deliveries(self) -> Any:
        deliveries: Any = self.model._meta.get_field("deliveries")
        return deliveries.related_model._default_manager.using(self.db)

    def family(self) -> Family:
        deliveries: Any = self.model._meta.get_field("deliveries")
        event: Any = self.model._meta.get_field("event")
        tables = {
            event.related_model: "outbox",
            self.model: "pk",
            deliveries.related_model: "outbox",
            WorkflowHistory: "delivery__outbox",
        }
        return Family(event.related_model, "outbox", tables)

    def prune(self, limit: int) -> int:
        """Delete up to *limit* of these, their events, deliveries and history; returns how many.

        One short transaction. Skips rows that are locked at the moment, for example by a requeue,
        and rows that are kept by rows of the project.
        """
        family = self.family()
        if found := references(family, self.db):
            return prune_referred(self, limit, family, found)
        return prune_alone(self, limit, family)


class WorkflowOutbox(models.Model):
    """The delivery of one event to all its handlers: due, claimed or settled."""

    #: The event to deliver; each event has one entry.
    event = models.OneToOneField(
        WorkflowEventRecord, on_delete=models.CASCADE, related_name="outbox"
    )
    #: One of `OutboxStatus`; changed by the verbs of `OutboxQuerySet` only.
    status = Utf8CharField(max_length=12, choices=OutboxStatus, db_default=OutboxStatus.PENDING)
    #: When it is due: at once, after a delay, or when its lease expires. NULL if it is settled.
    available_at = models.DateTimeField(null=True, db_default=DatabaseNow())
    #: When it was stored or requeued; the age of the backlog counts from here.
    undelivered_since = models.DateTimeField(db_default=DatabaseNow())
    #: Ids of the registrations that matched when it was stored; written by `enqueue_many`.
    expected_registrations = models.JSONField(default=list)
    #: Queue of the registration to deliver to next; empty for the project's own routing.
    queue = Utf8CharField(max_length=MAX_QUEUE_LENGTH, db_default="")
    #: Ids of registrations of earlier queues that did not want the event; NULL for none. So that
    #: it does not go from queue to queue indefinitely.
    unwanted_by = models.JSONField(null=True)
    #: Ids of the registrations that get it in order, each with its queue; NULL for none. Their
    #: deliveries were queued by `enqueue_many`, and are not the entry's: see `WorkflowLane`.
    lanes = models.JSONField(null=True)
    #: How often it became due again: by a retry, a requeue or a released claim.
    visits = models.PositiveIntegerField(db_default=0)
    #: Whether its last worker died during it: deliver it in a chunk of its own. Written by `claim`.
    deliver_alone = models.BooleanField(db_default=False)
    #: Whether its worker has started on it, so that its death counts. Written by `claim`, `begin`.
    started = models.BooleanField(db_default=False)
    #: Token of the current claim; NULL while it is not claimed.
    claim_token = Utf8CharField(max_length=32, null=True)
    #: Host, process and thread of the last claim, for people.
    claimed_by = Utf8CharField(max_length=255, db_default="")
    #: When it was last claimed.
    claimed_at = models.DateTimeField(null=True)
    #: When it was first claimed after its event was committed; waits look back to such times.
    seen_at = models.DateTimeField(null=True)
    #: `seen_at`, if that was more than `SEEN_LATE` after it was stored; NULL for nearly all.
    seen_late_at = models.DateTimeField(null=True)
    #: When it was processed or became a dead letter; retention counts from here. NULL until then.
    settled_at = models.DateTimeField(null=True)

    objects = OutboxQuerySet.as_manager()

    class Meta:
        verbose_name = _("outbox entry")
        verbose_name_plural = _("outbox")
        default_permissions = ("view",)
        permissions = (("drain_outbox", _("Can deliver due events now and release claims")),)
        indexes = (
            PartialIndex(
                fields=["queue", "available_at"],
                condition=Q(available_at__isnull=False),
                name="gm_outbox_due",
            ),
            PartialIndex(
                fields=["status", "settled_at"],  # what retention asks for
                condition=Q(settled_at__isnull=False),
                name="gm_outbox_settled",
            ),
            PartialIndex(  # where a search for events begins
                fields=["seen_late_at"],
                condition=Q(seen_late_at__isnull=False),
                name="gm_outbox_late",
            ),
        )

    def __str__(self) -> str:
        return f"{self.status}: event {self.event_id}"

    @property
    def is_fresh(self) -> bool:
        """Whether no delivery was tried yet, so that there are no recorded deliveries to read."""
        return self.visits == 0 and not self.deliver_alone
