"""One event to one registration: fenced by the claim, recorded, retried, buried."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from random import uniform
from typing import Any

from django.db import transaction
from django.db.models.functions import Coalesce
from django.dispatch import Signal
from django.utils import timezone

from general_manager.atomic import honest_atomic
from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.aside import aside, tell
from general_manager.workflow.encoding import error_text, traceback_text
from general_manager.workflow.engine import HistoryKind
from general_manager.workflow.event_registry.base import copied
from general_manager.workflow.event_registry.registration import Registration, real_error
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.exceptions import RetryAfter, WorkerDied
from general_manager.workflow.models import DeliveryStatus, WorkflowDeliveryAttempt, WorkflowHistory
from general_manager.workflow.models.columns import DatabaseNow, in_
from general_manager.workflow.models.delivery import DeliveryQuerySet
from general_manager.workflow.models.texts import in_ascii, write_texts
from general_manager.workflow.signals import event_dead, event_delivered, event_failed

logger = get_logger(__name__)

LONGEST_REST = timedelta(hours=1)


class Outcome(Enum):
    DONE = "done"
    """In this pass."""
    NOTHING = "nothing"
    """Not wanted, or done in an earlier pass."""
    LATER = "later"
    DEAD = "dead"
    LOST = "lost"
    """The claim is somebody else's by now; what this worker did is rolled back."""


class _LostError(Exception):
    """Rolls back what a worker did that has lost its claim."""


@dataclass(frozen=True, slots=True)
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

    def deliver(self) -> tuple[Outcome, timedelta | None]:
        """Try it; returns the outcome and, for `Outcome.LATER`, how long to rest."""
        earlier = self._earlier_outcome()
        if earlier is not None:
            return earlier
        crashes = self._crashes()
        if crashes >= get_workflow_settings().max_crashes:
            return self._bury_the_killer(crashes), None
        try:
            return self._attempt(crashes), None
        except _LostError:
            return Outcome.LOST, None
        except Exception as error:  # noqa: BLE001 - kept: it becomes the delivery's failure
            return self._fail(error)

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
            left = (previous.available_at or timezone.now()) - timezone.now()
            return Outcome.LATER, max(left, timedelta(seconds=1))
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
            except Exception as error:
                if isinstance(error, _LostError):
                    raise
                if failures > registration.retries or not registration.may_retry(error):
                    raise
                if isinstance(error, RetryAfter):
                    raise
                logger.warning(
                    "%s failed for event %s (attempt %d); trying again",
                    registration, self.event.event_id, failures, exc_info=True,
                )  # fmt: skip
                self._tell_of(event_failed, error)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _show(self, crashes: int) -> bool:
        """Commit that this handler is about to run, so that its death can be charged to it."""
        if self.previous is None:
            return self._rows.add(
                self.entry_id, self.registration.id, self.token, DeliveryStatus.RUNNING
            )
        if not self._move(DeliveryStatus.RUNNING, crashes=crashes):
            return False
        if crashes > self.previous.crashes:
            self._note(HistoryKind.RECOVERED)
        return True

    def _call(self, *, is_shown: bool) -> Outcome:
        """The handler and its completed mark, in one transaction if the registration is atomic."""
        if self.registration.atomic:
            with honest_atomic(self.using):
                outcome = self._offer(is_shown=is_shown)
                if outcome is Outcome.LOST:
                    raise _LostError
        else:
            outcome = self._offer(is_shown=is_shown)
        if outcome is Outcome.DONE:
            tell(
                event_delivered,
                self.sender,
                event=self.event,
                registration=self.registration,
                published_at=self.published_at,
            )
        return outcome

    def _offer(self, *, is_shown: bool) -> Outcome:
        """Each call has a payload of its own: nobody sees what another made of it."""
        registration = self.registration
        with aside(atomic=False):
            if registration.when is not None and not registration.wants(copied(self.event)):
                if is_shown or self.previous is not None:
                    self._rows.forget(self.entry_id, registration.id, self.token)
                return Outcome.NOTHING
            registration.call(copied(self.event))
        return self._complete(is_shown=is_shown)

    def _complete(self, *, is_shown: bool) -> Outcome:
        done = DeliveryStatus.COMPLETED
        if is_shown or self.previous is not None:
            won = self._move(done, passes=self._failures() + 1)
        else:
            won = self._rows.add(self.entry_id, self.registration.id, self.token, done)
        return Outcome.DONE if won else Outcome.LOST

    def _failures(self) -> int:
        """How often it failed before; the death of a worker is no failure of the handler."""
        previous = self.previous
        return 0 if previous is None or previous.first_failed_at is None else previous.passes

    def _fail(self, error: Exception) -> tuple[Outcome, timedelta | None]:
        settings = get_workflow_settings()
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

    def _bury(self, error: Exception, passes: int, **values: Any) -> Outcome:
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

    def _tell_of(self, signal: Signal, error: Exception) -> None:
        tell(
            signal,
            self.sender,
            event=self.event,
            registration=self.registration,
            exception=real_error(error),
        )

    def _record(self, status: DeliveryStatus, error: Exception, **values: Any) -> bool:
        error = real_error(error)
        with transaction.atomic(using=self.using):
            if self.previous is None:  # a failure is recorded in a row of its own
                self._rows.add(
                    self.entry_id, self.registration.id, self.token, DeliveryStatus.RUNNING
                )
            won = write_texts(
                self.using,
                lambda text, trace: self._move(
                    status,
                    error_class=in_ascii(f"{type(error).__module__}.{type(error).__qualname__}")[
                        :255
                    ],
                    error=text,
                    traceback=trace,
                    first_failed_at=Coalesce("first_failed_at", DatabaseNow()),
                    **values,
                ),
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

    def _move(self, to: DeliveryStatus, **values: Any) -> bool:
        return self._rows.move(self.entry_id, self.registration.id, self.token, to, **values)

    @property
    def _rows(self) -> DeliveryQuerySet:
        return WorkflowDeliveryAttempt.objects.using(self.using)


def rest_after(passes: int, error: Exception) -> timedelta:
    """Exponential backoff with jitter, at most an hour; or what the handler asked for."""
    if isinstance(error, RetryAfter):
        return timedelta(seconds=error.seconds)
    base = get_workflow_settings().retry_backoff
    rest = min(LONGEST_REST, base * float(2 ** min(passes - 1, 20)))
    return rest * uniform(0.8, 1.2)  # noqa: S311 - spread, not secrecy
