"""The page of one act on one execution: it asks for confirmation, then acts."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib.admin import ModelAdmin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.admin.acts.cancelling import engine
from general_manager.workflow.admin.acts.confirming import confirm_page, perform_one
from general_manager.workflow.admin.acts.executions import (
    ANSWER,
    RETRY,
    SIGNAL,
    TIME_OUT,
    Act,
    Text,
)
from general_manager.workflow.admin.acts.seen import (
    SEEN,
    WITH_DETAIL,
    last_signal,
    seen_in_words,
    seen_of,
    sign,
    situation,
)
from general_manager.workflow.admin.base import may
from general_manager.workflow.admin.fields.formats import badge
from general_manager.workflow.admin.fields.links import subject_link
from general_manager.workflow.core.actors import acting_as
from general_manager.workflow.core.ids import MAX_ID_LENGTH
from general_manager.workflow.core.redaction import readable, redact_named
from general_manager.workflow.durable.continuation import MOST_NAMES, RetryPreview
from general_manager.workflow.durable.records import ASK_SUFFIX, StepStatus
from general_manager.workflow.exceptions import ChangedMeanwhileError
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.operations.moments import in_zone
from general_manager.workflow.operations.timeline import (
    LONGEST_RESULT,
    result_in_short,
    shown_steps,
)


@dataclass(frozen=True, slots=True)
class Button:
    """An act that is possible now, with a link that carries the situation shown."""

    label: Text
    url: str
    is_grave: bool


def act_url(record: Any, name: str, **arguments: str) -> str:
    name_of_url, site = "admin:general_manager_execution_act", record.links.site_name
    url = reverse(name_of_url, args=[record.pk, name], current_app=site)
    return f"{url}?{urlencode(arguments)}" if arguments else url


def button(record: WorkflowExecutionRecord, act: Act) -> Button:
    seen = sign([situation(record)])
    return Button(act.label, act_url(record, act.name, **{SEEN: seen}), act.is_grave)


def act_page(page: "ModelAdmin[Any]", request: HttpRequest, record: Any, act: Act) -> HttpResponse:
    """Ask on GET; on POST perform the act as confirmed, or do nothing."""
    wish = Wish(request, record, act)
    form = act.form(request.POST or None, **wish.form_arguments)
    if request.method == "POST" and form.is_valid():
        result = perform_one(
            page, request, record, act.done, lambda: wish.perform(form.cleaned_data)
        )
        fresh = result.execution_id if result is not None else record.execution_id
        return HttpResponseRedirect(record.links.to_execution(fresh))
    return confirm_page(
        page,
        request,
        title=act.label,
        sentence=act.sentence,
        form=form,
        obj=record,
        execution=record,
        name=visible(record.workflow_id[:MAX_TITLE]),
        known_as=visible(record.execution_id[:MAX_TITLE]),
        badge=badge(record.state),
        subject=subject_link(record, record.links),
        seen=request.POST.get(SEEN) or sign(wish.seen),
        is_grave=act.is_grave,
        **wish.context(),
    )


RETRY_PARTS: Final = 3
"""A situation, the step to go back to, and a hash of the preview."""


def _checked(seen: Any) -> list[Any] | None:
    """What an act's page has signed, a situation first; `None` for anything else."""
    if not isinstance(seen, list) or not seen or not isinstance(seen[0], list):
        return None
    how = seen[0]
    is_whole = bool(how) and all(isinstance(one, str) for one in how)
    return seen if is_whole and len(how) == (1 if how[0] not in WITH_DETAIL else 2) else None


