"""Deliver the events of lanes in order: one at a time in each, each in its own transaction.

A worker takes several lanes and delivers the first event of each in turn, so that a long lane does
not hold up the others. See docs/ordering.md for what is promised.
"""

from collections.abc import Callable, Collection
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any, Final

from general_manager.conf import get_workflow_settings
from general_manager.durations import in_words
from general_manager.escaping import get_logger
from general_manager.workflow.core.actors import whereabouts
from general_manager.workflow.core.connections import persist, unit_of_work
from general_manager.workflow.core.leases import renewing
from general_manager.workflow.core.shutdown import is_announced
from general_manager.workflow.core.spreading import spread
from general_manager.workflow.event_registry import EventRegistry, get_event_registry
from general_manager.workflow.event_registry.registration import Registration
from general_manager.workflow.models import (
    DeliveryStatus,
    WorkflowDeliveryAttempt,
    WorkflowLane,
)
from general_manager.workflow.models.sql.due import Share
from general_manager.workflow.models.sql.lanes import HeldLane, LaneClaim
from general_manager.workflow.outbox.chunk import TROUBLE_DELAY
from general_manager.workflow.outbox.lane_delivery import LaneDelivery
from general_manager.workflow.outbox.leftovers import UNKNOWN_REGISTRATION_DELAY
from general_manager.workflow.outbox.verdicts import INTERRUPTED_DELIVERY_DELAY, Outcome
from general_manager.workflow.transport.broker import is_time_limit
from general_manager.workflow.transport.nudges import nudge

logger = get_logger(__name__)

LOOK_AGAIN_DELAY: Final = timedelta(seconds=1)
"""After a delivery whose writes were refused."""


class LaneSlice:
    """Some claimed lanes, for as long as one process has time for them.

    Their deliveries wait for the disk, whatever the setting: the next one is built on it.
    """

    def __init__(
        self,
        using: str,
        claim: LaneClaim,
        registry: EventRegistry,
        *,
        queue: str | None = None,
        is_late: Callable[[], bool] = lambda: False,
    ) -> None:
        self.claimed = len(claim.lanes)
        self.delivered = 0
        """Events that were taken from their lanes, whatever the outcome."""
        self.handled: set[int] = set()
        """Outbox entries whose event a handler completed."""
        self.elsewhere: set[str] = set()
        """Queues in which lanes go on."""
        self._using = using
        self._token = claim.token
        self._registry = registry
        self._queue = queue
        self._is_late = is_late
        self._lease = get_workflow_settings().outbox_claim_ttl
        self._ends = monotonic() + self._lease.total_seconds() / 3
        self._is_out_of_time = False
        self._left = {one.pk: one for one in claim.lanes}
        self._lanes = WorkflowLane.objects.using(using)
        self._rows = WorkflowDeliveryAttempt.objects.using(using)

    def deliver(self) -> None:
        """Deliver what is in the lanes, until they are empty or this process must stop."""
        renew = partial(self._lanes.renew, self._token, list(self._left), lease=self._lease)
        suspects = {key for key, one in self._left.items() if one.lapsed_token}
        try:
            with renewing(renew, self._lease):
                # With a suspect the others get one turn, so that its own comes in this slice.
                self._take_turns(self._left.keys() - suspects, only_once=bool(suspects))
                # What it may do to its worker, it does alone.
                first = min(suspects & self._left.keys(), default=None)
                self._release(self._left.keys() - {first})
                if first is not None:
                    self._take_turns({first}, only_once=True)
        finally:  # also if the process must end: a lease should not have to expire
            self.take_back()

    def take_back(self) -> None:
        """Release the lanes that are not being worked on; in any thread."""
        self._release(list(self._left))

    def _take_turns(self, keys: set[int], *, only_once: bool = False) -> None:
        """Deliver the head of each of these lanes, then the next ones, until none is left."""
        while (held := keys & self._left.keys()) and not self._must_stop():
            lanes = self._lanes.held(self._token).filter(pk__in=held)
            heads = persist(self._using, partial(self._rows.heads, lanes))
            self._park([key for key, head in heads.items() if head and head.is_paused])
            for key in held - heads.keys():
                if (lane := self._left.pop(key, None)) is not None:
                    logger.warning("The claim on lane %s was lost", lane.name)
            for key, head in heads.items():
                if head is not None and not self._must_stop():
                    self._work_on(key, head)
            self._close([key for key, head in heads.items() if head is None])
            if only_once:
                return

    def _must_stop(self) -> bool:
        is_over = self._is_out_of_time or monotonic() > self._ends
        return is_over or is_announced() or self._is_late()

    def _work_on(self, key: int, head: WorkflowDeliveryAttempt) -> None:
        lane = self._left.pop(key, None)
        if lane is None:  # it was taken back meanwhile
            return
        kept: HeldLane | None = lane
        try:
            goes_on = self._deliver_head(lane, head)
            kept = lane._replace(lapsed_token=None, interruptions=0) if goes_on else None
        except Exception as error:
            # Not a handler's failure, which would be recorded; the other lanes must go on.
            logger.exception(
                "The head of lane %s could not be delivered; retrying in %s",
                lane.name, in_words(TROUBLE_DELAY),
            )  # fmt: skip
            self._is_out_of_time |= is_time_limit(error)
            kept = None
            self._delay(lane, TROUBLE_DELAY)
        finally:
            if kept is not None:
                self._left[key] = kept

    def _deliver_head(self, lane: HeldLane, head: WorkflowDeliveryAttempt) -> bool:
        """Returns whether this process goes on with the lane."""
        registration = self._registry.find_registration(lane.registration_id)
        if registration is None:
            logger.warning(
                "Event %s is for %s, not registered in this process; leaving it to another worker",
                head.outbox.event.event_id, lane.registration_id,
            )  # fmt: skip
            delay = spread(UNKNOWN_REGISTRATION_DELAY, 0.5, 1.5)
            return self._delay(lane, timedelta(seconds=delay))
        if self._queue is not None and registration.queue != self._queue:
            self.elsewhere.add(registration.queue)
            return self._delay(lane, timedelta(0), queue=registration.queue)
        if head.status != DeliveryStatus.DEAD_LETTER:
            return self._deliver_to(registration, lane, head)
        if registration.on_dead == "block":
            return self._block(lane, head)
        held = self._lanes.held(self._token).filter(pk=lane.pk)
        persist(self._using, partial(self._rows.leave_lane, head.pk, held))  # a deploy unblocked it
        return True

    def _deliver_to(
        self, registration: Registration, lane: HeldLane, head: WorkflowDeliveryAttempt
    ) -> bool:
        self.delivered += 1
        delivery = LaneDelivery(
            using=self._using,
            entry_id=head.outbox_id,
            token=self._token,
            event=head.outbox.event.to_event(),
            registration=registration,
            previous=head,
            is_alone=lane.lapsed_token is not None,
            sender=type(self._registry),
            published_at=head.outbox.event.published_at,
            visits=lane.interruptions,
        )
        delivery.lane = lane
        outcome, wait = delivery.deliver()
        if delivery.late is not None and is_time_limit(delivery.late):
            self._is_out_of_time = True
        if outcome is Outcome.DONE:
            self.handled.add(head.outbox_id)
        if outcome is Outcome.LATER and wait is not None:
            is_interrupted = wait is INTERRUPTED_DELIVERY_DELAY
            return self._delay(
                lane, wait, interruptions=lane.interruptions + 1 if is_interrupted else 0
            )
        if outcome is Outcome.DEAD and registration.on_dead == "block":
            return self._block(lane, head)
        if outcome is Outcome.LOST:  # or an operator has changed the head: look at it afresh
            return self._delay(lane, LOOK_AGAIN_DELAY)
        return True

    def _delay(self, lane: HeldLane, delay: timedelta, **values: Any) -> bool:
        persist(self._using, partial(self._lanes.delay, self._token, lane.pk, delay, **values))
        return False

    def _block(self, lane: HeldLane, head: WorkflowDeliveryAttempt) -> bool:
        dead = self._rows.dead().filter(pk=head.pk, in_lane=True)
        persist(self._using, partial(self._lanes.block, self._token, lane.pk, dead))
        return False

    def _park(self, keys: Collection[int]) -> None:
        """Park lanes whose registration is paused, and look again after the commit."""
        found = [key for key in keys if self._left.pop(key, None) is not None]
        if found:
            persist(self._using, partial(self._lanes.park, self._token, found))
            persist(self._using, partial(self._lanes.look_again, found))

    def _close(self, keys: Collection[int]) -> None:
        found = {key: lane for key in keys if (lane := self._left.pop(key, None)) is not None}
        busy: Collection[int] = found
        try:
            if found:
                waiting = self._rows.waiting_in_lane()
                close = partial(self._lanes.close, self._token, list(found), waiting)
                busy = persist(self._using, close)
        finally:
            self._left.update({key: found[key] for key in busy})

    def _release(self, keys: Collection[int]) -> None:
        self._release_all([lane for key in keys if (lane := self._left.pop(key, None)) is not None])

    def _release_all(self, found: Collection[HeldLane]) -> None:
        for is_suspect in (False, True):
            part = [one.pk for one in found if bool(one.lapsed_token) is is_suspect]
            if not part:
                continue
            try:
                release = partial(self._lanes.release, self._token, part, is_suspect=is_suspect)
                persist(self._using, release)
            except Exception:
                logger.exception(
                    "%d lanes could not be released; they go on when their lease expires", len(part)
                )


