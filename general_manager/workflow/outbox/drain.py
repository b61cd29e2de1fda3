"""Claim due entries of the outbox and deliver them to the matching handlers."""

import sys
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from uuid import uuid4

from django.db import DatabaseError

from general_manager.conf import get_workflow_settings
from general_manager.cursors import shared_cursor
from general_manager.escaping import get_logger
from general_manager.workflow.core.actors import whereabouts
from general_manager.workflow.core.connections import persist, unit_of_work
from general_manager.workflow.core.leases import can_renew, renewing
from general_manager.workflow.core.shutdown import is_announced
from general_manager.workflow.core.transactions import is_in_transaction
from general_manager.workflow.event_registry import EventRegistry, get_event_registry
from general_manager.workflow.exceptions import ends_the_process
from general_manager.workflow.models import (
    Claim,
    WorkflowOutbox,
)
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.models.queue import queues_of_deliveries, queues_of_lanes
from general_manager.workflow.models.sql.due import Share
from general_manager.workflow.outbox.chunk import Chunk
from general_manager.workflow.outbox.order import deliver_lanes
from general_manager.workflow.transport.broker import is_time_limit
from general_manager.workflow.transport.in_process import perform_soon
from general_manager.workflow.transport.nudges import nudge

logger = get_logger(__name__)


def drain(using: str | None = None, *, limit: int | None = None) -> int:
    """Claim and deliver in this process until nothing is due. Returns how many were claimed.

    *limit* is the maximum number of claims. A worker that shuts down, or a process that cannot
    renew leases, claims nothing more.
    """
    claimed = 0
    for alias in [using] if using else outboxes():
        try:
            with unit_of_work():
                claimed += _drain_database(alias, None if limit is None else limit - claimed)
        except DatabaseError:
            if using:
                raise
            logger.exception("The outbox of database %r could not be drained", alias)
    return claimed


def _drain_database(alias: str, limit: int | None) -> int:
    """Entries, then lanes, then what the handlers of the lanes published."""
    claimed = 0
    lanes: set[str] = set()
    while True:
        found = []
        for queue in queues_of_deliveries(alias):
            left = None if limit is None else limit - claimed
            found.append(_drain_queue(alias, queue, left, lanes))
            claimed += found[-1]
        # A queue in which no entry was found has lanes.
        if all(found) and not lanes and not get_event_registry().has_ordered():
            return claimed
        delivered = _drain_lanes(alias, None if limit is None else limit - claimed)
        if not delivered:
            return claimed
        claimed += delivered


def _drain_lanes(alias: str, limit: int | None) -> int:
    delivered = 0
    size = get_workflow_settings().outbox_process_chunk_size
    for queue in queues_of_lanes(alias):
        while (limit is None or delivered < limit) and not is_announced() and can_renew():
            most = size if limit is None else min(size, limit - delivered)
            lanes = deliver_lanes(alias, Share(queue), most)
            if lanes is None:
                break
            delivered += lanes.delivered
    return delivered


def _drain_queue(alias: str, queue: str, limit: int | None, lanes: set[str]) -> int:
    """Adds the names of lanes that became due to *lanes*."""
    claimed = 0
    chunks: list[Chunk] = []
    settings = get_workflow_settings()
    while (limit is None or claimed < limit) and not is_announced() and can_renew():
        size = settings.outbox_batch_size
        claim = claim_due(
            alias, Share(queue), size if limit is None else min(size, limit - claimed)
        )
        if not claim.size:
            break
        claimed += claim.size
        deliver_claim(alias, claim, watch=chunks.append)
        lanes.update(name for chunk in chunks for name in chunk.in_order.lanes)
        chunks.clear()
    return claimed


def claim_due(using: str, share: Share, limit: int) -> Claim:
    """Claim up to *limit* entries that this process is about to deliver."""
    return WorkflowOutbox.objects.using(using).claim(
        limit,
        lease=get_workflow_settings().outbox_claim_ttl,
        by=whereabouts(),
        begin=get_workflow_settings().outbox_process_chunk_size,
        share=share,
    )


def drain_soon(using: str) -> None:
    """On commit, have the due entries in database *using* delivered.

    By workers, or by this process if `WORKFLOW_ASYNC` is off.
    """
    if get_workflow_settings().run_async:
        for queue in queues_of_deliveries(using):
            nudge(using, queue)
    else:
        perform_soon(lambda: drain(using), using)


