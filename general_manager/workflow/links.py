"""Signed links that answer a wait from a mail, and the page behind them.

The page asks before it acts: scanners follow every link of a mail. It depends on none of the
project's middleware: its headers forbid frames, scripts and caches by themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any, Final
from urllib.parse import urlsplit

from django.core import signing
from django.db import InterfaceError, OperationalError, transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.urls import reverse
from django.utils.cache import add_never_cache_headers
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods

from general_manager.conf import get_workflow_settings
from general_manager.workflow.actors import acting_as
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.encoding import encode
from general_manager.workflow.engine import (
    TERMINAL_STATES,
    WorkflowExecution,
    WorkflowState,
)
from general_manager.workflow.exceptions import (
    StepUsageError,
    WorkflowError,
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
)
from general_manager.workflow.redaction import readable
from general_manager.workflow.steps import WaitSnapshot

__all__ = ["resume_url"]

SALT: Final = "general_manager.workflow.links"
VIEW: Final = "general_manager:resume"
TEMPLATE: Final = "general_manager/resume.html"
STYLE: Final = "general_manager/resume.css"
WEEK: Final = timedelta(days=7)
MOST: Final = 300
"""Characters of an answer that has no label."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a link says when it is used."""

    execution_id: str
    wait: str
    signal: Any
    label: str
    title: str = ""
    text: str = ""


def resume_url(
    execution: WorkflowExecution | str | None,
    wait: str,
    signal: Any = None,
    *,
    label: str = "",
    title: str = "",
    text: str = "",
    expires: timedelta = WEEK,
) -> str:
    """A link that answers *wait* of *execution*, or of the one with that id, with *signal*.

    Anyone who has the link can use it until it *expires*; its page asks for confirmation: *title*
    is its heading, *text* the question, *label* what its button says and what later visitors read
    as the answer. All of it can be read in the link, not changed. Starts with `WORKFLOW_BASE_URL`.
    Raises `NoReverseMatch` if the project's urls do not include
    ``general_manager.urls``, `EncodingError` for a signal that is not JSON, `StepUsageError`
    for the `None` that `current_execution_id` returns outside of a handler.
    """
    if execution is None:
        raise StepUsageError(
            "resume_url() was given None for an execution, as current_execution_id() returns "
            "outside a workflow's handler: pass an execution or its id."
        )
    execution_id = execution.execution_id if isinstance(execution, WorkflowExecution) else execution
    for argument, value in (
        ("execution", execution_id),
        ("wait", wait),
        ("label", label),
        ("title", title),
        ("text", text),
    ):
        if not isinstance(value, str):
            raise TypeError(f"{argument} must be text, not {value!r}")
    if not isinstance(expires, timedelta):
        raise TypeError(f"expires must be a timedelta, not {expires!r}")
    seconds = int(expires.total_seconds())
    words = [encode(one, root="label, title or text") for one in (label, title, text)]
    content = [execution_id, wait, encode(signal, root="signal"), words[0], seconds, *words[1:]]
    token = signing.dumps(content, salt=SALT, compress=True)
    return f"{get_workflow_settings().base_url}{reverse(VIEW, args=[token])}"


def read_answer(token: str) -> Answer:
    """Raises `BadSignature` for a link that we did not make, `SignatureExpired` for an old one."""
    execution_id, wait, signal, label, seconds, *words = signing.loads(token, salt=SALT)
    signing.loads(token, salt=SALT, max_age=seconds)
    return Answer(execution_id, wait, signal, label, *words)


