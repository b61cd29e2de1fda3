"""Crash a workflow before, in and after each of its steps, and compare the results."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from django.db import DEFAULT_DB_ALIAS, transaction

from general_manager.workflow.core.encoding import encode_mapping, error_text
from general_manager.workflow.durable.records import StepRecord
from general_manager.workflow.engine import WorkflowDefinition, WorkflowHandler
from general_manager.workflow.exceptions import StepInDoubt
from general_manager.workflow.testing.comparing import Comparison, Observed
from general_manager.workflow.testing.crashing import (
    AFTER,
    BEFORE,
    IN,
    Memory,
    run_to_its_end,
)
from general_manager.workflow.testing.effects import counted, read_tables
from general_manager.workflow.testing.running import require_asked

Effects = Callable[[], Any]


def assert_crash_safe(
    workflow: WorkflowDefinition | WorkflowHandler,
    input_data: Mapping[str, Any] | None = None,
    *,
    answers: Mapping[str, Any] | None = None,
    effects: Effects | None = None,
    at_least_once: bool = False,
    failing: Mapping[str, Exception] | None = None,
    raises: type[Exception] | tuple[type[Exception], ...] = (),
) -> dict[str, Any]:
    """Raise `AssertionError` if a crash changes the output, rows or effects of *workflow*.

    The handler runs twice without a crash. Then it runs once for each point before, in and after
    each step: it crashes there and runs again, as after the death of a worker. Each time it must
    return the same output and leave the same rows, except for keys, times and random values that
    can be traced to the same column or step. Each run is rolled back on the default database. A
    `once=True` step that crashes may end in doubt, as documented. *answers* are as for `run`.

    *effects*, such as `sent_mails`, returns the effects outside the database: a list, a set, a
    mapping or a number. Each run must add the same effects. A step that crashes between its effect
    and its commit repeats the effect, since steps are at-least-once outside the database; with
    *at_least_once* such a repetition is accepted, and nothing else.

    *failing* maps names of steps to the exceptions that they raise, at each attempt, instead of
    being called; the branch that the handler takes for them must be the same after a crash. If the
    handler itself is to fail, *raises* names the exceptions.

    Returns the output of the run without a crash, which is empty if it failed. A workflow that
    continues as new is tried up to there; the input of the next execution counts as its output.
    """
    handler = workflow.handler if isinstance(workflow, WorkflowDefinition) else workflow
    if handler is None:
        raise TypeError("assert_crash_safe() needs a workflow with a handler")
    given = encode_mapping({} if input_data is None else input_data, root="input_data")
    trial = Trial(handler, given, answers or {}, effects, failing=failing or {}, raises=raises)
    calm = trial.observe()
    trial.require_all_answers_asked()
    trial.calm += [calm, trial.observe()]
    for name in trial.reached:
        for point in (BEFORE, IN, AFTER):
            memory = trial.memory(crash_at=(name, point))
            try:
                crashed = trial.observe(memory)
            except StepInDoubt:
                continue
            accepted = memory.repeated if at_least_once else Counter()
            trial.require_same(crashed, f"a crash {point} step {name!r}", accepted, memory.repeated)
    return calm.output


RAISED: Final = "(raised by the handler)"


def _outcome(record: StepRecord) -> Any:
    if record.failure is None:
        return record.result
    return {"failed": record.failure["kind"], "text": record.failure["text"]}


class _UndoneError(Exception):
    pass


class Trial:
    """Runs one workflow repeatedly."""

    def __init__(
        self,
        handler: WorkflowHandler,
        input_data: dict[str, Any],
        answers: Mapping[str, Any],
        effects: Effects | None,
        *,
        failing: Mapping[str, Exception],
        raises: type[Exception] | tuple[type[Exception], ...],
    ) -> None:
        self.handler = handler
        self.input_data = input_data
        self.answers = answers
        self.effects = effects
        self.failing = failing
        self.raises = raises
        self.calm: list[Observed] = []
        self.reached: list[str] = []
        """The steps of a run without a crash, in order."""
        self._asked: set[str] = set()

    def memory(self, crash_at: tuple[str, str] | None = None) -> Memory:
        return Memory(self.answers, crash_at=crash_at, failing=self.failing)

    def observe(self, memory: Memory | None = None) -> Observed:
        """Run to the end, read the results, and roll back."""
        memory = memory or self.memory()
        memory.effects = self._count_effects
        try:
            with transaction.atomic(using=DEFAULT_DB_ALIAS):
                before = self._count_effects()
                output, error = self._run(memory)
                steps = {name: _outcome(record) for name, record in memory.steps.items()}
                if error is not None:
                    steps[RAISED] = [type(error).__qualname__, error_text(error)]
                after = self._count_effects()
                after.subtract(before)
                added = Counter({text: count for text, count in after.items() if count})
                found = Observed(output, steps, read_tables(), added)
                raise _UndoneError  # noqa: TRY301 - rolls the `atomic` block back
        except _UndoneError:
            self.reached = self.reached or memory.reached
            self._asked |= memory.asked
            return found

    def _run(self, memory: Memory) -> tuple[dict[str, Any], Exception | None]:
        try:
            output = run_to_its_end(self.handler, self.input_data, memory)
        except self.raises as error:
            return {}, error
        if self.raises != ():
            raise AssertionError(f"The handler did not raise {self.raises!r}")
        return output, None

    def require_all_answers_asked(self) -> None:
        require_asked(self.answers, self._asked, "The execution completed.")
        unreached = sorted(set(self.failing) - set(self.reached))
        if unreached:
            raise AssertionError(f"Some failing steps were never reached: {unreached}")

    def require_same(
        self, crashed: Observed, where: str, accepted: Counter[str], repeated: Counter[str]
    ) -> None:
        difference = Comparison(self.calm).difference(crashed)
        if difference:
            # Another run without a crash may differ too, for example in a time rounded to seconds.
            self.calm.append(self.observe())
            difference = Comparison(self.calm).difference(crashed)
        if difference:
            raise AssertionError(
                f"After {where} {difference}\nCode between steps may run again, and so may a step "
                "whose writes do not commit with it. Put what must happen once into an atomic step."
            )
        added = crashed.added.copy()
        added.subtract(accepted)
        difference = Comparison(self.calm).added_difference(added)
        if difference:
            name = getattr(self.effects, "__name__", repr(self.effects))
            raise AssertionError(
                f"After {where} the effects that {name!r} returns differ:\n{difference}\n"
                f"{AT_LEAST_ONCE if repeated else CODE_BETWEEN}"
            )

    def _count_effects(self) -> Counter[str]:
        return Counter() if self.effects is None else counted(self.effects())


AT_LEAST_ONCE: Final = (
    "A step's effects outside the database happen at least once, by design: its worker may die "
    "before the step is recorded. Use once=True if they must not be repeated, or accept the "
    "repetition: assert_crash_safe(..., at_least_once=True)."
)
CODE_BETWEEN: Final = (
    "Code between steps may run again. Put effects that must happen once into a step."
)
