"""Calls a handler, and separates its own failures from interruptions by the database."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from typing import Final

from django.db.transaction import TransactionManagementError

from general_manager.conf import get_workflow_settings
from general_manager.database_errors import is_conflict, is_lost_connection
from general_manager.workflow.core.isolation import isolated
from general_manager.workflow.core.spreading import spread
from general_manager.workflow.core.transactions import Surroundings, own_transaction
from general_manager.workflow.event_registry.base import copied
from general_manager.workflow.event_registry.registration import Registration
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.exceptions import ends_the_process, is_permanent, wanted_delay
from general_manager.workflow.transport.broker import is_time_limit

LONGEST_BACKOFF: Final = timedelta(hours=1)
INTERRUPTED_DELIVERY_DELAY: Final = timedelta(seconds=5)
"""The delay after the database interrupted a delivery twice in a row."""

MOST_INTERRUPTED: Final = 20
"""Claims of an entry after which an interruption counts as the handler's failure."""


class Outcome(Enum):
    DONE = "done"
    """Completed in this pass."""
    NOTHING = "nothing"
    """Not matched, or completed or discarded earlier."""
    LATER = "later"
    DEAD = "dead"
    LOST = "lost"
    """Another worker has the claim now; this worker's writes are rolled back."""


class ClaimLost(Exception):
    """Rolls back the writes of a worker that has lost its claim."""


class DeliveryInterrupted(Exception):
    """The database rolled the handler's writes back, whatever the handler raised then."""


class HandlerError(Exception):
    """The handler's code raised *error*; any other exception comes from our own code."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def call_handler(registration: Registration, event: WorkflowEvent, using: str) -> bool:
    """Call the handler; false if *event* does not match. Raises `HandlerError` if it raises.

    Raises `DeliveryInterrupted` instead if the handler only lost its connection. Exceptions that
    end the process are not wrapped.
    """
    around = Surroundings(using)
    may_be_open = True
    try:
        with isolated(atomic=False):
            if registration.when is not None and not registration.wants(copied(event)):
                return False
            registration.call(copied(event))
        around.close_what_was_left_open(registration)
        may_be_open = False
    except BaseException as error:
        if ends_the_process(error):
            raise
        if not is_permanent(error) and around.explain(error):
            raise DeliveryInterrupted from error
        raise HandlerError(error) from error
    finally:
        if may_be_open:
            around.discard_what_was_left_open(registration)
    return True


@contextmanager
def handlers_transaction(
    using: str, keep: Callable[[BaseException], None]
) -> Iterator[own_transaction]:
    """A transaction for the handler's writes and its completed mark.

    *keep* is called with an exception raised after the commit. A failing commit, for example by a
    deferred constraint, is the handler's failure; a rollback by the database is not, unless the
    handler raised a verdict.
    """
    block = own_transaction(using)
    try:
        with block:
            yield block
    except HandlerError as failed:
        is_verdict = is_permanent(failed.error) or wanted_delay(failed.error) is not None
        if not is_verdict and block.was_undone_by_the_database(failed.error):
            raise DeliveryInterrupted from failed.error
        raise
    except Exception as error:
        is_its = block.failed_to_commit or isinstance(error, TransactionManagementError)
        if is_its and not (is_interruption(error) or is_time_limit(error)):
            raise HandlerError(error) from error
        raise
    if block.late is not None:
        keep(block.late)


def is_interruption(error: BaseException) -> bool:
    """Whether an immediate retry may succeed after *error*, raised around a handler."""
    return isinstance(error, DeliveryInterrupted) or is_lost_connection(error) or is_conflict(error)


def delay_after(passes: int, error: BaseException) -> timedelta:
    """Exponential backoff with jitter, at most an hour; or the delay that the handler set."""
    asked = wanted_delay(error)
    if asked is not None:
        return asked
    base = get_workflow_settings().retry_backoff
    delay = min(LONGEST_BACKOFF, base * float(2 ** min(passes - 1, 20)))
    return spread(delay, 0.8, 1.2)