def deliver(
    using: str,
    token: str,
    keys: Sequence[int],
    *,
    is_started: bool = False,
    registry: EventRegistry | None = None,
    queue: str | None = None,
    watch: Callable[[Chunk], object] = lambda _: None,
) -> int:
    """Deliver claimed entries and settle them together at the end.

    Returns how many events were handled, that is, completed by at least one handler. Skips entries
    that another process has claimed since. *is_started*: the claim has marked them as started. The
    handlers are those of *registry*, by default of the current registry, and of *queue*, by default
    of all queues. *watch* gets the chunk before its first delivery.
    """
    settings = get_workflow_settings()
    lease = settings.outbox_claim_ttl
    entries = WorkflowOutbox.objects.using(using)
    if not can_renew():
        release(using, token, keys)
        return 0
    # A drain in a transaction settles: it would find again and again what it leaves.
    is_held = registry is not None and is_in_transaction(using)
    with unit_of_work(), shared_cursor(using):
        if not is_started:
            own = uuid4().hex
            if not entries.begin(token, keys, lease=lease, own=own, is_seen=not is_held):
                return 0
            token = own
        try:
            # A publisher that delivers says what was delivered: only workers need not wait.
            is_relaxed = registry is None and settings.run_async and not settings.synchronous_commit
            load = partial(Chunk, using, token, keys, lease, registry or get_event_registry())
            how = {"is_relaxed": is_relaxed, "is_held": is_held}
            chunk = persist(using, lambda: load(queue=queue, **how))
        except BaseException:
            release(using, token, keys)
            raise
        watch(chunk)
        try:
            renew = partial(entries.renew, token, keys, lease=lease)
            with renewing(renew, lease):
                try:
                    chunk.deliver()
                finally:  # also if the process must end: a lease should not have to expire
                    release(using, token, chunk.take_back())
        finally:
            chunk.settle()
            if is_held:
                drain_soon(using)
            others = {one.queue for one in chunk.outcomes.elsewhere.values() if not one.delay}
            others |= chunk.look_again()
            for other in others | {one.queue for one in chunk.in_order.lanes.values()}:
                _tell(using, other)
    return len(chunk.handled)


def deliver_claim(
    alias: str,
    claim: Claim,
    *,
    queue: str | None = None,
    watch: Callable[[Chunk], object] = lambda _: None,
    is_late: Callable[[], bool] = lambda: False,
) -> None:
    """Deliver what was claimed; each entry whose worker died in a chunk of its own.

    Once *is_late* says so, or this worker shuts down, what is left is released.
    """
    size = get_workflow_settings().outbox_process_chunk_size
    # Each chunk goes by its keys, so the newest part has a chunk of its own.
    parts = claim.together[: claim.newest], claim.together[claim.newest :]
    left = deque(
        part[start : start + size] for part in parts for start in range(0, len(part), size)
    )
    left += [(key,) for key in claim.alone]
    errors: list[Exception] = []
    try:
        while left and not (is_announced() or (errors and is_time_limit(errors[-1])) or is_late()):
            chunk = left.popleft()
            is_started = claim.started.issuperset(chunk)
            try:
                deliver(alias, claim.token, chunk, is_started=is_started, queue=queue, watch=watch)
            except Exception as error:  # noqa: BLE001 - raised below, after the other chunks
                errors.append(error)
    finally:
        release(alias, claim.token, [key for chunk in left for key in chunk])
    if errors:
        raise errors[0]


def release(using: str, token: str, keys: Sequence[int]) -> None:
    """Release entries that this process will not start, and have others deliver them.

    If the process ends, not by this process itself.
    """
    if not keys:
        return
    try:
        entries = WorkflowOutbox.objects.using(using)
        persist(using, lambda: entries.release(token, keys))
        error = sys.exception()
        if get_workflow_settings().run_async or error is None or not ends_the_process(error):
            drain_soon(using)
    except Exception:
        logger.exception(
            "%d entries could not be released; they will be delivered when their lease expires",
            len(keys),
        )


def _tell(using: str, queue: str) -> None:
    """Entries have gone on to *queue*. Without workers, the drain in progress finds them."""
    if get_workflow_settings().run_async:
        nudge(using, queue)
