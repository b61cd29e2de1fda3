"""Continuing an execution: which steps the fresh one keeps, and when that is refused.

Pure functions, the same for every engine: an engine reads their arguments under the execution's
lock, and applies the result.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from general_manager.workflow.durable.ending import Ending
from general_manager.workflow.durable.forgetting import MOST_NAMES as MOST_NAMES
from general_manager.workflow.durable.forgetting import (
    events_taken,
    failures_that_left_the_handler,
    in_order,
    listed,
    not_older_than,
    notes_of_mailboxes,
    saga_plan,
)
from general_manager.workflow.durable.records import (
    ASK_SUFFIX,
    OPEN_SAGA,
    UNFINISHED,
    StepRecord,
    StepStatus,
)
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.history import HistoryKind

Resolutions = Mapping[str, tuple[bool, Any]]
"""`once=True` steps by name: whether the step happened, and its encoded result if it did."""

CONTINUABLE: Final = (WorkflowState.FAILED, WorkflowState.CANCELLED)
"""States from which a fresh execution can continue. Completed ones are final: others may have used
their output."""
NEVER_RAN: Final = "It never ran, because its handler cannot be imported."
OUTDATED: Final = ("cancel_reason", "resume_signal", "traceback", "continued_as")
"""Metadata of the old execution that would be wrong for the fresh one."""


class NotContinuableError(Exception):
    """The sentence that says why an execution cannot be continued from these steps."""


@dataclass(frozen=True, slots=True)
class RetryPreview:
    """What `retry_from_checkpoint` would do with the same arguments. Changes nothing."""

    execution_id: str
    before: str | None
    kept: tuple[str, ...]
    """Steps, waits and sleeps that keep their outcome, in the order in which they ended."""
    runs_again: tuple[str, ...]
    """Steps and sleeps that ended, or may have ended, and run again."""
    asked_again: tuple[str, ...]
    """Waits whose question is asked again."""
    repeats_once: tuple[str, ...]
    """Those of `runs_again` that are marked `once=True`."""
    in_doubt: tuple[str, ...]
    """Steps that must be resolved first."""
    refusal: str
    """Why it would be refused; empty if it would not."""
    signals_returned: tuple[str, ...] = ()
    """Names of signals that forgotten waits had taken and that are kept again, in order."""
    signals_withdrawn: tuple[str, ...] = ()
    """The signal that answered *before* itself, which no wait gets again."""
    events_returned: tuple[str, ...] = ()
    """Keys of events that forgotten waits had taken and that can be taken again, in order."""
    events_withdrawn: tuple[str, ...] = ()
    """The event that answered *before* itself, which that wait does not take again."""
    taken_back: tuple[str, ...] = ()
    """Names that their saga has undone; of a gather, the children that completed start again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which steps of an execution are kept and which are forgotten."""

    kept: tuple[StepRecord, ...]
    forgotten: tuple[StepRecord, ...]
    in_doubt: tuple[str, ...]
    unknown: str | None = None
    before: str | None = None
    undoing: str = ""
    """What an incomplete saga was undone for: the fresh execution goes on with its undos only."""
    incomplete: str = ""
    """A saga that is not undone completely, although an earlier step is to run again."""
    keeps_children: bool = True
    """Children that completed are kept, though their gather runs again, unless it is `undone`."""
    undone: frozenset[str] = frozenset()
    """Names that a saga has taken back, with its own and those of its undos."""
    claimed: str = ""
    """A step among them of which an operator says that it happened."""

    @property
    def returned(self) -> dict[int, str]:
        """Signals that forgotten waits had taken: number and name, in order."""
        return self._signals(is_own=False)

    @property
    def withdrawn(self) -> dict[int, str]:
        """The signal that answered *before* itself: that answer is taken back for good."""
        return self._signals(is_own=True)

    def _signals(self, *, is_own: bool) -> dict[int, str]:
        found = {
            one.answered_by: one.signal or one.name
            for one in self.forgotten
            if one.answered_by is not None and (one.name == self.before) is is_own
        }
        return dict(sorted(found.items()))

    def events(self, *, is_own: bool) -> dict[tuple[str, str], str]:
        """Events that forgotten waits had taken: id and wait, with the event's key."""
        return events_taken(self.forgotten, self.before, is_own=is_own)

    @property
    def notes(self) -> dict[HistoryKind, str]:
        """What the history says about the signals and events of forgotten waits."""
        events = (self.events(is_own=False), self.events(is_own=True))
        return notes_of_mailboxes(self.returned, self.withdrawn, *events)

    def takes_back(self, step: StepRecord) -> bool:
        """Whether *step* is forgotten because its saga has undone it."""
        return step.name in self.undone and step.saga is None

    @property
    def repeats_once(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.forgotten if one.once)

    def refusal(self, *, repeat_once: bool) -> str:
        """Why the execution cannot continue like this; empty if it can."""
        if self.unknown is not None:
            return (
                f"No step, wait or sleep {self.unknown!r} is recorded; "
                f"recorded are: {listed(in_order((*self.kept, *self.forgotten)))}."
            )
        if self.claimed:
            return (
                f"Step {self.claimed!r} was undone with its saga: "
                "call retry_from_checkpoint(), which does all of the saga again."
            )
        if self.incomplete:
            return (
                f"Saga {self.incomplete!r} is not undone completely: call retry_from_checkpoint() "
                "without before= first, which runs the rest of its undos."
            )
        if self.in_doubt:
            name = self.in_doubt[0]
            return (
                f"Step {name!r} started and did not finish, so its effect may have happened: "
                "find out, and call resolve_step()."
            )
        if self.repeats_once and not repeat_once:
            names = ", ".join(map(repr, self.repeats_once))
            return (
                f"{names} would run again, although marked once=True: "
                "pass repeat_once=True to allow that."
            )
        return ""


