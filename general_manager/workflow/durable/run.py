"""One run of a handler: finished steps come from the store, new ones are called and recorded.

The store is the engine's: a dictionary in local mode, tables in production. Everything else about
steps and waits is here, once.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar

from general_manager.workflow.core.context import enter_run, leave_run
from general_manager.workflow.core.coroutines import called
from general_manager.workflow.core.encoding import copy_encoded, encode_mapping
from general_manager.workflow.core.ids import require_id
from general_manager.workflow.core.importing import describe
from general_manager.workflow.core.transactions import Surroundings
from general_manager.workflow.durable.errors import CompensationIncomplete, WorkflowCancelRequested
from general_manager.workflow.durable.options import PLAIN_STEP, StepOptions
from general_manager.workflow.durable.outcomes import Outcomes
from general_manager.workflow.durable.records import ASK_SUFFIX, RunStore, StepRecord, StepStatus
from general_manager.workflow.durable.reports import Reports
from general_manager.workflow.durable.sagas import Block, Sagas
from general_manager.workflow.durable.steps import Steps, asked
from general_manager.workflow.durable.stops import (
    AttemptFailed,
    Ended,
    EndRequested,
    Interrupted,
    RunAgain,
    StopRun,
    Suspended,
)
from general_manager.workflow.durable.under_way import UnderWay
from general_manager.workflow.durable.waits.gathers import Gatherings
from general_manager.workflow.engine import WorkflowHandler
from general_manager.workflow.exceptions import (
    PermanentFailure,
    StepInDoubt,
    StepUsageError,
    WaitTimeout,
    ends_the_process,
    is_permanent,
)


class Run:
    """One run of a handler over an execution's recorded steps."""

    steps_type: ClassVar[type[Steps]] = Steps

    def __init__(self, execution_id: str, store: RunStore) -> None:
        self.execution_id = execution_id
        self.stopped: StopRun | None = None
        """Why the run must end, even if the handler swallowed the exception."""
        self._store = store
        self._records = store.load()
        self._used: set[str] = set()
        self._open: set[str] = set()
        """Waits that this run has reached and that have no outcome yet."""
        self._reports = Reports(store.write_reports, repeats=bool(self._records))
        self.under_way = UnderWay()
        self._steps = self.steps_type(execution_id, store)
        self.sagas = Sagas(store, self._steps, self._records)
        self.gatherings = Gatherings(store, self.sagas, self._records, self._enter, self._stopping)

    @property
    def using(self) -> str | None:
        """The database that steps write to, if there is one."""
        return self._store.using

    @property
    def outcomes(self) -> Outcomes:
        """What the steps of this run raised."""
        return self._steps.outcomes

    def do_again_if_undone(self, act: Callable[[], object]) -> None:
        """Repeat *act*, called in a step of this run, if the step is rolled back.

        For example, a handler cancels its own execution: that ends the claim, so the step's
        transaction is rolled back, and the cancellation with it.
        """
        if self._steps.inside is not None:
            self._steps.again.append(act)

    def call(self, handler: WorkflowHandler, input_data: dict[str, Any]) -> dict[str, Any]:
        """Run *handler* and return its encoded output.

        If `stopped` is set afterwards, the handler's result and exception do not count. Otherwise
        raises what the handler raises, `PermanentFailure` or `EncodingError` for an output that
        cannot be stored, and `CompensationIncomplete` if not everything could be undone.
        """
        raised: BaseException | None = None
        output: dict[str, Any] = {}
        try:
            output = self._call(handler, input_data)
        except BaseException as error:
            if ends_the_process(error):
                raise
            raised = error
        if isinstance(self.stopped, AttemptFailed):
            raised, self.stopped = self.stopped.error, None
        elif self.stopped is None:
            raised = self._concluded(raised)
        if self.stopped is not None:
            return {}
        if raised is not None:
            raise raised
        return output

    def _concluded(self, raised: BaseException | None) -> BaseException | None:
        """What the run comes to, if it was to undo and to end: *raised* counts only if not."""
        sagas = self.sagas
        if sagas.left:
            return CompensationIncomplete(sagas.left, sagas.why)
        try:
            with self._stopping():
                if raised is not None:
                    sagas.record_closings()
        except StopRun:
            return None
        except WorkflowCancelRequested:
            pass  # the saga is not closed: another run undoes it
        if sagas.ending is None or isinstance(raised, StepInDoubt):
            return raised
        if not sagas.open_names:
            self.stopped = Ended(sagas.ending)
        elif not sagas.was_known:
            self.stopped = RunAgain()
        elif (
            raised is None
            or isinstance(raised, WorkflowCancelRequested)
            or not self._store.has_next_attempt(self.outcomes.origin(raised))
        ):
            return CompensationIncomplete(sagas.open_names, sagas.ending.error)
        return raised

    def _call(self, handler: WorkflowHandler, input_data: dict[str, Any]) -> dict[str, Any]:
        self._steps.around = Surroundings(self._store.using)
        token = enter_run(self)
        try:
            output = called(handler, input_data)
            self._steps.around.close_what_was_left_open(describe(handler))
        except StopRun as stop:
            self.stopped = self.stopped or stop
            return {}
        except BaseException as error:
            if ends_the_process(error):
                raise
            explained = self.stopped is None and self._steps.around.explain(error)
            if explained and not is_permanent(error):
                self.stopped = Interrupted(error)
            if self.stopped is None:
                raise
            return {}
        finally:
            leave_run(token)
            self._steps.around.discard_what_was_left_open(describe(handler))
            self._reports.write(at_end=True)
        return {} if self.stopped is not None else self._returned(output, handler)

    def _returned(self, output: Any, handler: WorkflowHandler) -> dict[str, Any]:
        if output is not None and not isinstance(output, Mapping):
            raise PermanentFailure(
                f"The handler {describe(handler)} must return a mapping or None, not {output!r}"
            )
        encoded = {} if output is None else encode_mapping(output, root="output")
        try:
            with self._stopping():
                self._steps.record_failures(but_closings=True)
        except StopRun:
            return {}
        return encoded

    @property
    def closings(self) -> list[Callable[[], None]]:
        """What is to be written together with the completion: sagas whose blocks were left."""
        return [one.write for one in self.outcomes.unrecorded]

    def report(self, name: str, value: Any) -> None:
        if self.stopped is None:
            self._reports.report(name, value)

    def saga(self, name: str) -> Block:
        return Block(self.sagas, name, self._enter, self._stopping)

    def step(self, name: str, call: Callable[[], Any], options: StepOptions = PLAIN_STEP) -> Any:
        self._enter(name)
        record = self._records.get(name)
        if record is not None and (record.is_finished or record.status is StepStatus.STARTED):
            return self._replayed(record)
        if options.once or not options.atomic or options.has_budget:
            self._steps.around.require_none_inside(
                f"step {name!r}, which must be recorded at once,"
            )
        self.sagas.require_forwards()
        with self._stopping():
            result = self._steps.run(name, call, options, record)
        return copy_encoded(result)

    def _replayed(self, record: StepRecord) -> Any:
        if record.status is StepStatus.STARTED:
            raise StepInDoubt(self.execution_id, record.name)
        if record.status is StepStatus.FAILED:
            raise self.outcomes.again(record)
        return record.own_result()

    def wait(
        self, name: str, timeout: timedelta | None, ask: Callable[[], Any] | None, **by: Any
    ) -> StepRecord:
        """The record of the wait, once it is answered; *by* is as in `RunStore.open_wait`."""
        question = f"{name}{ASK_SUFFIX}"
        if ask is not None:
            require_id("A wait's name with ': ask' behind it", question)
        record = self._reach(name, f"the wait {name!r}")
        with self._stopping():
            record = self._open_once(name, record, timeout, asks=bool(ask), answerable=True, **by)
            if record.status is StepStatus.OPEN:
                self._open.add(name)
                if ask is not None:
                    self.step(question, ask)
                record = asked(self._store.settle_wait, name)
            if record.status is StepStatus.OPEN:
                raise Suspended(name, record.until, answerable=True)
            self._open.discard(name)
        if record.status in (StepStatus.TIMED_OUT, StepStatus.CLOSED):
            raise WaitTimeout(name)
        return record

    def sleep(self, name: str, duration: timedelta) -> None:
        record = self._reach(name, f"sleep({name!r})")
        with self._stopping():
            record = self._open_once(name, record, duration, answerable=False)
            if record.status is StepStatus.OPEN:
                record = asked(self._store.settle_wait, name)
            if record.status is StepStatus.OPEN:
                raise Suspended(name, record.until, answerable=False)

    def _reach(self, name: str, what: str) -> StepRecord | None:
        self._enter(name)
        self._steps.around.require_none_inside(what)
        record = self._records.get(name)
        if record is None or record.status in (StepStatus.OPEN, StepStatus.CLOSED):
            self.sagas.require_forwards()
        return record

    def _open_once(
        self, name: str, record: StepRecord | None, timeout: timedelta | None, **how: Any
    ) -> StepRecord:
        if record is None or record.status is StepStatus.OPEN:
            self._steps.record_failures()
        is_over = timeout is not None and timeout <= timedelta(0)
        how |= {"timeout": timeout, "suspends": not (how.pop("asks", False) or is_over)}
        return record or asked(self._store.open_wait, name, **how)

    def require_nothing_open(self, what: str) -> str:
        """Check that *what* may end the run here; returns the name of a wait that is still open."""
        self._enter(what)
        self._steps.around.require_none_inside(what)
        self.sagas.require_forwards()
        unreached = (
            name for name, one in self._records.items() if one.is_open and name not in self._used
        )
        return next(iter(sorted(self._open)), "") or next(unreached, "")

    def _enter(self, name: str) -> None:
        require_id("A step's name", name)
        if self.stopped is not None:
            raise self.stopped  # the handler swallowed it; this run must do nothing else
        self.under_way.require_whole()
        if self._steps.inside is not None:
            raise StepUsageError(
                f"{name!r} is called inside step {self._steps.inside!r}. A step finishes as a "
                "whole, so it cannot contain another step or wait: call it from the handler."
            )
        if name in self._used:
            raise StepUsageError(
                f"The name {name!r} is used twice in one run. A finished step is found by its "
                f'name: in a loop, make names differ, as in f"{name} {{item_id}}".'
            )
        self._used.add(name)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        try:
            yield
            self._reports.write_if_due()
            self._steps.around.expect_changes()
        except EndRequested as request:
            raise self.sagas.asked_to_end(request.ending) from None
        except StopRun as stop:
            self.stopped = stop
            raise
