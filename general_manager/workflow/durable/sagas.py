"""Sagas: what was done in a block is undone, last first, if an exception leaves it for good."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

from general_manager.escaping import get_logger
from general_manager.workflow.core.coroutines import require_a_thread
from general_manager.workflow.core.encoding import error_text
from general_manager.workflow.durable.ending import Ending
from general_manager.workflow.durable.errors import StepFailed, WorkflowCancelRequested
from general_manager.workflow.durable.failures import Failure, failure_of
from general_manager.workflow.durable.options import StepOptions
from general_manager.workflow.durable.outcomes import Unrecorded
from general_manager.workflow.durable.records import (
    OPEN_SAGA,
    UNDO_BEGUN,
    RunStore,
    StepRecord,
    StepStatus,
)
from general_manager.workflow.durable.steps import Steps, asked
from general_manager.workflow.durable.stops import AttemptFailed, EndRequested, StopRun
from general_manager.workflow.durable.under_way import in_its_thread
from general_manager.workflow.durable.undos import UNDO_RETRY, Undo, may_undo, registered_late
from general_manager.workflow.engine import Retry

logger = get_logger(__name__)


class Sagas:
    """The sagas of one run, and whether the execution is to undo them and to end."""

    def __init__(self, store: RunStore, steps: Steps, records: dict[str, StepRecord]) -> None:
        self.store = store
        self.steps = steps
        self.records = records
        self.ending = store.ending
        self.was_known = store.ending is not None
        """The run knew from its beginning that the execution is to end."""
        self.left: list[str] = []
        """Undos that have failed for good."""
        self.why = ""
        """What the sagas were undone for."""
        self.is_undoing = False
        self.stack: list[Block] = []
        self._open = {
            name: None for name, one in records.items() if one.is_saga and one.status in OPEN_SAGA
        }

    @property
    def open_names(self) -> Sequence[str]:
        """Sagas that have begun, and are neither closed nor undone."""
        return tuple(self._open)

    @property
    def unfinished(self) -> str:
        """A saga whose block this run has not left; empty if there is none."""
        left = {one.closes for one in self.steps.outcomes.unrecorded}
        return next((name for name in self._open if name not in left), "") or next(
            (one.name for one in self.stack), ""
        )

    def opened(self, name: str) -> None:
        self._open[name] = None

    def over(self, name: str) -> None:
        self._open.pop(name, None)

    def asked_to_end(self, ending: Ending) -> WorkflowCancelRequested:
        """What the next calls raise, now that the execution is to end."""
        self.ending = self.ending or ending
        return WorkflowCancelRequested(self.ending.error)

    def require_forwards(self) -> None:
        """Raises what every call without an outcome raises once something is to be undone."""
        if self.is_undoing:
            return
        for block in reversed(self.stack):
            if block.failed is not None:
                raise block.failed
        if self.left:
            raise WorkflowCancelRequested(self.why)
        if self.ending is not None:
            raise WorkflowCancelRequested(self.ending.error)

    def record_closings(self) -> None:
        """A handler that fails after a saga's block was left: that saga is not undone."""
        for one in self.steps.outcomes.unrecorded:
            if one.closes is not None:
                one.write()