def deliver_these_lanes(using: str, names: Collection[str], *, registry: EventRegistry) -> set[int]:
    """Deliver what is in these lanes, unless a worker has them; the entries that were handled."""
    handled: set[int] = set()
    lanes = WorkflowLane.objects.using(using).filter(lane__in=names)
    for queue in set(lanes.values_list("queue", flat=True)):
        while found := deliver_lanes(
            using, Share(queue), len(names), registry=registry, names=names
        ):
            handled |= found.handled
            if not found.delivered:
                break
    return handled


def deliver_lanes(
    using: str,
    share: Share,
    limit: int,
    *,
    registry: EventRegistry | None = None,
    queue: str | None = None,
    names: Collection[str] | None = None,
    is_late: Callable[[], bool] = lambda: False,
    watch: Callable[[LaneSlice], object] = lambda _: None,
) -> LaneSlice | None:
    """Claim up to *limit* due lanes and deliver their events; `None` if no lane is due.

    With *names* only these lanes. The handlers are those of *registry*, and of *queue*, by default
    of all queues. Ends early once *is_late* says so. *watch* gets the slice before it begins.
    """
    settings = get_workflow_settings()
    lease = settings.outbox_claim_ttl
    claim = WorkflowLane.objects.using(using).claim(
        limit, lease=lease, by=whereabouts(), share=share, names=names
    )
    if not claim.lanes:
        return None
    with unit_of_work():
        whose = registry or get_event_registry()
        lanes = LaneSlice(using, claim, whose, queue=queue, is_late=is_late)
        watch(lanes)
        try:
            lanes.deliver()
        finally:
            if settings.run_async:
                for other in sorted(lanes.elsewhere):
                    nudge(using, other)
    return lanes