def _guarded(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Headers of our own on whatever *view* answers; without a database, a plain 503."""

    @wraps(view)
    def guarded(request: HttpRequest, token: str) -> HttpResponse:
        try:
            response = view(request, token)
        except (OperationalError, InterfaceError):
            response = _unavailable()
        host = urlsplit(static(STYLE))
        styles = f"'self' {host.scheme}://{host.netloc}" if host.scheme else "'self'"
        response["Content-Security-Policy"] = (
            f"default-src 'none'; style-src {styles}; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"
        )
        add_never_cache_headers(response)
        response["X-Frame-Options"] = "DENY"
        response["X-Content-Type-Options"] = "nosniff"
        # Not "no-referrer": with it, browsers post the form from the origin "null", which Django's
        # CSRF check refuses.
        response["Referrer-Policy"] = "same-origin"
        response["X-Robots-Tag"] = "noindex"
        return response

    return guarded


def _unavailable() -> HttpResponse:
    """Without the project's context processors, which may ask the database too."""
    sentence = _("This cannot be answered right now.")
    context = {
        "title": sentence,
        "sentence": sentence,
        "detail": _("Please try again in a few minutes."),
        "try_again": True,
    }
    response = HttpResponse(render_to_string(TEMPLATE, context), status=503)
    response["Retry-After"] = "60"
    return response


@transaction.non_atomic_requests  # with ATOMIC_REQUESTS, a database that is away is found too late
@_guarded
@csrf_protect
@require_http_methods(["GET", "HEAD", "POST"])
def resume_view(request: HttpRequest, token: str) -> HttpResponse:
    """Ask on GET, answer on POST; every other outcome is reported in a sentence."""
    try:
        answer = read_answer(token)
        standing, wait = _standing(answer)
        if request.method == "POST" and standing == OPEN:
            return _answered(request, answer)
    except signing.SignatureExpired:
        return _reported(request, _("This link has expired."), status=410)
    except (signing.BadSignature, ValueError, TypeError):
        return _reported(request, _("This link is not valid."), status=404)
    except WorkflowExecutionNotFoundError:
        sentence = _("What this link belongs to does not exist any more.")
        return _reported(request, sentence, status=404)
    if standing == OPEN:
        return _page(request, 200, answer=answer, wait=wait, title=_title(answer))
    return _refused(request, answer, standing, wait)


OPEN, ANSWERED, TIMED_OUT, LATER, EARLY, OVER = (
    "open", "answered", "timed_out", "later", "early", "over",
)  # fmt: skip


def _standing(answer: Answer) -> tuple[str, WaitSnapshot | None]:
    """Whether the question of *answer* is open, or why not."""
    engine = get_workflow_engine()
    execution = engine.status(answer.execution_id)
    # An engine of the project's own may have the four verbs of the protocol only.
    find_wait = getattr(engine, "find_wait", None)
    wait = find_wait(answer.execution_id, answer.wait) if find_wait is not None else None
    if wait is not None and wait.outcome != "open":
        return wait.outcome, wait
    if execution.state in TERMINAL_STATES:
        return OVER, wait
    if wait is not None:
        return OPEN if wait.is_asked else LATER, wait
    is_open = find_wait is None and execution.state != WorkflowState.PENDING
    return OPEN if is_open else EARLY, None


def _answered(request: HttpRequest, answer: Answer) -> HttpResponse:
    user = getattr(request, "user", None)
    by = user if user is not None and user.is_authenticated else "signed link"
    engine: Any = get_workflow_engine()
    more = {"label": answer.label} if hasattr(engine, "find_wait") else {}
    try:
        with acting_as(by):
            engine.resume(answer.execution_id, answer.signal, wait=answer.wait, **more)
    except WorkflowInvalidStateError:
        standing, wait = _standing(answer)
        return _refused(request, answer, LATER if standing == OPEN else standing, wait)
    except WorkflowError as error:
        return _reported(request, str(error), status=400)
    sentence = _("Thank you. Your answer has been recorded.")
    return _reported(request, sentence, status=200, answer=answer, given=answer.label)


def _refused(
    request: HttpRequest, answer: Answer, standing: str, wait: WaitSnapshot | None
) -> HttpResponse:
    sentence = {
        ANSWERED: _("This has been answered already."),
        TIMED_OUT: _("Nobody answered in time, and this is not asked any more."),
        LATER: _("Another question has to be answered first."),
        EARLY: _("This question is not open yet."),
        OVER: _("This is not asked any more."),
    }[standing]
    if request.method == "POST":
        sentence = f"{sentence} {_('Your answer was not recorded: nothing was changed.')}"
    return _reported(
        request,
        sentence,
        status=409,
        answer=answer,
        wait=wait,
        given=_given(answer, wait) if standing == ANSWERED else "",
        at=wait.ended_at if wait is not None else None,
        try_again=standing in (LATER, EARLY),
    )


def _given(answer: Answer, wait: WaitSnapshot | None) -> str:
    """The answer that stands, as people know it."""
    if wait is None:
        return ""
    if not wait.label and wait.answer == answer.signal:
        return answer.label or readable(wait.answer, most=MOST)
    return wait.label or readable(wait.answer, most=MOST)


def _title(answer: Answer) -> str:
    return answer.title or answer.label or _("Your answer")


def _reported(
    request: HttpRequest, sentence: str, *, status: int, answer: Answer | None = None, **more: Any
) -> HttpResponse:
    title = answer.title if answer is not None and answer.title else sentence
    return _page(request, status, sentence=sentence, about=answer, title=title, **more)


def _page(request: HttpRequest, status: int, **context: Any) -> HttpResponse:
    return render(request, TEMPLATE, {**context, "site": request.get_host()}, status=status)
