"""Bring what the outbox owes to the handlers that want it."""

from collections.abc import Sequence
from datetime import timedelta
from random import uniform
from time import monotonic
from typing import Final

from django.db import DatabaseError

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.actors import whereabouts
from general_manager.workflow.databases import outboxes
from general_manager.workflow.delivery import Delivery, Outcome
from general_manager.workflow.dispatch import deliver_now
from general_manager.workflow.event_registry import EventRegistry, get_event_registry
from general_manager.workflow.leases import keeping
from general_manager.workflow.messages import drain_outbox_soon, gathered_messages
from general_manager.workflow.models import (
    Claim,
    WorkflowDeliveryAttempt,
    WorkflowOutbox,
)
from general_manager.workflow.models.delivery import SETTLED
from general_manager.workflow.models.outbox import EVENT_FIELDS

logger = get_logger(__name__)

EVENT_COLUMNS: Final = (*EVENT_FIELDS, "published_at")

STRANGER_REST: Final = 15.0
"""Seconds, about, after which an entry is shown to another process because this one does not
know a registration that it is owed to."""


TROUBLE_REST: Final = timedelta(seconds=30)


def drain(
    using: str | None = None, *, hand_on: bool | None = None, limit: int | None = None
) -> int:
    """Claim and deliver until nothing is due; returns how many entries were claimed.

    Of each batch this process delivers the first chunk itself and hands the others to workers;
    without *hand_on*, or without a broker, it delivers all of them. By default it hands on where
    `WORKFLOW_ASYNC` is on. *limit* bounds the claims.
    """
    if hand_on is None:
        hand_on = get_workflow_settings().run_async
    claimed = 0
    for alias in [using] if using else outboxes():
        try:
            claimed += _drain_one(
                alias, None if limit is None else limit - claimed, hand_on=hand_on
            )
        except DatabaseError:
            if using:
                raise
            logger.exception("The outbox of database %r could not be drained", alias)
    return claimed


def _drain_one(alias: str, limit: int | None, *, hand_on: bool) -> int:
    claimed = 0
    settings = get_workflow_settings()
    while limit is None or claimed < limit:
        size = settings.outbox_batch_size
        claim = WorkflowOutbox.objects.using(alias).claim(
            size if limit is None else min(size, limit - claimed),
            lease=settings.outbox_claim_ttl,
            by=whereabouts(),
            begin=settings.outbox_process_chunk_size,
        )
        if not claim.size:
            break
        claimed += claim.size
        _deliver_claim(alias, claim, settings.outbox_process_chunk_size, hand_on=hand_on)
        if hand_on and claim.size < size:
            break  # what was committed meanwhile has its own message
    return claimed


def deliver(
    using: str,
    token: str,
    keys: Sequence[int],
    *,
    is_begun: bool = False,
    registry: EventRegistry | None = None,
) -> int:
    """Deliver claimed entries, and settle them together at the end.

    Returns how many events were handled: at least one handler of each completed. An entry that is
    claimed by another by now is passed over. *is_begun*: the claim began them. *registry* is whose
    handlers are called; by default those of the registry in force.
    """
    settings = get_workflow_settings()
    lease = settings.outbox_claim_ttl
    entries = WorkflowOutbox.objects.using(using)
    if not is_begun and not entries.begin(token, keys, lease=lease):
        return 0
    chunk = _Chunk(using, token, keys, lease, registry or get_event_registry())
    with keeping(lambda: entries.renew(token, keys, lease=lease), lease), gathered_messages():
        chunk.deliver()
    entries.settle(token, processed=chunk.processed, dead=chunk.dead, later=chunk.later)
    return chunk.handled


def _deliver_claim(alias: str, claim: Claim, size: int, *, hand_on: bool) -> None:
    chunks = [claim.together[start : start + size] for start in range(0, len(claim.together), size)]
    chunks += [(key,) for key in claim.alone]
    own, *others = chunks
    mine = [chunk for chunk in others if not (hand_on and deliver_now(alias, claim.token, chunk))]
    errors = []
    for chunk in (own, *mine):
        try:
            deliver(alias, claim.token, chunk, is_begun=claim.begun.issuperset(chunk))
        except Exception as error:  # noqa: BLE001 - raised below: one chunk must not strand others
            errors.append(error)
    if errors:
        raise errors[0]


class _Chunk:
    """Some claimed entries, and what becomes of them."""

    def __init__(
        self,
        using: str,
        token: str,
        keys: Sequence[int],
        lease: timedelta,
        registry: EventRegistry,
    ) -> None:
        self.processed: list[int] = []
        self.dead: list[int] = []
        self.later: dict[int, timedelta] = {}
        self.handled = 0
        self._using = using
        self._token = token
        self._lease = lease
        self._registry = registry
        rows = WorkflowOutbox.objects.using(using).held(token).filter(pk__in=keys)
        wanted = ("owed_to", "passes", "alone", *(f"event__{name}" for name in EVENT_COLUMNS))
        self._entries = list(rows.select_related("event").only(*wanted).order_by("pk"))
        attempts = WorkflowDeliveryAttempt.objects.using(using)
        tried = [entry.pk for entry in self._entries if not entry.is_fresh]
        self._recorded = attempts.of_entries(tried) if tried else {}

    def deliver(self) -> None:
        started = monotonic()
        for position, entry in enumerate(self._entries):
            if position and monotonic() - started > self._lease.total_seconds() / 3:
                # A slow handler holds up the rest: let other workers have it.
                rest = [one.pk for one in self._entries[position:]]
                WorkflowOutbox.objects.using(self._using).release(self._token, rest)
                drain_outbox_soon(self._using)
                return
            try:
                if not self._deliver_entry(entry):
                    return
            except Exception:
                # Not the handler's, whose failures are recorded: it must not strand the others.
                logger.exception("Entry %s could not be delivered; it is put off", entry.pk)
                self.later[entry.pk] = TROUBLE_REST

    def _deliver_entry(self, entry: WorkflowOutbox) -> bool:
        """One event to all that want it; false if the claim is lost."""
        event = entry.event.to_event()
        recorded = self._recorded.get(entry.pk, {})
        known = {one.id: one for one in self._registry.matching(event)}
        rests: list[timedelta] = []
        is_dead = is_handled = False
        for registration in known.values():
            outcome, rest = Delivery(
                using=self._using,
                entry_id=entry.pk,
                token=self._token,
                event=event,
                registration=registration,
                previous=recorded.get(registration.id),
                is_alone=entry.alone,
                sender=type(self._registry),
                published_at=entry.event.published_at,
            ).deliver()
            if outcome is Outcome.LOST:
                return False
            is_handled |= outcome is Outcome.DONE
            is_dead |= outcome is Outcome.DEAD
            if rest is not None:
                rests.append(rest)
        self.handled += is_handled
        strangers = [one for one in entry.owed_to if one not in known and one not in recorded]
        strangers += [
            one.registration_id
            for one in recorded.values()
            if one.registration_id not in known and one.status not in SETTLED
        ]
        if strangers:
            logger.warning(
                "Event %s is owed to %s, which this process does not know; it is left to another",
                event.event_id, ", ".join(strangers),
            )  # fmt: skip
            rests.append(timedelta(seconds=STRANGER_REST * uniform(0.5, 1.5)))  # noqa: S311 - spread
        if rests:
            self.later[entry.pk] = min(rests)
        elif is_dead:
            self.dead.append(entry.pk)
        else:
            self.processed.append(entry.pk)
        return True
