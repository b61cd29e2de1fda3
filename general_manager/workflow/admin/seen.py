"""What a person saw when asked: it travels with the page, and must still be so when they confirm.

Signed, because a name may hold what a form changes on its way, such as the end of a line.
"""

from collections.abc import Mapping
from typing import Any, Final

from django.core import signing
from django.utils.translation import gettext as _

from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.exceptions import ChangedMeanwhileError
from general_manager.workflow.models import WorkflowDeliveryAttempt, WorkflowExecutionRecord

SALT: Final = "general_manager.admin.seen"
SEEN: Final = "seen"
"""The name of the field, and of the argument of a link."""


def sign(value: Any) -> str:
    return signing.dumps(value, salt=SALT, compress=True)


def unsign(text: str | None) -> Any:
    """What `sign` was given, or `None` for anything else."""
    try:
        return signing.loads(text or "", salt=SALT)
    except (signing.BadSignature, ValueError):
        return None


WITH_DETAIL: Final = ("asks", "sleeps", "retries")
"""Situations of which one more thing matters: which question, which sleep, which attempt."""


def situation(record: WorkflowExecutionRecord) -> list[str]:
    """How an execution stands, as far as it matters to who acts on it.

    Ready and running are one: an execution that is busy changes between them all the time.
    """
    if record.state not in ACTIVE_STATES:
        return [record.state]
    if record.waiting_for is not None:
        return ["asks", record.waiting_for]
    if record.state == WorkflowState.WAITING:
        return ["sleeps", str(record.waiting_since)]
    if record.state == WorkflowState.PENDING and not record.ready:
        return ["retries", str(record.attempts)]
    return ["runs"]


def in_words(seen: Any) -> str:
    """A situation as a sentence says it."""
    kind, *about = seen if isinstance(seen, list) and seen else [""]
    if kind == "asks" and about:
        return _("waiting for “%s”") % about[0]
    words = {
        "sleeps": _("sleeping"),
        "retries": _("waiting for a retry"),
        "runs": _("running"),
        "completed": _("completed"),
        "failed": _("failed"),
        "cancelled": _("cancelled"),
        "dead_letter": _("a dead letter"),
        "discarded": _("discarded"),
    }
    return words.get(str(kind), _("something else"))


def dead_since(letter: WorkflowDeliveryAttempt) -> list[str]:
    """Which death of a delivery it is: it may be replayed, and die again."""
    return [letter.status, str(letter.passes), str(letter.finished_at)]


def require_same(seen: Any, now: list[str]) -> None:
    """Raises `ChangedMeanwhileError` unless *now* is what was seen."""
    if seen == now:
        return
    if seen is None:
        raise ChangedMeanwhileError(_("The form did not say what you had seen: confirm again."))
    raise ChangedMeanwhileError(
        _("It was %(was)s when you were asked, and it is %(now)s now.")
        % {"was": in_words(seen), "now": in_words(now)}
        if in_words(seen) != in_words(now)
        else _("It has changed since you were asked.")
    )


def seen_of(request_data: Mapping[str, Any]) -> Any:
    return unsign(request_data.get(SEEN))
