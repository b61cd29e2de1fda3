"""Signed links that answer a wait, for example in a mail, and the page behind them.

The page asks for confirmation, because mail scanners follow every link. It does not depend on the
project's middleware: it sets its own headers against frames, scripts and caches.
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
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.core.actors import acting_as
from general_manager.workflow.core.encoding import encode
from general_manager.workflow.core.redaction import readable, redact_named
from general_manager.workflow.durable.records import WaitSnapshot
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

__all__ = ["resume_url"]

LINK_SALT: Final = "general_manager.workflow.resume_links"
VIEW: Final = "general_manager:resume"
TEMPLATE: Final = "general_manager/resume.html"
STYLE: Final = "general_manager/resume.css"
WEEK: Final = timedelta(days=7)
LONGEST_ANSWER: Final = 300
"""Characters shown of an answer without a label."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The signed content of a link."""

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
    """A link that answers *wait* of *execution* (a snapshot or an id) with *signal*.

    Anyone who has the link can use it until it *expires*. Its page asks for confirmation: *title*
    is the heading, *text* the question, *label* the text of the button and of the answer shown
    later. The link is signed, not encrypted: its content can be read but not changed. It starts
    with `WORKFLOW_BASE_URL`. Raises `NoReverseMatch` if the project's URLs do not include
    ``general_manager.urls``, `EncodingError` for a signal that is not JSON, `StepUsageError`
    for the `None` that `current_execution_id` returns outside a handler.
    """
    if execution is None:
        raise StepUsageError(
            "resume_url() got None as execution, which current_execution_id() returns outside a "
            "workflow's handler. Pass an execution or its id."
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
    token = signing.dumps(content, salt=LINK_SALT, compress=True)
    return f"{get_workflow_settings().base_url}{reverse(VIEW, args=[token])}"


def read_answer(token: str) -> Answer:
    """Raises `BadSignature` for a link that we did not sign, `SignatureExpired` for an old one."""
    execution_id, wait, signal, label, seconds, *words = signing.loads(token, salt=LINK_SALT)
    signing.loads(token, salt=LINK_SALT, max_age=seconds)
    return Answer(execution_id, wait, signal, label, *words)


def _guarded(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Set our own headers on the response of *view*; without a database, answer a plain 503."""

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
        # Not "no-referrer": browsers would post the form with the origin "null", which Django's
        # CSRF check refuses.
        response["Referrer-Policy"] = "same-origin"
        response["X-Robots-Tag"] = "noindex"
        return response

    return guarded


def _unavailable() -> HttpResponse:
    """Rendered without the project's context processors, which may query the database too."""
    sentence = _("Your answer cannot be accepted right now.")
    context = {
        "title": sentence,
        "sentence": sentence,
        "detail": _("Please try again in a few minutes."),
        "try_again": True,
    }
    response = HttpResponse(render_to_string(TEMPLATE, context), status=503)
    response["Retry-After"] = "60"
    return response


@transaction.non_atomic_requests  # with ATOMIC_REQUESTS, a missing database is noticed too late
@_guarded
@csrf_protect
@require_http_methods(["GET", "HEAD", "POST"])
def resume_view(request: HttpRequest, token: str) -> HttpResponse:
    """Ask on GET, answer on POST; show every other outcome as a sentence."""
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
        sentence = _("The process that this link belongs to no longer exists.")
        return _reported(request, sentence, status=404)
    if standing == OPEN:
        return _page(request, 200, answer=answer, wait=wait, title=_title(answer))
    return _refused(request, answer, standing, wait)


OPEN, ANSWERED, TIMED_OUT, LATER, EARLY, OVER = (
    "open", "answered", "timed_out", "later", "early", "over",
)  # fmt: skip


def _standing(answer: Answer) -> tuple[str, WaitSnapshot | None]:
    """Whether the wait of *answer* is open, or why not."""
    engine = get_workflow_engine()
    # A project's own engine may implement only the four required verbs.
    can_look = getattr(engine, "supports_lookup", False)
    # Before `status`, which does due work in local mode: an open wait can still be answered.
    wait = engine.find_wait(answer.execution_id, answer.wait) if can_look else None
    if wait is not None and wait.execution_id not in ("", answer.execution_id):
        return OVER, None  # a later question, of the execution as which this one continued
    if wait is not None and wait.outcome != "open":
        return wait.outcome, wait
    if wait is not None and wait.is_asked:
        return OPEN, wait
    execution = engine.status(answer.execution_id)
    if execution.state in TERMINAL_STATES or execution.execution_id != answer.execution_id:
        return OVER, wait
    if wait is not None:
        return LATER, wait
    is_open = not can_look and execution.state != WorkflowState.PENDING
    return OPEN if is_open else EARLY, None


def _answered(request: HttpRequest, answer: Answer) -> HttpResponse:
    user = getattr(request, "user", None)
    by = user if user is not None and user.is_authenticated else "signed link"
    engine: Any = get_workflow_engine()
    more = {"label": answer.label} if getattr(engine, "supports_lookup", False) else {}
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
        ANSWERED: _("This has already been answered."),
        TIMED_OUT: _("The time to answer has passed."),
        LATER: _("Another question has to be answered first."),
        EARLY: _("This question is not open yet."),
        OVER: _("An answer is no longer needed."),
    }[standing]
    if request.method == "POST":
        sentence = f"{sentence} {_('Your answer was not recorded. Nothing was changed.')}"
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
    """The recorded answer, in words."""
    if wait is None:
        return ""
    label = wait.label or (answer.label if wait.answer == answer.signal else "")
    return label or readable(redact_named(wait.name, wait.answer), most=LONGEST_ANSWER)


def _title(answer: Answer) -> str:
    return answer.title or answer.label or _("Your answer")


def _reported(
    request: HttpRequest, sentence: str, *, status: int, answer: Answer | None = None, **more: Any
) -> HttpResponse:
    title = answer.title if answer is not None and answer.title else sentence
    return _page(request, status, sentence=sentence, about=answer, title=title, **more)


def _page(request: HttpRequest, status: int, **context: Any) -> HttpResponse:
    return render(request, TEMPLATE, {**context, "site": request.get_host()}, status=status)
