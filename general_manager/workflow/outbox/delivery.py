"""Deliver one event to one registration: fenced by the claim, recorded, retried."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models.functions import Coalesce
from django.dispatch import Signal

from general_manager.conf import get_workflow_settings
from general_manager.durations import in_words
from general_manager.escaping import get_logger
from general_manager.workflow.core.connections import persist
from general_manager.workflow.core.encoding import error_text, traceback_text
from general_manager.workflow.core.importing import describe
from general_manager.workflow.core.observers import notify
from general_manager.workflow.event_registry.base import copied
from general_manager.workflow.event_registry.registration import Registration, real_error
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.exceptions import WorkerDied, wanted_delay
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models import DeliveryStatus, WorkflowDeliveryAttempt
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now
from general_manager.workflow.models.sql.commits import may_skip_waiting
from general_manager.workflow.models.texts import in_ascii, write_texts
from general_manager.workflow.outbox.row import DeliveryRow
from general_manager.workflow.outbox.verdicts import (
    INTERRUPTED_DELIVERY_DELAY,
    MOST_INTERRUPTED,
    ClaimLost,
    HandlerError,
    Outcome,
    call_handler,
    delay_after,
    handlers_transaction,
    is_interruption,
)
from general_manager.workflow.signals import event_dead, event_delivered, event_failed

logger = get_logger(__name__)

INTERRUPTED = "The database interrupted %s for event %s; retrying"


@dataclass(slots=True)
class Delivery:
    """The delivery of one event to one registration, under one claim."""

    using: str
    entry_id: int
    token: str
    event: WorkflowEvent
    registration: Registration
    previous: WorkflowDeliveryAttempt | None
    is_alone: bool
    sender: type
    published_at: datetime
    is_relaxed: bool = False
    """Whether the commit of an atomic handler need not wait for the disk."""
    visits: int = 0
    """How often it was due again, by the entry's count; in order, how often it was interrupted."""
    is_waited: bool = True
    """Whether the transaction in progress waits for the disk when it commits."""
    session: Any = None
    """The session of the database that committed it without waiting; `None` if it waited."""
    in_group: Outcome | HandlerError | None = None
    """What came of it in a transaction shared with others, which is committed; else `None`."""
    late: BaseException | None = None
    """The last exception from any code; the chunk checks it for a time limit."""

    def deliver(self) -> tuple[Outcome, timedelta | None]:
        """Deliver. Returns the outcome and, for `Outcome.LATER`, the delay.

        Only exceptions from the handler's code, or from the commit of its writes, count as its
        failure. A delivery that the database interrupts is retried, the first time immediately.
        """
        earlier = self._earlier_outcome()
        if earlier is not None:
            return earlier
        crashes = self._crashes()
        if crashes >= get_workflow_settings().max_crashes:
            return self._dead_letter_poison(crashes), None
        may_repeat = self.registration.atomic
        while True:
            try:
                outcome = self._attempt(crashes)
            except HandlerError as failed:
                return self._fail(failed.error)
            except ClaimLost:
                outcome = Outcome.LOST
            except Exception as error:
                if not (may_repeat and is_interruption(error)):
                    return self._interrupted(error)
                logger.warning(INTERRUPTED, self.registration, self.event.event_id, exc_info=True)
                may_repeat, outcome = False, Outcome.LOST
                if not self.row.is_recorded(DeliveryStatus.COMPLETED):
                    continue
            if outcome is Outcome.LOST and self.row.is_recorded(DeliveryStatus.COMPLETED):
                outcome = self._delivered()  # the commit succeeded, but its response was lost
            return outcome, None

    def _interrupted(self, error: Exception) -> tuple[Outcome, timedelta | None]:
        if self.row.is_recorded(DeliveryStatus.COMPLETED):
            self.late = error
            return self._delivered(), None
        if self.visits >= MOST_INTERRUPTED:
            return self._fail(error)
        logger.warning(INTERRUPTED, self.registration, self.event.event_id, exc_info=error)
        self.late = error
        return Outcome.LATER, INTERRUPTED_DELIVERY_DELAY

    def _earlier_outcome(self) -> tuple[Outcome, timedelta | None] | None:
        """The outcome of an earlier pass or of a group, if there is nothing left to do."""
        if isinstance(self.in_group, Outcome):
            return self._delivered() if self.in_group is Outcome.DONE else self.in_group, None
        previous = self.previous
        if previous is None:
            return None
        if previous.status in (DeliveryStatus.COMPLETED, DeliveryStatus.DISCARDED):
            return Outcome.NOTHING, None
        if previous.status == DeliveryStatus.DEAD_LETTER:
            return Outcome.DEAD, None
        if previous.is_delayed:  # type: ignore[attr-defined]  # annotated by timed()
            return Outcome.LATER, max(previous.left, timedelta(seconds=1))
        return None

    def _crashes(self) -> int:
        """How often this handler was running when its worker died, including this time."""
        if self.previous is None:
            return 0
        # If the entry was released, manually or after an error, its worker did not die.
        died = self.is_alone and self.previous.status == DeliveryStatus.RUNNING
        return self.previous.crashes + died

    def _attempt(self, crashes: int) -> Outcome:
        registration = self.registration
        must_show = self.is_alone or not registration.atomic
        if must_show and not self._show(crashes):
            return Outcome.LOST
        failed_before, self.in_group = self.in_group, None
        for failures in range(1, registration.retries + 2):
            try:
                if failures == 1 and isinstance(failed_before, HandlerError):
                    raise failed_before
                return self._call(is_shown=must_show)
            except HandlerError as failed:
                error = failed.error
                if failures > registration.retries or not registration.may_retry(error):
                    raise
                if wanted_delay(error) is not None:
                    raise
                logger.warning(
                    "%s failed for event %s (attempt %d); retrying",
                    registration, self.event.event_id, failures, exc_info=error,
                )  # fmt: skip
                self._send(event_failed, error)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _show(self, crashes: int) -> bool:
        """Commit that this handler is about to run, so that a crash can be charged to it."""
        running = DeliveryStatus.RUNNING
        if self.previous is None:
            # Move it if it was added before and the response was lost.
            return persist(self.using, lambda: self.row.add(running) or self.row.move(running))
        if not persist(self.using, lambda: self.row.move(running, crashes=crashes)):
            return False
        if crashes > self.previous.crashes:
            self.row.note(HistoryKind.RECOVERED)
        return True

    def _call(self, *, is_shown: bool) -> Outcome:
        """The handler and its completed mark, in one transaction if the registration is atomic."""
        if self.registration.atomic:
            outcome = self._call_in_transaction(is_shown=is_shown)
        else:
            outcome = self._offer(is_shown=is_shown)
        return self._delivered() if outcome is Outcome.DONE else outcome

    def _call_in_transaction(self, *, is_shown: bool) -> Outcome:
        self.is_waited = not (self.is_relaxed and may_skip_waiting(self.using))
        with handlers_transaction(self.using, self._keep) as block:
            self.session = None if self.is_waited else block.session
            outcome = self._offer(is_shown=is_shown)
            if outcome is Outcome.LOST:
                raise ClaimLost
            return outcome

    def _keep(self, late: BaseException) -> None:
        self.late = late

    def _delivered(self) -> Outcome:
        notify(
            event_delivered,
            self.sender,
            event=self.event,
            registration=self.registration,
            published_at=self.published_at,
        )
        return Outcome.DONE

    def _offer(self, *, is_shown: bool) -> Outcome:
        """Each call gets its own copy of the payload, so handlers cannot affect each other."""
        registration = self.registration
        if not call_handler(registration, self.event, self.using):
            if is_shown or self.previous is not None:
                self.row.forget()
            return Outcome.NOTHING
        return self._complete(is_shown=is_shown)

    def _complete(self, *, is_shown: bool) -> Outcome:
        done = DeliveryStatus.COMPLETED

        def write() -> bool:
            if is_shown or self.previous is not None:
                attempts = self._failures() + 1
                return self.row.move(done, attempts=attempts, is_waited=self.is_waited)
            return self.row.add(done, is_waited=self.is_waited, is_last=True)

        return Outcome.DONE if persist(self.using, write) else Outcome.LOST

    def _failures(self) -> int:
        """How often it failed before; the death of a worker is not a failure of the handler."""
        previous = self.previous
        return 0 if previous is None or previous.first_failed_at is None else previous.attempts

    def _fail(self, error: BaseException) -> tuple[Outcome, timedelta | None]:
        self.late, settings, attempts = error, get_workflow_settings(), self._failures() + 1
        is_final = attempts >= settings.max_retries or not self.registration.may_retry(error)
        if is_final and settings.dead_letter_enabled:
            return self._dead_letter(error, attempts), None
        delay = delay_after(attempts, error)
        if not self._record(
            DeliveryStatus.FAILED, error, attempts=attempts, available_at=from_now(delay)
        ):
            return Outcome.LOST, None
        logger.warning(
            "%s failed for event %s (pass %d); retrying in %s",
            self.registration, self.event.event_id, attempts, in_words(delay), exc_info=error,
        )  # fmt: skip
        self._send(event_failed, error)
        return Outcome.LATER, delay

    def _dead_letter_poison(self, crashes: int) -> Outcome:
        error = WorkerDied(self.registration.id, crashes)
        return self._dead_letter(
            error, self.previous.attempts if self.previous else 1, crashes=crashes
        )

    def _dead_letter(self, error: BaseException, attempts: int, **values: Any) -> Outcome:
        """Record the final failure; only the process that records it calls the hook."""
        dead = DeliveryStatus.DEAD_LETTER
        if not self._record(dead, error, attempts=attempts, available_at=None, **values):
            return Outcome.LOST
        logger.error(
            "%s failed for event %s for the last time; it is now a dead letter",
            self.registration, self.event.event_id, exc_info=error,
        )  # fmt: skip
        self.registration.report_dead(copied(self.event), error)
        self._send(event_dead, error)
        return Outcome.DEAD

    def _send(self, signal: Signal, error: BaseException) -> None:
        notify(
            signal,
            self.sender,
            event=self.event,
            registration=self.registration,
            exception=real_error(error),
        )

    def _record(self, status: DeliveryStatus, error: BaseException, **values: Any) -> bool:
        error = real_error(error)
        won = persist(self.using, lambda: self._write_failure(status, error, values))
        return won or self.row.is_recorded(status)

    def _write_failure(
        self, status: DeliveryStatus, error: BaseException, values: dict[str, Any]
    ) -> bool:
        with transaction.atomic(using=self.using):
            if self.previous is None:  # a failure is recorded in its own row
                self.row.add(DeliveryStatus.RUNNING)
            values["error_class"] = in_ascii(describe(type(error)))[:255]
            values["first_failed_at"] = Coalesce("first_failed_at", DatabaseNow())
            won = write_texts(
                self.using,
                lambda text, trace: self.row.move(status, error=text, traceback=trace, **values),
                error_text(error),
                traceback_text(error),
            )
            if won:
                died = isinstance(error, WorkerDied)
                kind = HistoryKind.RECOVERED if died else HistoryKind.ATTEMPT_FAILED
                self.row.note(kind, f"{type(error).__name__}: {error_text(error)}")
            return won

    @property
    def row(self) -> DeliveryRow:
        return DeliveryRow(self.using, self.entry_id, self.registration.id, self.token)