def make_plan(
    steps: Iterable[StepRecord], resolved: Resolutions, before: str | None = None
) -> Plan:
    """Keep finished steps, except *before* and all whose outcome is not older than its outcome.

    The step that asks a wait's question is forgotten with the wait. Open waits and sleeps start
    again, because the question that was sent names the old execution; so do steps between two
    attempts. A step's failure is forgotten if nothing is recorded after it, so that it left the
    handler; one that the handler caught is kept. A saga that was undone is forgotten as a whole
    under the same condition; of one that was not undone completely, only failed undos are. A step
    in doubt stays in doubt unless it is *resolved*, or started after a forgotten step. A resolved
    step that had a result gets the new one, and all that ended after the old result is forgotten;
    but one that was undone with its saga did not happen, even if an operator says it did.
    """
    by_name = {step.name: step for step in in_order(steps)}
    if before is not None and before not in by_name:
        return Plan(tuple(by_name.values()), (), (), unknown=before)
    corrected = [name for name in resolved if by_name[name].is_finished]
    starts = [before] if before is not None else []
    dropped = not_older_than([by_name[name] for name in (*starts, *corrected)], by_name)
    dropped -= resolved.keys()
    dropped |= {name for name, step in by_name.items() if step.status in UNFINISHED}
    sagas = saga_plan(by_name, dropped)
    dropped |= sagas.dropped
    rest = [one for name, one in by_name.items() if name not in sagas.dropped]
    dropped |= failures_that_left_the_handler(rest) - resolved.keys()
    asks = {name: by_name.get(f"{name}{ASK_SUFFIX}") for name in dropped}
    dropped |= {
        question.name
        for name, question in asks.items()
        # A question that could not be sent, as the handler knows, is not sent again.
        if question and (question.status is not StepStatus.FAILED or name in starts)
    }
    kept, forgotten = [], []
    for name, step in by_name.items():
        if name in resolved and name not in starts:
            happened, result = resolved[name]
            if happened:
                done = replace(step, status=StepStatus.DONE, result=result, failure=None)
                kept.append(done)
        elif name in dropped:
            forgotten.append(step)
        elif step.is_saga and step.status is StepStatus.INCOMPLETE:
            kept.append(replace(step, status=StepStatus.UNDOING))
        else:
            kept.append(step)
    in_doubt = tuple(one.name for one in kept if one.status is StepStatus.STARTED)
    incomplete = sagas.incomplete if starts or corrected else ""
    claimed = (name for name, (happened, _) in resolved.items() if happened)
    return Plan(
        *(tuple(kept), tuple(forgotten), in_doubt),
        before=before,
        undoing=sagas.undoing,
        incomplete=incomplete,
        keeps_children=not starts and not corrected,
        undone=frozenset(sagas.dropped),
        claimed=next((name for name in claimed if name in sagas.dropped), ""),
    )


