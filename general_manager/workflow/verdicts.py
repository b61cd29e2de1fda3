"""A handler is called: what it raised is its failure, and what the database did is not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from random import uniform
from typing import Final

from django.db.transaction import TransactionManagementError

from general_manager.conf import get_workflow_settings
from general_manager.workflow.aside import aside
from general_manager.workflow.connections import is_conflict, is_lost_connection
from general_manager.workflow.dispatch import is_time_limit
from general_manager.workflow.event_registry.base import copied
from general_manager.workflow.event_registry.registration import Registration
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.exceptions import ends_the_process, is_permanent, wanted_delay
from general_manager.workflow.transactions import Surroundings, own_transaction

LONGEST_REST: Final = timedelta(hours=1)
INTERRUPTED_REST: Final = timedelta(seconds=5)
"""After a delivery that the database interrupted twice in a row."""

MOST_INTERRUPTED: Final = 20
"""Passes of an entry after which an interruption counts as the handler's failure all the same."""


class Outcome(Enum):
    DONE = "done"
    """In this pass."""
    NOTHING = "nothing"
    """Not wanted, or done in an earlier pass."""
    LATER = "later"
    DEAD = "dead"
    LOST = "lost"
    """The claim is somebody else's by now; what this worker did is rolled back."""


class ClaimLost(Exception):
    """Rolls back what a worker did that has lost its claim."""


class DeliveryInterrupted(Exception):
    """The database undid what the handler did, whatever the handler made of that."""


class HandlerError(Exception):
    """What the handler's code raised is *error*; all else that is raised is ours."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def call_handler(registration: Registration, event: WorkflowEvent, using: str) -> bool:
    """False if it does not want *event*. Raises `HandlerError` for whatever it raises.

    But `DeliveryInterrupted` where that only says that its connection was lost; and what ends the
    process passes.
    """
    around = Surroundings(using)
    try:
        with aside(atomic=False):
            if registration.when is not None and not registration.wants(copied(event)):
                return False
            registration.call(copied(event))
        around.close_what_was_left_open(str(registration))
    except BaseException as error:
        if ends_the_process(error):
            raise
        if not is_permanent(error) and around.explain(error):
            raise DeliveryInterrupted from error
        raise HandlerError(error) from error
    finally:
        around.discard_what_was_left_open(str(registration))
    return True


@contextmanager
def handlers_transaction(using: str, keep: Callable[[BaseException], None]) -> Iterator[None]:
    """A handler's writes and the mark of its end; *keep* hears what was raised after the commit.

    What cannot be committed is the handler's failure, a constraint that is checked there, say;
    what the database undid by itself is not, unless the handler passed a verdict.
    """
    block = own_transaction(using)
    try:
        with block:
            yield
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
    """Whether *error*, raised around a handler, may be gone if it is tried again at once."""
    return isinstance(error, DeliveryInterrupted) or is_lost_connection(error) or is_conflict(error)


def rest_after(passes: int, error: BaseException) -> timedelta:
    """Exponential backoff with jitter, at most an hour; or what the handler asked for."""
    asked = wanted_delay(error)
    if asked is not None:
        return asked
    base = get_workflow_settings().retry_backoff
    rest = min(LONGEST_REST, base * float(2 ** min(passes - 1, 20)))
    return rest * uniform(0.8, 1.2)  # noqa: S311 - spread, not secrecy
