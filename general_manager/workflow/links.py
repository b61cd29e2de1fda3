"""Signed links that answer a wait from a mail, and the page behind them.

The page asks before it acts: scanners follow every link of a mail.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods

from general_manager.conf import get_workflow_settings
from general_manager.workflow.actors import acting_as
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.encoding import encode
from general_manager.workflow.engine import WorkflowExecution, WorkflowState
from general_manager.workflow.exceptions import (
    WorkflowError,
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
)

__all__ = ["resume_url"]

SALT: Final = "general_manager.workflow.links"
VIEW: Final = "general_manager:resume"
WEEK: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a link says when it is used."""

    execution_id: str
    wait: str
    signal: Any
    label: str


def resume_url(
    execution: WorkflowExecution | str,
    wait: str,
    signal: Any = None,
    *,
    label: str = "",
    expires: timedelta = WEEK,
) -> str:
    """A link that answers *wait* of *execution*, or of the one with that id, with *signal*.

    Whoever has the link may use it until it *expires*; it shows a page that asks for confirmation,
    with *label* on its button. The signal can be read in the link, not changed. Starts with
    `WORKFLOW_BASE_URL`. Raises `NoReverseMatch` if the project's urls do not include
    ``general_manager.urls``, `EncodingError` for a signal that is not JSON.
    """
    execution_id = execution if isinstance(execution, str) else execution.execution_id
    seconds = int(expires.total_seconds())
    content = [execution_id, wait, encode(signal, root="signal"), label, seconds]
    token = signing.dumps(content, salt=SALT, compress=True)
    return f"{get_workflow_settings().base_url}{reverse(VIEW, args=[token])}"


def read_answer(token: str) -> Answer:
    """Raises `BadSignature` for a link that we did not make, `SignatureExpired` for an old one."""
    execution_id, wait, signal, label, seconds = signing.loads(token, salt=SALT)
    signing.loads(token, salt=SALT, max_age=seconds)
    return Answer(execution_id, wait, signal, label)


@never_cache
@csrf_protect
@require_http_methods(["GET", "HEAD", "POST"])
def resume_view(request: HttpRequest, token: str) -> HttpResponse:
    """Ask on GET, answer on POST; every other outcome is told in a sentence."""
    try:
        answer = read_answer(token)
        execution = get_workflow_engine().status(answer.execution_id)
    except signing.SignatureExpired:
        return _told(request, _("This link has expired."), status=410)
    except (signing.BadSignature, ValueError, TypeError):
        return _told(request, _("This link is not valid."), status=404)
    except WorkflowExecutionNotFoundError:
        return _told(request, _("What this link belongs to does not exist any more."), status=404)
    if request.method == "POST":
        return _answered(request, answer)
    if execution.state not in (WorkflowState.WAITING, WorkflowState.RUNNING):
        return _told(request, _("This has been settled already: nothing is left to do."), 409)
    return render(request, "general_manager/resume.html", {"answer": answer})


def _answered(request: HttpRequest, answer: Answer) -> HttpResponse:
    user = getattr(request, "user", None)
    by = user if user is not None and user.is_authenticated else "signed link"
    try:
        with acting_as(by):
            get_workflow_engine().resume(answer.execution_id, answer.signal, wait=answer.wait)
    except WorkflowInvalidStateError:
        return _told(request, _("This has been settled already: nothing was changed."), 409)
    except WorkflowError as error:
        return _told(request, str(error), 400)
    return _told(request, _("Thank you. Your answer has been recorded."), 200)


def _told(request: HttpRequest, sentence: str, status: int) -> HttpResponse:
    return render(request, "general_manager/resume.html", {"sentence": sentence}, status=status)
