"""A timeline in words that can be translated."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.durations import in_words
from general_manager.escaping import visible
from general_manager.workflow.admin.bounds import SHORT
from general_manager.workflow.admin.links import Links
from general_manager.workflow.timeline import Moment, in_zone

WORDS: Final[dict[str, tuple[Promise, str]]] = {
    "published": (gettext_lazy("Event published"), "event"),
    "claimed": (gettext_lazy("Taken from the outbox"), "event"),
    "delivering": (gettext_lazy("Being delivered to"), "running"),
    "delivered": (gettext_lazy("Delivered to"), "completed"),
    "dead": (gettext_lazy("Dead letter of"), "failed"),
    "given_up": (gettext_lazy("Given up for"), "cancelled"),
    "created": (gettext_lazy("Execution created:"), "running"),
    "started": (gettext_lazy("Execution started:"), "running"),
    "completed": (gettext_lazy("Completed:"), "completed"),
    "failed": (gettext_lazy("Failed:"), "failed"),
    "cancelled": (gettext_lazy("Cancelled"), "cancelled"),
    "step": (gettext_lazy("Step"), "completed"),
    "in_doubt": (gettext_lazy("In doubt: began, and nobody knows how it ended:"), "failed"),
    "waits": (gettext_lazy("Waits for"), "waiting"),
    "sleeps": (gettext_lazy("Sleeps:"), "waiting"),
    "answered": (gettext_lazy("Answer received:"), "completed"),
    "timed_out": (gettext_lazy("Nobody answered in time:"), "waiting"),
    "wait_ended": (gettext_lazy("Timed out by hand:"), "waiting"),
    "woke": (gettext_lazy("Sleep ended:"), "completed"),
    "recovered": (gettext_lazy("Recovered after its worker died"), "failed"),
    "attempt_failed": (gettext_lazy("An attempt failed"), "failed"),
    "overdue": (gettext_lazy("Ran longer than its timeout"), "failed"),
    "interrupted": (gettext_lazy("Interrupted by the database; another run goes on"), "waiting"),
    "strayed": (gettext_lazy("Left to a process that knows the handler"), "waiting"),
    "resumed": (gettext_lazy("Answer received:"), "completed"),
    "wait_timed_out": (gettext_lazy("Nobody answered in time:"), "waiting"),
    "woken": (gettext_lazy("Woken early"), "running"),
    "resolved": (gettext_lazy("A step in doubt was resolved"), "running"),
    "continued": (gettext_lazy("Continued by execution"), "running"),
    "continues": (gettext_lazy("Continues execution"), "running"),
    "forgotten": (gettext_lazy("Taken back, to happen again:"), "running"),
    "replayed": (gettext_lazy("Queued for redelivery"), "running"),
    "discarded": (gettext_lazy("Given up"), "cancelled"),
    "left_out": (gettext_lazy("Not shown:"), "waiting"),
}

REPEATS_ITS_NAME: Final = ("resumed", "wait_timed_out", "wait_ended")
"""Their detail is the name of the wait."""


@dataclass(frozen=True, slots=True)
class Line:
    """A moment as the page shows it."""

    at: datetime
    day: str
    """Where it differs from the line before."""
    offset: str
    words: str
    about: str | SafeString
    by: str
    detail: str
    took: str
    tone: str
    gap: str
    url: str


def told(moments: Iterable[Moment], links: Links) -> list[Line]:
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
    elif moment.what in ("continued", "continues") and moment.detail:
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
