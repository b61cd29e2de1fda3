"""The situation a user saw when asked: the page carries it, and it must hold on confirmation.

Signed, because a form would change some characters in names, such as line ends.
"""

from collections.abc import Mapping
from typing import Any, Final

from django.core import signing
from django.db import DEFAULT_DB_ALIAS
from django.utils.translation import gettext as _

from general_manager.workflow.core.actors import current_actor
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.exceptions import ChangedMeanwhileError
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowSignal,
)
from general_manager.workflow.models.executions.taking import chain_of

SEEN_SALT: Final = "general_manager.admin.seen"
SEEN: Final = "seen"
"""The name of the form field and of the query argument."""


def sign(value: Any) -> str:
    return signing.dumps(value, salt=SEEN_SALT, compress=True)


def unsign(text: str | None) -> Any:
    """The value that `sign` was given; `None` if *text* is not signed by it."""
    try:
        return signing.loads(text or "", salt=SEEN_SALT)
    except (signing.BadSignature, ValueError):
        return None


WITH_DETAIL: Final = ("asks", "sleeps", "retries")
"""Situations with one more detail: which question, which sleep, which attempt."""


def situation(record: WorkflowExecutionRecord) -> list[str]:
    """The state of an execution as far as acts depend on it.

    Ready and running are one situation: a busy execution alternates between them.
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


def last_signal(record: WorkflowExecutionRecord) -> str:
    """Identifies the last signal that the current actor has sent: sending leaves no other trace."""
    signals = WorkflowSignal.objects.using(record._state.db or DEFAULT_DB_ALIAS)
    mine = signals.filter(chain=chain_of(record), sent_by=current_actor()).order_by("-pk")
    return str(mine.values_list("pk", flat=True).first() or "")


def seen_in_words(seen: Any) -> str:
    """A situation in words, for use in a sentence."""
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
    return words.get(str(kind), _("in another state"))


def dead_since(letter: WorkflowDeliveryAttempt) -> list[str]:
    """Identifies this failure of the delivery: it may be requeued and fail for good again."""
    return [letter.status, str(letter.attempts), str(letter.finished_at)]


def require_same(seen: Any, now: list[str]) -> None:
    """Raise `ChangedMeanwhileError` unless *now* equals *seen*."""
    if seen == now:
        return
    if seen is None:
        raise ChangedMeanwhileError(
            _("The form does not contain the state that you confirmed. Confirm again.")
        )
    raise ChangedMeanwhileError(
        _("It was %(was)s when you were asked and is %(now)s now.")
        % {"was": seen_in_words(seen), "now": seen_in_words(now)}
        if seen_in_words(seen) != seen_in_words(now)
        else _("It has changed since you were asked. Confirm again.")
    )


def seen_of(request_data: Mapping[str, Any]) -> Any:
    return unsign(request_data.get(SEEN))
