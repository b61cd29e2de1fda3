"""One event to one registration: fenced by the claim, recorded, retried, buried."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models.functions import Coalesce
from django.dispatch import Signal

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.aside import tell
from general_manager.workflow.connections import persist
from general_manager.workflow.encoding import error_text, traceback_text
from general_manager.workflow.engine import HistoryKind
from general_manager.workflow.event_registry.base import copied
from general_manager.workflow.event_registry.registration import Registration, real_error
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.exceptions import WorkerDied, wanted_delay
from general_manager.workflow.importing import describe
from general_manager.workflow.models import DeliveryStatus, WorkflowDeliveryAttempt, WorkflowHistory
from general_manager.workflow.models.columns import DatabaseNow, in_
from general_manager.workflow.models.delivery import DeliveryQuerySet
from general_manager.workflow.models.texts import in_ascii, write_texts
from general_manager.workflow.signals import event_dead, event_delivered, event_failed
from general_manager.workflow.verdicts import (
    INTERRUPTED_REST,
    MOST_INTERRUPTED,
    ClaimLost,
    HandlerError,
    Outcome,
    call_handler,
    handlers_transaction,
    is_interruption,
    rest_after,
)

logger = get_logger(__name__)


INTERRUPTED = "The database interrupted %s for event %s; trying again"


@dataclass(slots=True)
class Delivery:
    """One event, one registration, under one claim."""

    using: str
    entry_id: int
    token: str
    event: WorkflowEvent
    registration: Registration
    previous: WorkflowDeliveryAttempt | None
    is_alone: bool
    sender: type
    published_at: datetime
    passes: int = 0
    """How often the entry was looked at before, whatever came of it."""
    late: BaseException | None = None
    """What was raised, by whatever code: the chunk looks for a time limit."""

    def deliver(self) -> tuple[Outcome, timedelta | None]:
        """Try it; returns the outcome and, for `Outcome.LATER`, how long to rest.

        Only what the handler's code raises is its failure, and what keeps its writes from being
        committed. What the database interrupts is tried again, once at once.
        """
        earlier = self._earlier_outcome()
        if earlier is not None:
            return earlier
        crashes = self._crashes()
        if crashes >= get_workflow_settings().max_crashes:
            return self._bury_the_killer(crashes), None
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
                if not self._is_recorded(DeliveryStatus.COMPLETED):
                    continue
            if outcome is Outcome.LOST and self._is_recorded(DeliveryStatus.COMPLETED):
                outcome = self._delivered()  # by a commit whose answer was lost
            return outcome, None

    def _interrupted(self, error: Exception) -> tuple[Outcome, timedelta | None]:
        if self._is_recorded(DeliveryStatus.COMPLETED):
            self.late = error
            return self._delivered(), None
        if self.passes >= MOST_INTERRUPTED:
            return self._fail(error)
        logger.warning(INTERRUPTED, self.registration, self.event.event_id, exc_info=error)
        self.late = error
        return Outcome.LATER, INTERRUPTED_REST

    def _is_recorded(self, *statuses: DeliveryStatus) -> bool:
        """Whether this claim wrote one of *statuses*: asked where an answer was lost."""
        rows = self._rows.filter(outbox_id=self.entry_id, registration_id=self.registration.id)
        written = rows.filter(claim_token=self.token, status__in=statuses)
        return persist(self.using, written.exists)

    def _earlier_outcome(self) -> tuple[Outcome, timedelta | None] | None:
        """What an earlier pass made of it, if there is nothing to do in this one."""
        previous = self.previous
        if previous is None:
            return None
        if previous.status in (DeliveryStatus.COMPLETED, DeliveryStatus.DISCARDED):
            return Outcome.NOTHING, None
        if previous.status == DeliveryStatus.DEAD_LETTER:
            return Outcome.DEAD, None
        if previous.rests:  # type: ignore[attr-defined]  # annotated by of_entries()
            return Outcome.LATER, max(previous.left, timedelta(seconds=1))  # type: ignore[attr-defined]
        return None

    def _crashes(self) -> int:
        """How often this handler was running when its worker died, this time included."""
        if self.previous is None:
            return 0
        # An entry that was given back, by a person or in trouble, had a worker that lived.
        died = self.is_alone and self.previous.status == DeliveryStatus.RUNNING
        return self.previous.crashes + died

    def _attempt(self, crashes: int) -> Outcome:
        registration = self.registration
        must_show = self.is_alone or not registration.atomic
        if must_show and not self._show(crashes):
            return Outcome.LOST
        for failures in range(1, registration.retries + 2):
            try:
                return self._call(is_shown=must_show)
            except HandlerError as failed:
                error = failed.error
                if failures > registration.retries or not registration.may_retry(error):
                    raise
                if wanted_delay(error) is not None:
                    raise
                logger.warning(
                    "%s failed for event %s (attempt %d); trying again",
                    registration, self.event.event_id, failures, exc_info=error,
                )  # fmt: skip
                self._tell_of(event_failed, error)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _show(self, crashes: int) -> bool:
        """Commit that this handler is about to run, so that its death can be charged to it."""
        running = DeliveryStatus.RUNNING
        if self.previous is None:
            # Moved if it was added before, and the answer was lost.
            return persist(self.using, lambda: self._add(running) or self._move(running))
        if not persist(self.using, lambda: self._move(running, crashes=crashes)):
            return False
        if crashes > self.previous.crashes:
            self._note(HistoryKind.RECOVERED)
        return True

    def _call(self, *, is_shown: bool) -> Outcome:
        """The handler and its completed mark, in one transaction if the registration is atomic."""
        if self.registration.atomic:
            outcome = self._call_in_transaction(is_shown=is_shown)
        else:
            outcome = self._offer(is_shown=is_shown)
        return self._delivered() if outcome is Outcome.DONE else outcome

    def _call_in_transaction(self, *, is_shown: bool) -> Outcome:
        with handlers_transaction(self.using, self._keep):
            outcome = self._offer(is_shown=is_shown)
            if outcome is Outcome.LOST:
                raise ClaimLost
            return outcome

    def _keep(self, late: BaseException) -> None:
        self.late = late

    def _delivered(self) -> Outcome:
        tell(
            event_delivered,
            self.sender,
            event=self.event,
            registration=self.registration,
            published_at=self.published_at,
        )
        return Outcome.DONE

    def _offer(self, *, is_shown: bool) -> Outcome:
        """Each call has a payload of its own: nobody sees what another made of it."""
        registration = self.registration
        if not call_handler(registration, self.event, self.using):
            if is_shown or self.previous is not None:
                self._rows.forget(self.entry_id, registration.id, self.token)
            return Outcome.NOTHING
        return self._complete(is_shown=is_shown)

    def _complete(self, *, is_shown: bool) -> Outcome:
        def write() -> bool:
            if is_shown or self.previous is not None:
                return self._move(DeliveryStatus.COMPLETED, passes=self._failures() + 1)
            return self._add(DeliveryStatus.COMPLETED)

        return Outcome.DONE if persist(self.using, write) else Outcome.LOST

    def _failures(self) -> int:
        """How often it failed before; the death of a worker is no failure of the handler."""
        previous = self.previous
        return 0 if previous is None or previous.first_failed_at is None else previous.passes

    def _fail(self, error: BaseException) -> tuple[Outcome, timedelta | None]:
        self.late, settings = error, get_workflow_settings()
        passes = self._failures() + 1
        is_final = passes >= settings.max_retries or not self.registration.may_retry(error)
        if is_final and settings.dead_letter_enabled:
            return self._bury(error, passes), None
        rest = rest_after(passes, error)
        if not self._record(DeliveryStatus.FAILED, error, passes=passes, available_at=in_(rest)):
            return Outcome.LOST, None
        logger.warning(
            "%s failed for event %s (pass %d); next try in %s",
            self.registration, self.event.event_id, passes, rest, exc_info=error,
        )  # fmt: skip
        self._tell_of(event_failed, error)
        return Outcome.LATER, rest

    def _bury_the_killer(self, crashes: int) -> Outcome:
        error = WorkerDied(self.registration.id, crashes)
        return self._bury(error, self.previous.passes if self.previous else 1, crashes=crashes)

    def _bury(self, error: BaseException, passes: int, **values: Any) -> Outcome:
        """The final failure: whoever writes it tells the hook, so the hook is told once."""
        dead = DeliveryStatus.DEAD_LETTER
        if not self._record(dead, error, passes=passes, available_at=None, **values):
            return Outcome.LOST
        logger.error(
            "%s failed for event %s for the last time",
            self.registration, self.event.event_id, exc_info=error,
        )  # fmt: skip
        self.registration.report_dead(copied(self.event), error)
        self._tell_of(event_dead, error)
        return Outcome.DEAD

    def _tell_of(self, signal: Signal, error: BaseException) -> None:
        tell(
            signal,
            self.sender,
            event=self.event,
            registration=self.registration,
            exception=real_error(error),
        )

    def _record(self, status: DeliveryStatus, error: BaseException, **values: Any) -> bool:
        error = real_error(error)
        won = persist(self.using, lambda: self._write_failure(status, error, values))
        return won or self._is_recorded(status)

    def _write_failure(
        self, status: DeliveryStatus, error: BaseException, values: dict[str, Any]
    ) -> bool:
        with transaction.atomic(using=self.using):
            if self.previous is None:  # a failure is recorded in a row of its own
                self._add(DeliveryStatus.RUNNING)
            values["error_class"] = in_ascii(describe(type(error)))[:255]
            values["first_failed_at"] = Coalesce("first_failed_at", DatabaseNow())
            won = write_texts(
                self.using,
                lambda text, trace: self._move(status, error=text, traceback=trace, **values),
                error_text(error),
                traceback_text(error),
            )
            if won:
                died = isinstance(error, WorkerDied)
                kind = HistoryKind.RECOVERED if died else HistoryKind.ATTEMPT_FAILED
                self._note(kind, f"{type(error).__name__}: {error_text(error)}")
            return won

    def _note(self, kind: HistoryKind, detail: str = "") -> None:
        row = self._rows.filter(outbox_id=self.entry_id, registration_id=self.registration.id)
        history = WorkflowHistory.objects.using(self.using)
        history.note(kind, delivery_id=row.values_list("pk", flat=True).get(), detail=detail)

    def _add(self, status: DeliveryStatus) -> bool:
        return self._rows.add(self.entry_id, self.registration.id, self.token, status)

    def _move(self, to: DeliveryStatus, **values: Any) -> bool:
        return self._rows.move(self.entry_id, self.registration.id, self.token, to, **values)

    @property
    def _rows(self) -> DeliveryQuerySet:
        return WorkflowDeliveryAttempt.objects.using(self.using)