class Wish:
    """One request for one act: its subject, and why it may be refused."""

    def __init__(self, request: HttpRequest, record: WorkflowExecutionRecord, act: Act) -> None:
        self._request = request
        self._record = record
        self._act = act
        self._confirmed = _checked(seen_of(request.POST))
        self.before: str | None = None
        self.preview: RetryPreview | None = None
        if act is RETRY:
            self.before = request.GET.get("before") or None
            if request.method == "POST":
                parts = self._confirmed or []
                self.before = parts[1] if len(parts) == RETRY_PARTS else None
            self.preview = engine().preview_retry(
                record.execution_id, before=self.before, repeat_once=True
            )
            if self.preview.repeats_once and not self._may_repeat and request.method == "POST":
                raise PermissionDenied

    @property
    def seen(self) -> list[Any]:
        """What must be unchanged at the confirmation."""
        how = [situation(self._record)]
        if self._act is SIGNAL:
            with acting_as(self._request.user):
                return [*how, last_signal(self._record)]
        if self.preview is None:
            return how
        return [*how, self.before, sha256(repr(self.preview).encode()).hexdigest()]

    @property
    def form_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"record": self._record}
        if self.preview is not None:
            arguments["repeats"] = self.preview.repeats_once
        return arguments

    @property
    def _may_repeat(self) -> bool:
        return may(self._request, "resolve_execution")

    def perform(self, values: dict[str, Any]) -> Any:
        confirmed = self._confirmed
        how = None if confirmed is None else confirmed[0]
        if self._act is SIGNAL:  # compared under the execution's lock
            values = {**values, "last_signal": (confirmed or [])[1:][:1]}
        elif confirmed is not None and confirmed[1:] != self.seen[1:]:
            raise ChangedMeanwhileError(
                _("The effect of this act has changed since you were asked. Confirm again.")
            )
        return self._act.perform_as_seen(self._record, how, {**values, "before": self.before})

    def why_not(self) -> Text | None:
        came_from = self._confirmed or _checked(seen_of(self._request.GET))
        now = situation(self._record)
        if came_from is not None and came_from[:1] != [now]:
            answered = self._answered(came_from[0])
            if answered:
                return answered
            return _("It was %(was)s on the previous page and is %(now)s now.") % {
                "was": seen_in_words(came_from[0]), "now": seen_in_words(now),
            }  # fmt: skip
        if self.preview is None:
            return self._act.why_not(self._record)
        if self.preview.repeats_once and not self._may_repeat and not self.preview.refusal:
            return _("This would run a step again that is marked once=True. That needs the "
                     "permission to resolve steps in doubt.")  # fmt: skip
        return self.preview.refusal or None

    def _answered(self, about: list[str]) -> str:
        """Which answer ended the wait that the page was about, if one did."""
        if about[0] != "asks":
            return ""
        wait = engine().find_wait(self._record.execution_id, about[1])
        if wait is None or wait.ended_at is None:
            return ""
        at = date_format(in_zone(wait.ended_at), "DATETIME_FORMAT")
        if wait.outcome == "timed_out":
            return _("“%(name)s” timed out (%(at)s).") % {"name": wait.name, "at": at}
        answer = wait.label or readable(redact_named(wait.name, wait.answer), most=LONGEST_RESULT)
        return _("“%(name)s” has been answered: %(answer)s (%(at)s).") % {
            "name": wait.name, "answer": answer, "at": at,
        }  # fmt: skip

    def context(self) -> dict[str, Any]:
        record = self._record
        context: dict[str, Any] = {"why_not": self.why_not()}
        if self._act in (ANSWER, TIME_OUT) and record.waiting_for is not None:
            waiting = record.snapshot()
            context["question"] = visible(record.waiting_for[:MAX_TITLE])
            context["since"], context["until"] = waiting.waiting_since, waiting.waiting_until
            context["has_no_limit"] = self._act is TIME_OUT and waiting.waiting_until is None
        if self.preview is not None:
            context["before"] = self.before
            context["keep_url"] = act_url(record, RETRY.name) if self.before else ""
            context["withdrawn"] = _named(self.preview.signals_withdrawn)
            context["events_withdrawn"] = _named(self.preview.events_withdrawn)
            context["events_returned"] = _named(self.preview.events_returned)
            context["returned"] = _named(self.preview.signals_returned)
            context["steps"] = list(_fates(record, self.preview))
        return context


@dataclass(frozen=True, slots=True)
class Fate:
    """The effect of a retry on one recorded step, wait or sleep."""

    name: str
    result: str
    words: str
    is_forgotten: bool
    url: str


def _fates(record: WorkflowExecutionRecord, preview: RetryPreview) -> list[Fate]:
    words = {
        **dict.fromkeys(preview.kept, _("kept")),
        **dict.fromkeys(preview.runs_again, _("runs again")),
        **dict.fromkeys(preview.repeats_once, _("runs again, although once=True")),
        **dict.fromkeys(preview.asked_again, _("asked again")),
        **dict.fromkeys((f"{one}{ASK_SUFFIX}" for one in preview.asked_again), _("asked again")),
        **dict.fromkeys(preview.in_doubt, _("in doubt: resolve it first")),
    }
    kept = {*preview.kept, *preview.in_doubt}
    return [
        Fate(
            name=visible(step.name[:MAX_TITLE]),
            result=_of_saga(step) if step.saga == step.name else visible(result_in_short(step)),
            words=words.get(step.name, ""),
            is_forgotten=step.name not in kept,
            url=_url_before(record, step.name),
        )
        for step in shown_steps(record)
    ]


def _of_saga(step: WorkflowStep) -> str:
    """What became of a saga; its row has no result of the user's."""
    about = getattr(step, "shown", None) or {}
    undos, left = tuple(about.get("undos", ())), tuple(about.get("left", ()))
    if left:
        return _("undone, but for: %s") % _named(left)
    if step.status == StepStatus.UNDONE:
        return _("undone: %s") % (_named(undos) or "—")
    if undos:
        return _("being undone: %s") % _named(undos)
    return _("its steps stand") if step.status == StepStatus.DONE else _("open")


def _named(names: tuple[str, ...]) -> str:
    shown = [visible(name[:MAX_TITLE]) for name in names[:MOST_NAMES]]
    return ", ".join([*shown, "…"] if len(names) > MOST_NAMES else shown)


def _url_before(record: WorkflowExecutionRecord, name: str) -> str:
    """Empty if the name is too long to be one of ours."""
    return act_url(record, RETRY.name, before=name) if len(name) <= MAX_ID_LENGTH else ""
