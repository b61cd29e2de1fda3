"""Runs the functions of one run's steps: attempts, transactions, and what they raise."""

from collections.abc import Callable
from typing import Any, TypeVar

from general_manager.durations import in_words
from general_manager.escaping import get_logger
from general_manager.workflow.core.coroutines import settled
from general_manager.workflow.core.encoding import encode
from general_manager.workflow.core.transactions import Surroundings
from general_manager.workflow.durable.errors import StepTimeout
from general_manager.workflow.durable.failures import failure_of
from general_manager.workflow.durable.options import StepOptions, next_attempt_in
from general_manager.workflow.durable.outcomes import Outcomes
from general_manager.workflow.durable.records import (
    FailedAttempt,
    RunStore,
    StepRecord,
    StepStatus,
    within_limit,
)
from general_manager.workflow.durable.stops import EndRequested, Interrupted, Retrying, StopRun
from general_manager.workflow.exceptions import (
    WorkflowError,
    ends_the_process,
    is_permanent,
)

logger = get_logger(__name__)

Result = TypeVar("Result")


def asked(verb: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Call the store. An error of the store is not the handler's failure, and ends the run."""
    try:
        return verb(*arguments, **options)
    except WorkflowError:  # a refusal
        raise
    except Exception as error:
        raise Interrupted(error) from error


class Steps:
    """Calls the functions of steps that have no outcome yet, and records what comes of them."""

    def __init__(self, execution_id: str, store: RunStore) -> None:
        self.outcomes = Outcomes()
        self.inside: str | None = None
        """The step whose function is being called."""
        self.around: Surroundings
        """The transactions around the handler; from its call on."""
        self.again: list[Callable[[], object]] = []
        """What to repeat if the step that is being called is rolled back."""
        self._execution_id = execution_id
        self._store = store

    def run(
        self, name: str, call: Callable[[], Any], options: StepOptions, record: StepRecord | None
    ) -> Any:
        """The encoded result of step *name*; *record* is left of its earlier attempts.

        Raises `StopRun`, or what the handler gets to see of the step's failure.
        """
        earlier = 0 if record is None else self._earlier_attempts(record, options)
        self._begin(name, options)
        run_step = self._run_in_transaction if options.atomic else self._run_step
        try:
            return run_step(name, call)
        except BaseException as error:
            if isinstance(error, Interrupted):
                self.outcomes.failed(name, error)
            if isinstance(error, StopRun | EndRequested) or ends_the_process(error):
                raise
            raised = self._failed(name, error, earlier + 1, options)
            if raised is error:
                raise
            raise raised from error

    def record_failures(self, *, but_closings: bool = False) -> None:
        """Record what the handler may have caught, before anything that it does about it.

        With *but_closings*, leave what follows a saga's closing to the completion's commit.
        """
        while self.outcomes.unrecorded:
            first = self.outcomes.unrecorded[0]
            if but_closings and first.closes is not None:
                return
            asked(first.write)
            self.outcomes.recorded(most=1)

    def _earlier_attempts(self, record: StepRecord, options: StepOptions) -> int:
        """The attempts that failed before; ends the run if the next one is not due yet."""
        if record.status is StepStatus.RETRYING and record.until is None:
            # The sweep has timed it out, and leaves it to the step's own code what follows.
            error = StepTimeout(record.name)
            if options.has_budget:
                raise self._failed(record.name, error, record.attempts, options, is_new=False)
        elif record.status is StepStatus.RETRYING and not asked(self._store.is_due, record.name):
            raise Retrying(record.name)
        return record.attempts

    def _begin(self, name: str, options: StepOptions) -> None:
        if not options.atomic:
            asked(self._store.check)  # an atomic step's transaction checks for itself
        if options.once or not options.atomic or options.timeout is not None:
            self.record_failures()
        if options.once:
            asked(self._store.begin, name)
        elif options.timeout is not None:
            asked(self._store.begin_attempt, name, options.timeout)

    def _failed(
        self,
        name: str,
        error: BaseException,
        attempts: int,
        options: StepOptions,
        *,
        is_new: bool = True,
    ) -> BaseException:
        """What step *name* raises, as its attempt number *attempts* raised *error*."""
        if not options.has_budget:
            return self.outcomes.unless_it_leaves(name, error, self._store.fail)
        if self.around.explain(error) and not is_permanent(error):
            self.outcomes.failed(name, error)
            raise Interrupted(error) from error
        self.record_failures()
        stored = failure_of(error, is_final=True).to_json()
        delay = next_attempt_in(options.policy, attempts, error)
        if delay is None:
            asked(self._store.fail, name, stored, attempts)
            return self.outcomes.for_good(name, error, attempts)
        asked(self._store.postpone, FailedAttempt(name, stored, attempts, is_new), delay)
        logger.warning(
            "Step %r of execution %s failed (attempt %d); retrying in %s",
            name, self._execution_id, attempts, in_words(delay), exc_info=error,
        )  # fmt: skip
        raise Retrying(name) from error

    def _run_step(self, name: str, call: Callable[[], Any]) -> Any:
        what = f"step {name!r}"
        try:
            result = self._called(name, call)
        except BaseException:
            self.around.discard_what_was_left_open(what)
            raise
        self.around.close_what_was_left_open(what)
        asked(self._store.finish, name, result)
        return result

    def _run_in_transaction(self, name: str, call: Callable[[], Any]) -> Any:
        self.again.clear()
        try:
            with self._store.transaction():
                result = self._called(name, call)
                for one in self.outcomes.unrecorded:
                    one.write()
                self._store.finish(name, result, asked_inside=bool(self.again))
        except BaseException as error:
            for act in self.again:
                act()
            if isinstance(error, StopRun | EndRequested) or ends_the_process(error):
                raise
            if self._store.was_undone_by_the_database(error) and not is_permanent(error):
                raise Interrupted(error) from error
            raise
        self.outcomes.recorded()
        return result

    def _called(self, name: str, call: Callable[[], Any]) -> Any:
        self.inside = name
        try:
            result = settled(call())
            return within_limit(encode(result, root=f"the result of step {name!r}"), name)
        finally:
            self.inside = None
