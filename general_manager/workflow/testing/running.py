"""Run a workflow to its end in one call, with answers given and time passed at once."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from asgiref.sync import sync_to_async

from general_manager.parsing import did_you_mean
from general_manager.workflow.backends.local import LocalWorkflowEngine
from general_manager.workflow.backends.memory_records import utc_now
from general_manager.workflow.core.coroutines import settled
from general_manager.workflow.durable.signals import SignalStatus
from general_manager.workflow.engine import (
    TERMINAL_STATES,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowHandler,
    WorkflowState,
)
from general_manager.workflow.event_registry.base import encoded
from general_manager.workflow.event_registry.mailbox import Mailbox
from general_manager.workflow.events import WorkflowEvent

TIMEOUT: Final = object()
"""As an answer: the wait ends with its timeout."""

MOMENT: Final = timedelta(minutes=1)
"""Signals are sent before the handler runs, so that it starts so much later."""

MOST_TURNS: Final = 10_000


def run(
    workflow: WorkflowDefinition | WorkflowHandler,
    input_data: Mapping[str, Any] | None = None,
    *,
    answers: Mapping[str, Any] | None = None,
    signals: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
    events: Iterable[WorkflowEvent] = (),
) -> WorkflowExecution:
    """Start *workflow*, a definition or a bare handler, and continue until nothing is left to do.

    *answers* maps names of waits to the signals for `resume`; a callable is called for its answer
    each time that the wait opens, in every execution of a chain; any other answer is given once. A
    wait without an answer, or with `TIMEOUT`, times out at once; sleeps and delays between attempts
    also end at once. Returns the execution: terminal, or ``waiting`` if a wait has neither an
    answer nor a timeout. Raises `AssertionError` for answers to waits that
    never opened, however the execution ended, so that a misspelt name fails the test.

    *signals*, a mapping of names to values or pairs of them, are sent in order before the handler
    runs. Raises `AssertionError` for those that no wait took. So with *events*, which no handler
    gets: only the waits of this execution see them, and no others.
    """
    definition = workflow if isinstance(workflow, WorkflowDefinition) else define(workflow)
    clock = Clock()
    mailbox, published = Mailbox(), [encoded(one) for one in events]
    engine = LocalWorkflowEngine(clock=clock, events=mailbox)
    left = dict(answers or {})
    asked: set[str] = set()
    sent = list(signals.items() if isinstance(signals, Mapping) else signals or ())
    later = clock() + MOMENT if sent or published else None
    execution = engine.start(definition, input_data, at=later)
    for name, value in sent:
        engine.signal(execution.execution_id, name, value)
    for event in published:
        mailbox.keep(event)
    for _ in range(MOST_TURNS):
        if execution.state in TERMINAL_STATES:
            break
        name = engine.question(execution.execution_id)
        if name is not None:
            asked.add(name)
        answer = left.get(name, TIMEOUT) if name is not None else TIMEOUT
        if callable(answer):
            answer = settled(answer())
        elif name is not None:
            left.pop(name, None)
        if answer is not TIMEOUT:
            execution = engine.resume(execution.execution_id, answer, wait=name)
            continue
        due = engine.wakes_at(execution.execution_id)
        if due is None:
            break
        clock.move_to(due)
        execution = engine.status(execution.execution_id)
    else:
        raise AssertionError(f"{definition.workflow_id} has not ended after {MOST_TURNS} turns")
    outcome = _outcome(execution, engine.question(execution.execution_id))
    require_asked(answers or {}, asked, outcome)
    kept = engine.signals(execution.execution_id)
    unread = [one.name for one in kept if one.status is not SignalStatus.TAKEN]
    _require_taken("signals", unread, outcome)
    ids = [one.event_id for one in published]
    _require_taken("events", [one for one in ids if one not in mailbox.taken], outcome)
    return execution


def _require_taken(what: str, left: Iterable[str], outcome: str) -> None:
    if names := ", ".join(map(repr, left)):
        raise AssertionError(f"Some {what} were taken by no wait: {names}. {outcome}")


async def arun(
    workflow: WorkflowDefinition | WorkflowHandler,
    input_data: Mapping[str, Any] | None = None,
    *,
    answers: Mapping[str, Any] | None = None,
    signals: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
    events: Iterable[WorkflowEvent] = (),
) -> WorkflowExecution:
    """`run`, from an async test."""
    in_thread = sync_to_async(run, thread_sensitive=True)
    return await in_thread(workflow, input_data, answers=answers, signals=signals, events=events)


def require_asked(answers: Mapping[str, Any], asked: Iterable[str], outcome: str) -> None:
    """Raise `AssertionError` that names each unused answer and the closest question."""
    asked = sorted(asked)
    unasked = sorted(set(answers) - set(asked))
    if not unasked:
        return
    hints = (did_you_mean(name, tuple(asked)) for name in unasked)
    names = ", ".join(f"{name!r}{hint}" for name, hint in zip(unasked, hints, strict=True))
    questions = ", ".join(map(repr, asked)) or "none"
    raise AssertionError(
        f"Some answers belong to questions that were never asked: {names}. "
        f"Asked: {questions}. {outcome}"
    )


def _outcome(execution: WorkflowExecution, question: str | None) -> str:
    if execution.state is WorkflowState.FAILED:
        return f"The execution failed: {execution.error}"
    if question is not None:
        return f"The execution waits for an answer to {question!r}."
    return f"The execution is {execution.state}."


def define(handler: Callable[..., Any]) -> WorkflowDefinition:
    return WorkflowDefinition(getattr(handler, "__name__", "workflow"), handler=handler)


class Clock:
    """A clock that a test can advance."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self._ahead

    def move_to(self, moment: datetime) -> None:
        self._ahead += max(timedelta(0), moment - self())
