"""What a fresh execution keeps of the one that it continues, and what may be done to one at all.

The rules are pure and the same on every engine: an engine looks up what they ask for, under the
execution's lock, and does what they say.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.steps import ASK_SUFFIX, StepRecord, StepStatus, WaitSnapshot

Resolutions = Mapping[str, tuple[bool, Any]]
"""`once=True` steps by name: whether it happened, and its encoded result if it did."""

CONTINUABLE: Final = (WorkflowState.FAILED, WorkflowState.CANCELLED)
"""What a fresh execution can continue. What completed is done, and others have its output."""
MOST_NAMES: Final = 30
"""Names in one message."""
NEVER_RAN: Final = "It never ran, because its handler cannot be imported."
OUTDATED: Final = ("cancel_reason", "resume_signal", "traceback")
"""Metadata of the old execution that would be wrong for the fresh one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Executions of which all that is given is true."""

    workflow_id: str | None = None
    correlation_id: str | None = None
    subject: str | None = None


class NotContinuableError(Exception):
    """Says in a sentence why nothing can go on from these steps."""


@dataclass(frozen=True, slots=True)
class RetryPreview:
    """What `retry_from_checkpoint` would do with the same arguments; nothing is changed."""

    execution_id: str
    before: str | None
    kept: tuple[str, ...]
    """Steps, waits and sleeps whose outcome stands, in the order in which they ended."""
    runs_again: tuple[str, ...]
    """Steps and sleeps that ended, or may have, and are forgotten."""
    asked_again: tuple[str, ...]
    """Waits whose question is asked again."""
    repeats_once: tuple[str, ...]
    """Those of `runs_again` that are marked `once=True`."""
    in_doubt: tuple[str, ...]
    """Steps that must be resolved first."""
    refusal: str
    """Why it would be refused, or empty."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What of an execution's steps is kept and what is forgotten."""

    kept: tuple[StepRecord, ...]
    forgotten: tuple[StepRecord, ...]
    in_doubt: tuple[str, ...]
    unknown: str | None = None

    @property
    def repeats_once(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.forgotten if one.once)

    def refusal(self, *, repeat_once: bool) -> str:
        """Why nothing can go on like this, or empty."""
        if self.unknown is not None:
            return (
                f"No step, wait or sleep {self.unknown!r} is recorded; "
                f"recorded are: {_listed(in_order((*self.kept, *self.forgotten)))}."
            )
        if self.in_doubt:
            name = self.in_doubt[0]
            return (
                f"Step {name!r} began and did not finish, so its effect may have happened: "
                "find out, and say so with resolve_step()."
            )
        if self.repeats_once and not repeat_once:
            names = ", ".join(map(repr, self.repeats_once))
            return (
                f"{names} would run again, although marked once=True: "
                "pass repeat_once=True if that is what you want."
            )
        return ""


def _listed(steps: list[StepRecord]) -> str:
    names = [repr(step.name) for step in steps[:MOST_NAMES]]
    if len(steps) > MOST_NAMES:
        names.append(f"and {len(steps) - MOST_NAMES} more")
    return ", ".join(names) or "none"


def in_order(steps: Iterable[StepRecord]) -> list[StepRecord]:
    """In the order in which their outcomes were written; what has none comes last."""
    return sorted(steps, key=lambda one: (one.status is StepStatus.OPEN, one.position))


def make_plan(
    steps: Iterable[StepRecord], resolved: Resolutions, before: str | None = None
) -> Plan:
    """Keep what ended, without *before* and everything whose outcome is not older than its.

    A wait's question goes with the wait. An open wait or sleep begins again, because what was sent
    out names the old execution. A step in doubt is kept in doubt unless it is *resolved* or began
    after what is forgotten. A resolved step that had a result takes the new one, and what came
    after the old one is forgotten.
    """
    by_name = {step.name: step for step in in_order(steps)}
    if before is not None and before not in by_name:
        return Plan(tuple(by_name.values()), (), (), unknown=before)
    corrected = [name for name in resolved if by_name[name].is_finished]
    starts = [before] if before is not None else []
    dropped = _not_older_than([by_name[name] for name in (*starts, *corrected)], by_name)
    dropped -= resolved.keys()
    dropped |= {name for name, step in by_name.items() if step.status is StepStatus.OPEN}
    questions = {f"{name}{ASK_SUFFIX}" for name in dropped}
    dropped |= questions & by_name.keys()
    kept, forgotten = [], []
    for name, step in by_name.items():
        if name in resolved and name not in starts:
            happened, result = resolved[name]
            if happened:
                kept.append(replace(step, status=StepStatus.DONE, result=result))
        elif name in dropped:
            forgotten.append(step)
        else:
            kept.append(step)
    in_doubt = tuple(one.name for one in kept if one.status is StepStatus.BEGUN)
    return Plan(tuple(kept), tuple(forgotten), in_doubt)