def require_resolvable(steps: Iterable[StepRecord], names: Iterable[str]) -> None:
    """Raises `NotContinuableError` for a name that is not a `once=True` step of *steps*."""
    once = {step.name for step in steps if step.once}
    for name in names:
        if name not in once:
            raise NotContinuableError(f"Step {name!r} is not in doubt and not marked once=True.")


def plan_or_refuse(
    steps: Collection[StepRecord],
    resolved: Resolutions,
    before: str | None,
    *,
    repeat_once: bool,
) -> Plan:
    """`make_plan`; raises `NotContinuableError` if the plan is refused."""
    require_resolvable(steps, resolved)
    plan = make_plan(steps, resolved, before)
    refusal = plan.refusal(repeat_once=repeat_once)
    if refusal:
        raise NotContinuableError(refusal)
    return plan


def preview(
    execution_id: str,
    steps: Collection[StepRecord],
    before: str | None,
    *,
    repeat_once: bool,
    refusal: str,
) -> RetryPreview:
    """*refusal* comes from the execution's own state; empty if that allows it."""
    plan = make_plan(steps, {}, before)
    again = [one for one in plan.forgotten if not one.is_wait and one.saga is None]
    asks = {f"{one.name}{ASK_SUFFIX}" for one in plan.forgotten if one.is_wait}
    return RetryPreview(
        execution_id=execution_id,
        before=before,
        kept=tuple(one.name for one in plan.kept),
        runs_again=tuple(one.name for one in again if one.name not in asks),
        asked_again=tuple(one.name for one in plan.forgotten if one.is_wait),
        repeats_once=plan.repeats_once,
        in_doubt=plan.in_doubt,
        refusal=refusal or plan.refusal(repeat_once=repeat_once),
        signals_returned=tuple(plan.returned.values()),
        signals_withdrawn=tuple(plan.withdrawn.values()),
        events_returned=tuple(plan.events(is_own=False).values()),
        events_withdrawn=tuple(plan.events(is_own=True).values()),
        taken_back=tuple(one.name for one in plan.forgotten if plan.takes_back(one)),
    )


def fresh_metadata(metadata: Mapping[str, Any], execution_id: str, plan: Plan) -> dict[str, Any]:
    """The metadata that the fresh execution takes over from *execution_id*."""
    kept = {name: value for name, value in metadata.items() if name not in OUTDATED}
    answers = any(one.is_wait and one.status is StepStatus.DONE for one in plan.forgotten)
    if "resume_signal" in metadata and not answers:
        kept["resume_signal"] = metadata["resume_signal"]
    return {**kept, "continues": execution_id}


def fresh_ending(old: Ending | None, state: str, plan: Plan) -> Ending | None:
    """How the fresh execution is to end, if it only goes on undoing."""
    if plan.undoing:
        if old is not None:
            return old
        return Ending(WorkflowState(state), plan.undoing)
    if old is None or not any(one.is_saga and one.status in OPEN_SAGA for one in plan.kept):
        return None
    return old


def forgotten_in_words(plan: Plan) -> str:
    """Ended steps that were forgotten, for the history; empty if there are none."""
    return ", ".join(one.name for one in plan.forgotten if one.status not in UNFINISHED)
