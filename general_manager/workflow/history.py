"""Unusual events in the life of an execution, a delivery or a schedule."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

__all__ = ["HistoryEntry", "HistoryKind"]


class HistoryKind(StrEnum):
    """The kinds of history entries of executions, deliveries and schedules."""

    RECOVERED = "recovered"
    """Its worker died."""
    ATTEMPT_FAILED = "attempt_failed"
    """A run or a delivery failed, and is retried; or it failed for good."""
    OVERDUE = "overdue"
    """A run took longer than the workflow's timeout."""
    DEADLINE_PASSED = "deadline_passed"
    """The execution did not end within the workflow's deadline."""
    HANDLER_MISSING = "handler_missing"
    """A process without the handler left it to another."""
    INTERRUPTED = "interrupted"
    """The database connection was lost, or rolled a run back; another run continues."""
    RESUMED = "resumed"
    """A wait was answered."""
    SIGNALLED = "signalled"
    """A wait was answered by a signal."""
    EVENT_RECEIVED = "event_received"
    """A wait was answered by an event, or by the state of an object."""
    LOOK_BACK_CUT = "look_back_cut"
    """A wait was opened that looks back further than retention keeps events."""
    WAIT_TIMED_OUT = "wait_timed_out"
    """A wait timed out without an answer."""
    WAIT_ENDED = "wait_ended"
    """A wait was timed out manually."""
    CHILDREN_ENDED = "children_ended"
    """All children of a gather are over; the detail is the gather's name."""
    WOKEN = "woken"
    """A retry delay or a sleep was ended early."""
    CANCELLED = "cancelled"
    """The execution was cancelled; the detail is the reason."""
    END_REQUESTED = "end_requested"
    """The execution is to undo its sagas and then to end; the detail is the cause."""
    UNDOING = "undoing"
    """A saga began to be undone; the detail is what left its block."""
    RESOLVED = "resolved"
    """The outcome of a step in doubt was entered."""
    CONTINUED = "continued"
    """A failed or cancelled execution was continued by a fresh one."""
    CONTINUED_AS_NEW = "continued_as_new"
    """The execution ended itself, and a new one goes on in its place."""
    CONTINUES = "continues"
    """A fresh execution continues a failed or cancelled one, or one that continued as new."""
    FORGOTTEN = "forgotten"
    """Steps and answers that a fresh execution did not take over."""
    SIGNALS_RETURNED = "signals_returned"
    """Signals that forgotten waits had taken are kept again; the detail lists their names."""
    SIGNAL_WITHDRAWN = "signal_withdrawn"
    """The signal that answered a wait was withdrawn, because the wait asks again."""
    EVENTS_RETURNED = "events_returned"
    """Events that forgotten waits had taken can be taken again; the detail lists their keys."""
    EVENT_WITHDRAWN = "event_withdrawn"
    """The event that answered a wait was withdrawn, because the wait asks again."""
    REQUEUED = "requeued"
    """A dead letter was queued for redelivery."""
    DISCARDED = "discarded"
    """A dead letter was discarded."""
    PASSED_OVER = "passed_over"
    """A dead letter no longer blocks its lane; the detail is the reason."""
    SCHEDULE_CHANGED = "schedule_changed"
    """A schedule got other options, by a deploy."""
    SLOTS_MISSED = "slots_missed"
    """Slots of a schedule came while no tick ran, and were dropped."""
    SLOT_SKIPPED = "slot_skipped"
    """A slot started nothing, because an execution of its schedule was active."""
    START_FAILED = "start_failed"
    """A slot could not be started, and stays due."""
    PAUSED = "paused"
    """A schedule, workflow or registration was paused; the detail is the reason."""
    UNPAUSED = "unpaused"
    """A schedule, workflow or registration was unpaused."""
    RUN_NOW = "run_now"
    """A schedule's workflow was started by a person; the detail is the execution's id."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One history entry; *by* is empty if the actor is unknown.

    A failed attempt has its *number*, and the *step* in which it failed, if any. An answer and the
    end of a wait have the wait's name as *step*.
    """

    kind: HistoryKind
    at: datetime
    by: str = ""
    detail: str = ""
    step: str = ""
    number: int | None = None
