"""A timeline in translatable words."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import QuerySet
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.durations import in_words
from general_manager.escaping import visible
from general_manager.workflow.admin.bounds import SHORT, Bounded
from general_manager.workflow.admin.fields.links import Links
from general_manager.workflow.models import WorkflowHistory
from general_manager.workflow.operations.moments import Moment, in_zone

WORDS: Final[dict[str, tuple[Promise, str]]] = {
    "published": (gettext_lazy("Event published"), "event"),
    "claimed": (gettext_lazy("Claimed from the outbox"), "event"),
    "queued_in_order": (gettext_lazy("Queued in order for"), "waiting"),
    "delivering": (gettext_lazy("Being delivered to"), "running"),
    "delivered": (gettext_lazy("Delivered to"), "completed"),
    "dead": (gettext_lazy("Dead letter of"), "failed"),
    "given_up": (gettext_lazy("Discarded for"), "cancelled"),
    "unregistered": (gettext_lazy("Waiting for a worker that registers"), "waiting"),
    "unmatched": (gettext_lazy("No handler matched"), "completed"),
    "created": (gettext_lazy("Execution created:"), "running"),
    "started": (gettext_lazy("Execution started:"), "running"),
    "completed": (gettext_lazy("Completed:"), "completed"),
    "failed": (gettext_lazy("Failed:"), "failed"),
    "cancelled": (gettext_lazy("Cancelled"), "cancelled"),
    "step": (gettext_lazy("Step"), "completed"),
    "step_failed": (gettext_lazy("Step failed for good:"), "failed"),
    "attempt_runs": (gettext_lazy("An attempt is running of step"), "running"),
    "retrying": (gettext_lazy("Waiting for the next attempt of step"), "waiting"),
    "saga": (gettext_lazy("Saga begun:"), "running"),
    "saga_closed": (gettext_lazy("Saga ended well:"), "completed"),
    "saga_undone": (gettext_lazy("Saga undone:"), "cancelled"),
    "saga_incomplete": (gettext_lazy("Saga not undone completely:"), "failed"),
    "undone": (gettext_lazy("Undone by"), "cancelled"),
    "undo_failed": (gettext_lazy("Undo failed for good:"), "failed"),
    "undoing": (gettext_lazy("Undoing saga"), "waiting"),
    "end_requested": (gettext_lazy("To be undone and ended"), "waiting"),
    "wait_closed": (gettext_lazy("Closed, as its saga is undone:"), "waiting"),
    "in_doubt": (gettext_lazy("In doubt (started, outcome unknown):"), "failed"),
    "gathers": (gettext_lazy("Waiting for children:"), "waiting"),
    "gathered": (gettext_lazy("All children are over:"), "completed"),
    "gather_failed": (gettext_lazy("A child failed, and all are over:"), "failed"),
    "children_ended": (gettext_lazy("All children are over:"), "completed"),
    "waits": (gettext_lazy("Waiting for"), "waiting"),
    "sleeps": (gettext_lazy("Sleeping:"), "waiting"),
    "answered": (gettext_lazy("Answer received:"), "completed"),
    "answered_by_event": (gettext_lazy("Answered by an event:"), "completed"),
    "timed_out": (gettext_lazy("Timed out without an answer:"), "waiting"),
    "wait_ended": (gettext_lazy("Timed out manually:"), "waiting"),
    "woke": (gettext_lazy("Sleep ended:"), "completed"),
    "recovered": (gettext_lazy("Recovered after its worker died"), "failed"),
    "attempt_failed": (gettext_lazy("An attempt failed"), "failed"),
    "overdue": (gettext_lazy("Ran longer than its timeout"), "failed"),
    "deadline_passed": (gettext_lazy("Did not end within its deadline"), "failed"),
    "interrupted": (
        gettext_lazy("Interrupted by the database; continues in another run"),
        "waiting",
    ),
    "handler_missing": (gettext_lazy("Handler not registered; left to another worker"), "waiting"),
    "resumed": (gettext_lazy("Answer received:"), "completed"),
    "signal": (gettext_lazy("Signal sent:"), "event"),
    "signal_unread": (gettext_lazy("Ended without reading the signal"), "waiting"),
    "signalled": (gettext_lazy("Answered by a signal:"), "completed"),
    "event_received": (gettext_lazy("Answered by an event:"), "completed"),
    "look_back_cut": (gettext_lazy("Looks back further than events are kept:"), "waiting"),
    "wait_timed_out": (gettext_lazy("Timed out without an answer:"), "waiting"),
    "woken": (gettext_lazy("Woken early"), "running"),
    "resolved": (gettext_lazy("A step in doubt was resolved"), "running"),
    "continued": (gettext_lazy("Continued by execution"), "running"),
    "continued_as_new": (gettext_lazy("Continued as new, as execution"), "running"),
    "continues": (gettext_lazy("Continues execution"), "running"),
    "forgotten": (gettext_lazy("Taken back, to run again:"), "running"),
    "signals_returned": (gettext_lazy("Signals to be read again:"), "running"),
    "signal_withdrawn": (gettext_lazy("Signal withdrawn:"), "running"),
    "events_returned": (gettext_lazy("Events to be taken again:"), "running"),
    "event_withdrawn": (gettext_lazy("Event withdrawn:"), "running"),
    "requeued": (gettext_lazy("Queued for redelivery"), "running"),
    "discarded": (gettext_lazy("Discarded"), "cancelled"),
    "passed_over": (gettext_lazy("Skipped: no longer blocks its lane"), "cancelled"),
    "schedule_changed": (gettext_lazy("Changed by a deploy:"), "running"),
    "slots_missed": (gettext_lazy("Slots missed, and dropped:"), "waiting"),
    "slot_skipped": (gettext_lazy("Slot skipped, an execution was active:"), "waiting"),
    "start_failed": (gettext_lazy("A slot could not start"), "failed"),
    "parked": (gettext_lazy("Parked, because it is paused:"), "waiting"),
    "paused": (gettext_lazy("Paused"), "waiting"),
    "unpaused": (gettext_lazy("Unpaused"), "running"),
    "run_now": (gettext_lazy("Run now, as execution"), "running"),
    "left_out": (gettext_lazy("Not shown:"), "waiting"),
}

REPEATS_ITS_NAME: Final = (
    "resumed", "signalled", "event_received", "look_back_cut", "wait_timed_out", "wait_ended",
)  # fmt: skip
"""Kinds whose detail is the name of the wait."""


@dataclass(frozen=True, slots=True)
class Line:
    """A moment of the timeline as the page shows it."""

    at: datetime
    day: str
    """Empty if it is the day of the line before."""
    offset: str
    words: str
    about: str | SafeString
    by: str
    detail: str
    took: str
    tone: str
    gap: str
    url: str


def moments_of(notes: "QuerySet[WorkflowHistory]") -> list[Moment]:
    """The moments of history entries; long texts are cut."""
    return [
        Moment(one.at, one.kind, by=one.by, detail=one.detail)
        for one in Bounded(WorkflowHistory).read(notes)
    ]


def timeline_lines(moments: Iterable[Moment], links: Links) -> list[Line]:
    lines: list[Line] = []
    day = ""
    for moment in moments:
        today = f"{in_zone(moment.at):%Y-%m-%d}"
        lines.append(_line(moment, links, "" if today == day else today))
        day = today
    return lines


def _line(moment: Moment, links: Links, day: str) -> Line:
    words, tone = WORDS.get(moment.what, (moment.what, "running"))
    about = moment.about
    detail = moment.detail
    if moment.what == "attempt_failed" and moment.number is not None:
        words = _("Attempt %d failed") % moment.number
        about = _("in step “%s”") % moment.about if moment.about else _("between two steps")
    elif moment.what in REPEATS_ITS_NAME and detail == about:
        detail = ""
    url = ""
    if moment.event_id is not None:
        url = links.to_event(moment.event_id)
    elif moment.execution_id is not None and moment.what == "created":
        url = links.to_execution(moment.execution_id)
    elif moment.what in ("continued", "continued_as_new", "continues") and moment.detail:
        url = links.to_execution(moment.detail)
    seconds = moment.offset.total_seconds()
    return Line(
        at=in_zone(moment.at),
        day=day,
        offset=f"+{seconds:.3f} s" if seconds < 60 else f"+{in_words(moment.offset)}",
        words=str(words),
        about=visible(about[:SHORT]),
        by=visible(moment.by[:SHORT]),
        detail=visible(detail[:1000], lines=True),
        took=in_words(moment.took) if moment.took is not None else "",
        tone=tone,
        gap=_("%(time)s later") % {"time": in_words(moment.gap)} if moment.gap else "",
        url=url,
    )
