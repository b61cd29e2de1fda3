"""Bring what the outbox owes to the handlers that want it."""

from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from random import uniform
from time import monotonic
from typing import Final
from uuid import uuid4

from django.db import DatabaseError

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.actors import whereabouts
from general_manager.workflow.connections import persist, unit_of_work
from general_manager.workflow.databases import outboxes
from general_manager.workflow.delivery import Delivery
from general_manager.workflow.dispatch import deliver_now, is_time_limit
from general_manager.workflow.event_registry import EventRegistry, get_event_registry
from general_manager.workflow.leases import can_renew, keeping
from general_manager.workflow.messages import drain_outbox_soon, gathered_messages
from general_manager.workflow.models import (
    Claim,
    WorkflowDeliveryAttempt,
    WorkflowOutbox,
)
from general_manager.workflow.models.delivery import SETTLED
from general_manager.workflow.models.outbox import EVENT_FIELDS
from general_manager.workflow.shutdown import is_announced
from general_manager.workflow.verdicts import Outcome

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
    `WORKFLOW_ASYNC` is on. *limit* bounds the claims. A worker that shuts down, or a process that
    cannot renew leases, claims nothing more.
    """
    if hand_on is None:
        hand_on = get_workflow_settings().run_async
    claimed = 0
    for alias in [using] if using else outboxes():
        try:
            with unit_of_work():
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
    while (limit is None or claimed < limit) and not is_announced() and can_renew():
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
    if not can_renew():
        _release(using, token, keys)
        return 0
    with unit_of_work():
        if not is_begun:
            own = uuid4().hex
            if not entries.begin(token, keys, lease=lease, own=own):
                return 0
            token = own
        try:
            whose = registry or get_event_registry()
            chunk = persist(using, lambda: _Chunk(using, token, keys, lease, whose))
        except BaseException:
            _release(using, token, keys)
            raise
        try:
            renew = partial(entries.renew, token, keys, lease=lease)
            with keeping(renew, lease), gathered_messages():
                chunk.deliver()
        finally:
            chunk.settle()
    return chunk.handled


def _deliver_claim(alias: str, claim: Claim, size: int, *, hand_on: bool) -> None:
    chunks = [claim.together[start : start + size] for start in range(0, len(claim.together), size)]
    chunks += [(key,) for key in claim.alone]
    own, *others = chunks
    mine = [chunk for chunk in others if not (hand_on and deliver_now(alias, claim.token, chunk))]
    errors: list[Exception] = []
    left = deque((own, *mine))
    try:
        while left and not (is_announced() or (errors and is_time_limit(errors[-1]))):
            chunk = left.popleft()
            try:
                deliver(alias, claim.token, chunk, is_begun=claim.begun.issuperset(chunk))
            except Exception as error:  # noqa: BLE001 - raised below: one must not strand others
                errors.append(error)
    finally:
        _release(alias, claim.token, [key for chunk in left for key in chunk])
    if errors:
        raise errors[0]


def _release(using: str, token: str, keys: Sequence[int]) -> None:
    """Give back what this process does not start any more, and have others deliver it."""
    if not keys:
        return
    try:
        entries = WorkflowOutbox.objects.using(using)
        persist(using, lambda: entries.release(token, keys))
        drain_outbox_soon(using)
    except Exception:
        logger.exception(
            "%d entries could not be given back; they are delivered when their lease ends",
            len(keys),
        )


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
        self.is_out_of_time = False
        """Whether Celery's soft time limit struck: the hard one follows."""
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
        """One entry after the other; those that this process has no time for are given back."""
        started = monotonic()
        left = deque(self._entries)
        try:
            while left:
                is_slow = monotonic() - started > self._lease.total_seconds() / 3
                # A slow handler holds up the rest: let other workers have it.
                is_first = left[0] is self._entries[0]
                if self.is_out_of_time or (not is_first and (is_slow or is_announced())):
                    return
                self._deliver_one(left)
        finally:
            # Also when the process is to end: nobody waits for the end of a lease.
            _release(self._using, self._token, [one.pk for one in left])

    def settle(self) -> None:
        """Write what became of each entry, in an order that a lost connection may repeat."""
        settle = partial(
            WorkflowOutbox.objects.using(self._using).settle,
            self._token,
            processed=self.processed,
            dead=self.dead,
            later=self.later,
        )
        persist(self._using, settle)

    def _deliver_one(self, left: "deque[WorkflowOutbox]") -> None:
        entry = left.popleft()
        try:
            if self._deliver_entry(entry):
                return
            logger.warning("The claim on entry %s is lost; another worker delivers it", entry.pk)
            keys = [one.pk for one in left]
            held = WorkflowOutbox.objects.using(self._using).held(self._token).filter(pk__in=keys)
            ours = set(persist(self._using, lambda: list(held.values_list("pk", flat=True))))
            lost = [one for one in left if one.pk not in ours]
            for one in lost:
                left.remove(one)
        except Exception as error:
            # Not the handler's, whose failures are recorded: it must not strand the others.
            logger.exception("Entry %s could not be delivered; retrying later", entry.pk)
            self.later[entry.pk] = TROUBLE_REST
            self.is_out_of_time |= is_time_limit(error)

    def _deliver_entry(self, entry: WorkflowOutbox) -> bool:
        """One event to all that want it; false if the claim is lost."""
        event = entry.event.to_event()
        recorded = self._recorded.get(entry.pk, {})
        known = {one.id: one for one in self._registry.matching(event)}
        rests: list[timedelta] = []
        is_dead = is_handled = False
        for registration in known.values():
            delivery = Delivery(
                using=self._using,
                entry_id=entry.pk,
                token=self._token,
                event=event,
                registration=registration,
                previous=recorded.get(registration.id),
                is_alone=entry.alone,
                sender=type(self._registry),
                published_at=entry.event.published_at,
                passes=entry.passes,
            )
            outcome, rest = delivery.deliver()
            if outcome is Outcome.LOST:
                return False
            is_handled |= outcome is Outcome.DONE
            is_dead |= outcome is Outcome.DEAD
            if rest is not None:
                rests.append(rest)
            if delivery.late is not None and is_time_limit(delivery.late):
                self.is_out_of_time = True
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
