"""Records the steps of one run in the tables, fenced by the execution's claim."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any

from django.db import connections, transaction

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.core.transactions import is_in_transaction, own_transaction
from general_manager.workflow.durable.errors import StepTimeout
from general_manager.workflow.durable.records import FailedAttempt, StepRecord, StepStatus
from general_manager.workflow.durable.stops import Interrupted, StopRun
from general_manager.workflow.executions.wait_store import WaitStore
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.execution_attempts import (
    attempt_ended,
    begin_attempt,
    is_attempt_due,
    postpone_step,
)
from general_manager.workflow.models.executions.reports import write_reports
from general_manager.workflow.models.executions.values import counts_failures

logger = get_logger(__name__)


class DatabaseRunStore(WaitStore):
    """Keeps steps on the database of their execution.

    Each write may be repeated over a fresh connection: a row that exists under the claim of this
    run was written by this run.
    """

    def __init__(self, record: WorkflowExecutionRecord, using: str) -> None:
        super().__init__(record, using)
        self.using: str | None = using
        self.uncalled: str | None = None
        """A `once=True` step that may be recorded as started, but was not called."""
        self._block = own_transaction(using)
        self._began = monotonic()
        self._limited: str | None = None
        """The step whose running attempt has a time limit."""
        self._outside: dict[str, dict[str, Any]] = {}
        """Records written outside a step's transaction, which no rollback undoes."""

    def load(self) -> dict[str, StepRecord]:
        """All recorded steps, in one query; none, and no query, for a first run."""
        if self._record.runs == 1:
            return {}
        found = self._commits.persist(lambda: self._rows.replayed(self._record))
        known = {one.name: one for one in found}
        self._sourced = {one.name for one in found if one.sources}
        self._position = max((one.position for one in known.values()), default=0)
        return known

    def check(self) -> None:
        held = self._executions.held(self._record)
        self._commits.make_durable(held)
        found = self._commits.persist(lambda: list(held.values_list("ending", flat=True)))
        if not found:
            raise self._lost()
        if found[0] is not None and self.saga is None:
            self._require_not_ending()
        self._began = monotonic()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Step and checkpoint commit together; `finish` checks the claim in that transaction."""
        self._commits.persist(lambda: None)  # on a connection that works
        self._commits.begin()
        self._block = own_transaction(self._using)
        self._began = monotonic()
        try:
            with self._block:
                yield
            self._commits.committed(self._block.session)
        finally:
            self._commits.ended()

    def was_undone_by_the_database(self, error: BaseException) -> bool:
        return self._block.was_undone_by_the_database(error)

    def write_back(self) -> None:
        """After a rollback in a caller's transaction: record again what happened outside it."""
        for name, values in self._outside.items():
            self._rows.add(self._record, name, **values)

    def begin(self, name: str) -> None:
        started = StepStatus.STARTED
        values: dict[str, Any] = {"status": started, "once": True, "position": self._next()}
        self.uncalled = name
        if not self._written(lambda: self._rows.add(self._record, name, **values), name, started):
            raise self._lost()
        self.uncalled = None
        self._keep_outside(name, **values)

    def begin_attempt(self, name: str, timeout: timedelta) -> None:
        begin = partial(
            begin_attempt, self._executions, self._record, name, timeout,
            position=self._next(), lease=self._lease,
        )  # fmt: skip
        if not self._commits.persist(begin):
            raise self._late_or_lost(name)
        self._limited = name

    def finish(self, name: str, result: Any, *, asked_inside: bool = False) -> None:
        rows, done = self._rows, StepStatus.DONE
        values: dict[str, Any] = {"status": done, "result": result, "position": self._next()}
        took = timedelta(seconds=monotonic() - self._began)

        def write() -> bool:
            if self._limited == name:
                return self._end_attempt(rows.finish, name, result, self._position, in_time=True)
            may_end = self.saga is not None or asked_inside or not self._commits.is_inside
            if self.saga is not None:
                values["saga"] = self.saga
            added = rows.add(
                self._record, name,
                took=took, may_end=may_end, is_waited=self._commits.is_waited,
                is_last=not counts_failures(self._record), **values,
            )  # fmt: skip
            return added or rows.finish(self._record, name, result, self._position)

        self._end(write, name, values)

    def fail(self, name: str, failure: dict[str, Any], attempts: int) -> None:
        values: dict[str, Any] = {
            "failure": failure, "attempts": attempts, "position": self._next(), "saga": self.saga,
        }  # fmt: skip
        rows = self._rows

        def write() -> bool:
            if self._limited == name:
                return self._end_attempt(rows.fail, name, in_time=False, **values)
            return rows.fail(self._record, name, **values)

        self._end(write, name, {**values, "status": StepStatus.FAILED})

    def _end(self, write: Callable[[], bool], name: str, values: dict[str, Any]) -> None:
        """Write the outcome of step *name*; *values* are those of a row of its own."""
        if self._commits.is_inside:
            if not write():
                raise self._late_or_lost(name)
            self._commits.name = name
        else:
            if not self._written(write, name, values["status"]):
                raise self._late_or_lost(name)
            self._keep_outside(name, **values)
        if self._limited == name:
            self._limited = None
        if counts_failures(self._record):
            self._commits.persist(lambda: self._executions.progressed(self._record))

    def _end_attempt(
        self, write: Callable[..., bool], *arguments: Any, in_time: bool, **values: Any
    ) -> bool:
        with transaction.atomic(using=self._using):
            ended = attempt_ended(self._executions, self._record, self._lease, in_time=in_time)
            return ended and write(self._record, *arguments, **values)

    def postpone(self, attempt: FailedAttempt, delay: timedelta) -> None:
        postpone = partial(
            postpone_step, self._executions, self._record, attempt, delay,
            position=self._next(), saga=self.saga,
        )  # fmt: skip
        if not self._commits.persist(postpone):
            raise self._lost()

    def is_due(self, name: str) -> bool:
        return self._commits.persist(lambda: is_attempt_due(self._executions, self._record, name))

    def _late_or_lost(self, name: str) -> BaseException:
        """Why an outcome was refused: its step took too long, or another run has the execution."""
        self._require_not_ending()
        is_limited = self._limited == name
        if is_limited and self._commits.persist(self._executions.held(self._record).exists):
            return StepTimeout(name)
        return self._lost()

    def write_reports(self, values: Mapping[str, Any], *, at_end: bool) -> bool:
        if not at_end and is_in_transaction(self._using):
            return False
        write = partial(write_reports, self._executions, self._record, values)
        try:
            self._commits.persist(write, patience=0)
        except (Exception, Interrupted):  # the next write of this run says so where it counts
            logger.warning(
                "A report of execution %s could not be written", self._record.execution_id,
                exc_info=True,
            )  # fmt: skip
        return True

    def _keep_outside(self, name: str, **values: Any) -> None:
        """Only in a caller's transaction: elsewhere it is committed, and may be large."""
        if connections[self._using].in_atomic_block:
            self._outside[name] = {**self._outside.get(name, {}), **values}

    def _written(self, write: Callable[[], bool], name: str, status: StepStatus) -> bool:
        if self._commits.persist(write):
            return True
        try:
            return self._known(name).status is status
        except StopRun:
            return False

    @property
    def _lease(self) -> timedelta:
        return get_workflow_settings().execution_lease
