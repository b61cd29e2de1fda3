"""Deliveries that share a transaction: of registrations with `grouped=True`, each in a savepoint.

They share one wait for the disk. Whatever goes wrong except a handler's own exception rolls all of
them back and is charged to none; the caller then delivers the entries one by one.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Final

from django.db import InterfaceError, InternalError, OperationalError, connections
from django.db.transaction import TransactionManagementError

from general_manager.database_errors import is_conflict, origins
from general_manager.escaping import get_logger
from general_manager.workflow.core.shutdown import is_announced
from general_manager.workflow.core.transactions import own_transaction
from general_manager.workflow.event_registry.registration import Registration
from general_manager.workflow.models import (
    DeliveryStatus,
    WorkflowDeliveryAttempt,
    WorkflowOutbox,
)
from general_manager.workflow.models.sql.commits import may_skip_waiting
from general_manager.workflow.outbox.delivery import Delivery
from general_manager.workflow.outbox.savepoints import Savepoints
from general_manager.workflow.outbox.verdicts import ClaimLost, HandlerError, Outcome, call_handler
from general_manager.workflow.transport.broker import is_time_limit

logger = get_logger(__name__)

MOST_IN_A_GROUP: Final = 20
"""Entries whose deliveries share a transaction at most."""

GROUP_SECONDS: Final = 0.1
"""After so long no further entry joins: rows that handlers have locked stay locked until then."""

_TROUBLES: Final = (OperationalError, InternalError, InterfaceError, TransactionManagementError)
"""A deadlock, a time-out, a lost connection, a broken transaction: not the handler's own."""


class Groups:
    """The groups of one chunk.

    *left* are its undelivered entries, of which another thread may take some back. *groupable*
    gives the deliveries of an entry if all of them may share a transaction with others, else none.
    """

    def __init__(
        self,
        left: deque[WorkflowOutbox],
        groupable: Callable[[WorkflowOutbox], list[Delivery]],
        *,
        is_relaxed: bool,
    ) -> None:
        self._left = left
        self._groupable = groupable
        self._is_relaxed = is_relaxed
        self._singly: set[int] = set()
        """Keys of entries whose group was rolled back."""
        self._delivered: dict[tuple[int, str], Delivery] = {}
        """Deliveries whose group is committed, by entry and registration."""

    def pop(self, entry: WorkflowOutbox, registration: Registration) -> Delivery | None:
        """The delivery, if its handler was called in a group that is committed."""
        return self._delivered.pop((entry.pk, registration.id), None)

    def deliver_from(self, first: WorkflowOutbox) -> list[WorkflowOutbox]:
        """Call the handlers of *first* and of entries that follow it in one transaction.

        Returns the entries to go on with: those of the group, or *first* if it shares none. If the
        group was rolled back, all of them are left again, to be delivered one by one.
        """
        deliveries = self._deliveries_of(first) if self._left else []
        if not deliveries:
            return [first]
        entries, members = [first], list[Delivery]()
        using, token = deliveries[0].using, deliveries[0].token
        joining = self._joining(entries, deliveries, members)
        try:
            _deliver_together(using, token, joining, is_relaxed=self._is_relaxed)
        except Exception as error:
            if is_time_limit(error):  # the hard limit follows: the others are released
                self._left.extendleft(reversed(entries))
                raise
            logger.warning(
                "%d deliveries that shared a transaction were rolled back; delivering one by one",
                len(members), exc_info=True,
            )  # fmt: skip
            self._singly.update(entry.pk for entry in entries)
            self._left.extendleft(reversed(entries))
            return []
        except BaseException:  # the process must end: the others were undone, and are released
            self._left.extendleft(reversed(entries[:-1]))
            raise
        self._delivered.update({(one.entry_id, one.registration.id): one for one in members})
        return entries

    def _joining(
        self,
        entries: list[WorkflowOutbox],
        deliveries: list[Delivery],
        members: list[Delivery],
    ) -> Iterator[list[Delivery]]:
        """The deliveries of each entry that joins while there is time, in the order of entries."""
        began = monotonic()
        while deliveries:
            members += deliveries
            yield deliveries
            is_full = len(entries) >= MOST_IN_A_GROUP or monotonic() - began > GROUP_SECONDS
            if is_full or is_announced():
                return
            try:
                entries.append(self._left.popleft())
            except IndexError:
                return
            deliveries = self._deliveries_of(entries[-1])
        self._left.appendleft(entries.pop())

    def _deliveries_of(self, entry: WorkflowOutbox) -> list[Delivery]:
        return [] if entry.pk in self._singly else self._groupable(entry)


def _deliver_together(
    using: str, token: str, entries: Iterable[list[Delivery]], *, is_relaxed: bool
) -> None:
    """Call the handlers of *entries*, each a list of fresh deliveries, in one transaction.

    Afterwards each delivery knows what it came to: see `Delivery.in_group`. Raises an exception if
    all of it was rolled back. Only outside of transactions.
    """
    done: list[Delivery] = []
    try:
        late = _deliver(using, token, entries, done, is_relaxed=is_relaxed)
    except Exception as error:
        if not (done and done[0].row.is_recorded(DeliveryStatus.COMPLETED)):
            raise
        late = error  # the commit succeeded, but its response was lost
    if late is not None and done:
        done[-1].late = late


def _deliver(
    using: str,
    token: str,
    entries: Iterable[list[Delivery]],
    done: list[Delivery],
    *,
    is_relaxed: bool,
) -> BaseException | None:
    """Fills *done*. Returns an exception that followed the commit."""
    is_waited = not (is_relaxed and may_skip_waiting(using))
    block = own_transaction(using)
    with block:
        with Savepoints(using) as savepoints:
            for deliveries in entries:
                for delivery in deliveries:
                    delivery.in_group = result = _call(delivery, savepoints)
                    if result is Outcome.DONE:
                        done.append(delivery)
                if any(_is_out_of_time(one) for one in deliveries):
                    break
            savepoints.release()
        marks = [(one.entry_id, one.registration.id) for one in done]
        rows = WorkflowDeliveryAttempt.objects.using(using)
        if marks and rows.add_completed(marks, token, is_waited=is_waited) != len(marks):
            raise ClaimLost
        for delivery in done:
            delivery.session = None if is_waited else block.session
    return block.late


def _call(delivery: Delivery, savepoints: Savepoints) -> Outcome | HandlerError:
    try:
        with savepoints.around_next():
            matches = call_handler(delivery.registration, delivery.event, delivery.using)
    except HandlerError as failed:
        is_broken = connections[delivery.using].needs_rollback or is_conflict(failed.error)
        if is_broken or any(isinstance(one, _TROUBLES) for one in origins(failed.error)):
            raise
        return failed
    return Outcome.DONE if matches else Outcome.NOTHING


def _is_out_of_time(delivery: Delivery) -> bool:
    return isinstance(delivery.in_group, HandlerError) and is_time_limit(delivery.in_group.error)