def _not_older_than(starts: Collection[StepRecord], by_name: Mapping[str, StepRecord]) -> set[str]:
    """*starts*, and what may have known one of their outcomes: in doubt, also what they may."""
    ended = [step.position for step in starts if step.status is not StepStatus.OPEN]
    names = {step.name for step in starts}
    if ended:
        first = min(ended)
        names |= {name for name, one in by_name.items() if one.position >= first}
    return names


def require_resolvable(steps: Iterable[StepRecord], names: Iterable[str]) -> None:
    """Raises `NotContinuableError` for a name that is no `once=True` step of these."""
    once = {step.name for step in steps if step.once}
    for name in names:
        if name not in once:
            raise NotContinuableError(f"Step {name!r} is not in doubt, nor marked once=True.")


def plan_or_refuse(
    steps: Collection[StepRecord],
    resolved: Resolutions,
    before: str | None,
    *,
    repeat_once: bool,
) -> Plan:
    """`make_plan`, or `NotContinuableError` in words."""
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
    """*refusal* is what the execution's own state says, or empty."""
    plan = make_plan(steps, {}, before)
    again = [one for one in plan.forgotten if not one.is_wait]
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
    )


def fresh_metadata(metadata: Mapping[str, Any], execution_id: str, plan: Plan) -> dict[str, Any]:
    """What the fresh execution takes over of the metadata of *execution_id*."""
    kept = {name: value for name, value in metadata.items() if name not in OUTDATED}
    answers = any(one.is_wait and one.status is StepStatus.DONE for one in plan.forgotten)
    if "resume_signal" in metadata and not answers:
        kept["resume_signal"] = metadata["resume_signal"]
    return {**kept, "continues": execution_id}


def verdict_on(name: str, resolved: Resolutions) -> str:
    """What an operator said of a step, as the history tells it."""
    return f"{name}: {'it happened' if resolved[name][0] else 'it did not happen'}"


def forgotten_in_words(plan: Plan) -> str:
    """What ended and was forgotten, for the history; empty if there is none."""
    return ", ".join(one.name for one in plan.forgotten if one.status is not StepStatus.OPEN)


NOT_RESTING: Final = "It is not sleeping or waiting for a retry."


def why_not_woken(state: str, waiting_for: str | None, *, rests: bool) -> str:
    """Why there is no rest or sleep to end, or empty. *rests*: pending, and not ready."""
    if state == WorkflowState.WAITING and waiting_for is not None:
        return f"It waits for {waiting_for!r}: answer that, or time it out."
    is_asleep = state == WorkflowState.WAITING
    return "" if is_asleep or (rests and state == WorkflowState.PENDING) else NOT_RESTING


def was_continued(execution_id: str) -> str:
    return f"It was continued as execution {execution_id}."


def key_is_taken(execution_id: str, state: str) -> str:
    return f"Its correlation id is taken by execution {execution_id}, which is {state}."


def wait_snapshot(step: StepRecord, *, is_asked: bool, subject: str = "") -> WaitSnapshot:
    is_answered = step.status is StepStatus.DONE
    return WaitSnapshot(
        name=step.name,
        outcome="answered" if is_answered else "timed_out" if step.is_finished else "open",
        is_asked=is_asked and not step.is_finished,
        opened_at=step.started_at,
        until=step.until,
        ended_at=step.finished_at,
        answer=step.result if is_answered else None,
        label=step.label,
        subject=subject,
    )