class Block:
    """One ``with saga(name)`` of a run; what it gives is called to register an undo."""

    def __init__(
        self,
        sagas: Sagas,
        name: str,
        enter: Callable[[str], None],
        stopping: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.name = name
        self.failed: BaseException | None = None
        """What left the block in an earlier run."""
        self._sagas = sagas
        self._enter = enter
        self._stopping = stopping
        self.undos: list[Undo] = []
        self._opening: Unrecorded | None = None

    def __enter__(self) -> Self:
        require_a_thread(f"with saga({self.name!r})", f"async with saga({self.name!r})")
        return self._entered()

    async def __aenter__(self) -> Self:
        entered: Self = await in_its_thread(self.name, self._entered)
        return entered

    def _entered(self) -> Self:
        self._enter(self.name)
        self._sagas.steps.around.require_none_inside(f"saga({self.name!r})")
        record = self._record
        if record is None:
            self._sagas.require_forwards()
            self._opening = Unrecorded(self._open)
            self._sagas.steps.outcomes.unrecorded.append(self._opening)
        elif record.status in UNDO_BEGUN:
            again = StepRecord(self.name, StepStatus.FAILED, failure=record.failure)
            self.failed = self._sagas.steps.outcomes.again(again)
        self._sagas.stack.append(self)
        return self

    def __call__(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        atomic: bool = True,
        retry: Retry | None = None,
        **kwargs: Any,
    ) -> None:
        """Register *fn* to be called with these arguments, as a step, if the saga is undone.

        Its *name* is unique in the run. It must do nothing where there is nothing to take back.
        """
        if not callable(fn):
            raise TypeError(f"Undo {name!r} needs a callable, not {fn!r}")
        if self not in self._sagas.stack:
            raise registered_late(name, self.name)
        self._enter(name)
        options = StepOptions(atomic=atomic, retry=UNDO_RETRY if retry is None else retry)
        self.undos.append(Undo(name, lambda: fn(*args, **kwargs), options))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left(error)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await in_its_thread(self.name, partial(self._left, error))

    def _left(self, error: BaseException | None) -> None:
        sagas = self._sagas
        sagas.stack.pop()
        record = self._record
        status = None if record is None else record.status
        if isinstance(error, StopRun) or not may_undo(error):
            return
        unrecorded = sagas.steps.outcomes.unrecorded
        if self._opening in unrecorded and not self.undos:
            unrecorded.remove(self._opening)  # nothing was done, or is to be undone
            return
        if status in UNDO_BEGUN:
            with self._stopping():
                self._undo_and_raise(None)
        elif status is StepStatus.DONE:
            self._hand_over()
        elif error is None and sagas.ending is None and not sagas.left:
            self._close()
        elif error is None:
            with self._stopping():
                why = sagas.why if sagas.ending is None else sagas.ending.error
                self._undo_and_raise(WorkflowCancelRequested(why))
        else:
            with self._stopping():
                self._undo_unless_retried(error)

    @property
    def _record(self) -> StepRecord | None:
        return self._sagas.records.get(self.name)

    def _open(self) -> None:
        self._sagas.store.open_saga(self.name)
        self._sagas.opened(self.name)

    def _close(self) -> None:
        """Recorded with the next call: until then a request to end the execution undoes it."""
        self._sagas.opened(self.name)
        closing = Unrecorded(self._closed, closes=self.name)
        self._sagas.steps.outcomes.unrecorded.append(closing)
        self._hand_over()

    def _closed(self) -> None:
        self._sagas.store.close_saga(self.name)
        self._sagas.over(self.name)

    def _hand_over(self) -> None:
        """What this block did is undone with the block around it."""
        if self._sagas.stack:
            self._sagas.stack[-1].undos += self.undos

    def _undo_unless_retried(self, error: BaseException) -> None:
        sagas, outcomes = self._sagas, self._sagas.steps.outcomes
        origin = outcomes.origin(error)
        is_final = sagas.ending is not None or outcomes.is_final(error)
        is_request = isinstance(error, WorkflowCancelRequested)
        if not (is_final or is_request) and sagas.store.has_next_attempt(origin):
            raise AttemptFailed(error)
        self._undo_and_raise(error)

    def _undo_and_raise(self, error: BaseException | None) -> None:
        """Undo for *error*, or for what is recorded; raises what leaves the block in every run."""
        sagas = self._sagas
        record = self._record
        about: dict[str, Any] = {}
        status = None
        if error is None and record is not None:
            about, status = record.own_result() or {}, record.status
        raised = self.failed or self._begin(error or WorkflowCancelRequested())
        sagas.why = sagas.why or error_text(raised)
        left = list(about.get("left", ()))
        if status not in (StepStatus.UNDONE, StepStatus.INCOMPLETE):
            left = self._undo_all(about.get("undos", ()))
            asked(sagas.store.end_undoing, self.name, left)
        sagas.over(self.name)
        sagas.left += left
        if sagas.left:
            raise WorkflowCancelRequested(sagas.why)
        raise raised

    def _begin(self, error: BaseException) -> BaseException:
        """Commit *error* before the first undo; returns what leaves the block."""
        sagas, outcomes = self._sagas, self._sagas.steps.outcomes
        origin = outcomes.origin(error)
        failure: Failure = failure_of(origin, is_final=False)
        try:
            sagas.steps.record_failures()
        except EndRequested as request:  # a saga before this one is not closed
            sagas.asked_to_end(request.ending)
            outcomes.recorded()
        if self.name not in sagas.open_names:
            asked(self._open)
        names = [one.name for one in self.undos]
        asked(sagas.store.begin_undoing, self.name, failure.to_json(), names)
        if isinstance(error, WorkflowCancelRequested):
            return error
        return outcomes.of_saga(self.name, error, failure)

    def _undo_all(self, recorded: Sequence[str]) -> list[str]:
        """Call the undos, last first; returns those that have failed for good or are gone."""
        sagas = self._sagas
        left = []
        with self._undoing():
            for undo in reversed(self.undos):
                record = sagas.records.get(undo.name)
                if record is not None and record.status is StepStatus.DONE:
                    continue
                if record is not None and record.status is StepStatus.FAILED:
                    left.append(undo.name)
                    continue
                try:
                    sagas.steps.run(undo.name, undo.call, undo.options, record)
                except StepFailed:
                    logger.exception("Undo %r of saga %r failed for good", undo.name, self.name)
                    left.append(undo.name)
        known = {one.name for one in self.undos}
        done = {name for name, one in sagas.records.items() if one.status is StepStatus.DONE}
        return left + [name for name in recorded if name not in known | done]

    @contextmanager
    def _undoing(self) -> Iterator[None]:
        sagas = self._sagas
        sagas.is_undoing, sagas.store.saga = True, self.name
        try:
            yield
        finally:
            sagas.is_undoing, sagas.store.saga = False, None
