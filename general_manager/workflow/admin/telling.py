"""A timeline in words that can be translated."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.urls import reverse
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.workflow.admin.formats import in_short
from general_manager.workflow.timeline import Moment

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
}

REPEATS_ITS_NAME: Final = ("resumed", "wait_timed_out", "wait_ended")
"""Their detail is the name of the wait."""


@dataclass(frozen=True, slots=True)
class Line:
    """A moment as the page shows it."""

    at: datetime
    offset: str
    words: str
    about: str | SafeString
    by: str
    detail: str
    took: str
    tone: str
    gap: str
    url: str


def told(moments: Iterable[Moment]) -> list[Line]:
    return [_line(moment) for moment in moments]


def _line(moment: Moment) -> Line:
    words, tone = WORDS.get(moment.what, (moment.what, "running"))
    about: Any = moment.about
    detail = moment.detail
    if moment.what == "attempt_failed" and moment.number is not None:
        words = _("Attempt %d failed") % moment.number
        about = _("in step “%s”") % moment.about if moment.about else _("between two steps")
    elif moment.what in REPEATS_ITS_NAME and detail == about:
        detail = ""
    url = ""
    if moment.event_id is not None:
        url = reverse("admin:general_manager_event_by_id", args=[moment.event_id])
    elif moment.execution_id is not None and moment.what == "created":
        url = reverse("admin:general_manager_execution_by_id", args=[moment.execution_id])
    elif moment.what in ("continued", "continues") and moment.detail:
        url = reverse("admin:general_manager_execution_by_id", args=[moment.detail])
    seconds = moment.offset.total_seconds()
    return Line(
        at=moment.at,
        offset=f"+{seconds:.3f} s" if seconds < 60 else f"+{in_short(moment.offset)}",
        words=str(words),
        about=about,
        by=moment.by,
        detail=detail[:1000],
        took=in_short(moment.took) if moment.took is not None else "",
        tone=tone,
        gap=_("%(time)s later") % {"time": in_short(moment.gap)} if moment.gap else "",
        url=url,
    )
