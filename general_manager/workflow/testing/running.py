"""Run a workflow to its end in one call: questions are answered, time passes at once."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from general_manager.parsing import did_you_mean
from general_manager.workflow.backends.local import LocalWorkflowEngine
from general_manager.workflow.backends.memory_records import utc_now
from general_manager.workflow.engine import (
    TERMINAL_STATES,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowHandler,
    WorkflowState,
)

TIMEOUT: Final = object()
"""The answer that does not come: the wait ends with its timeout."""

MOST_TURNS: Final = 10_000


def run(
    workflow: WorkflowDefinition | WorkflowHandler,
    input_data: Mapping[str, Any] | None = None,
    *,
    answers: Mapping[str, Any] | None = None,
) -> WorkflowExecution:
    """Start *workflow*, a definition or a bare handler, and go on until nothing is left to do.

    *answers* maps the names of waits to what `resume` is given; a callable is called for its
    answer when the question comes. A wait that has none, or `TIMEOUT`, ends with its timeout, at
    once, as do sleeps and rests between attempts. Returns the execution: terminal, or ``waiting``
    for what has neither answer nor timeout. Raises `AssertionError` for answers to questions that
    were never asked, however the execution ended, so that a misspelt name does not pass for a test.
    """
    definition = workflow if isinstance(workflow, WorkflowDefinition) else define(workflow)
    clock = Clock()
    engine = LocalWorkflowEngine(clock=clock)
    left = dict(answers or {})
    asked: set[str] = set()
    execution = engine.start(definition, input_data)
    for _ in range(MOST_TURNS):
        if execution.state in TERMINAL_STATES:
            break
        name = engine.question(execution.execution_id)
        if name is not None:
            asked.add(name)
        answer = left.pop(name, TIMEOUT) if name is not None else TIMEOUT
        if answer is not TIMEOUT:
            given = answer() if callable(answer) else answer
            execution = engine.resume(execution.execution_id, given, wait=name)
            continue
        due = engine.wakes_at(execution.execution_id)
        if due is None:
            break
        clock.move_to(due)
        execution = engine.status(execution.execution_id)
    else:
        raise AssertionError(f"{definition.workflow_id} is not done after {MOST_TURNS} turns")
    require_asked(
        answers or {}, asked, _outcome(execution, engine.question(execution.execution_id))
    )
    return execution


def require_asked(answers: Mapping[str, Any], asked: Iterable[str], outcome: str) -> None:
    """Raise `AssertionError` that names each answer to no question, and the nearest question."""
    asked = sorted(asked)
    unasked = sorted(set(answers) - set(asked))
    if not unasked:
        return
    hints = (did_you_mean(name, tuple(asked)) for name in unasked)
    names = ", ".join(f"{name!r}{hint}" for name, hint in zip(unasked, hints, strict=True))
    questions = ", ".join(map(repr, asked)) or "none"
    raise AssertionError(
        f"There are answers to questions that were never asked: {names}. "
        f"Asked were: {questions}. {outcome}"
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
    """The time, and what a test adds to it."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self._ahead

    def move_to(self, moment: datetime) -> None:
        self._ahead += max(timedelta(0), moment - self())
