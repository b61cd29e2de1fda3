"""Records the waits of one run in the tables, fenced by the execution's claim."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from datetime import timedelta

from django.core.exceptions import ImproperlyConfigured
from django.db import router, transaction
from django.utils import timezone

from general_manager.conf import get_workflow_settings
from general_manager.workflow.core.local_handlers import find_handler
from general_manager.workflow.durable.answers.sources import (
    DIFFERENT_DATABASES,
    DIFFERENT_KINDS,
    Source,
    SourceKind,
)
from general_manager.workflow.durable.records import StepRecord, StepStatus
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.exceptions import StepUsageError
from general_manager.workflow.executions.children.store import ChildStore
from general_manager.workflow.executions.handler_modules import not_importable
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models import (
    WorkflowEventRecord,
    WorkflowEventWait,
    WorkflowExecutionRecord,
    WorkflowHistory,
)
from general_manager.workflow.models.executions.looks import settle_held
from general_manager.workflow.models.sql.columns import DatabaseNow
from general_manager.workflow.models.timing import Opening


class WaitStore(ChildStore):
    """The part of a `RunStore` that concerns waits and sleeps."""

    def __init__(self, record: WorkflowExecutionRecord, using: str) -> None:
        super().__init__(record, using)
        self.opening: Opening | None = None
        """The wait that the suspension of this run records."""
        self._opened: StepRecord | None = None
        """The wait that this run has recorded itself."""
        self._sourced: set[str] = set()
        """Names of waits with sources: they are looked at before they time out."""

    @abstractmethod
    def check(self) -> None: ...

    def open_wait(
        self,
        name: str,
        *,
        timeout: timedelta | None,
        answerable: bool,
        suspends: bool,
        signal: str | None = None,
        sources: Sequence[Source] = (),
    ) -> StepRecord:
        if find_handler(self._record.execution_id) is not None:
            # Before the question is sent: no later run could continue from the answer.
            path = str(self._record.handler_path)
            raise not_importable(self._record.workflow_id, path)
        if sources:
            _require_one_home(sources, self._using)
            self._sourced.add(name)
            self._commits.persist(lambda: self._open_sourced(name, timeout, sources))
            return self._commits.persist(lambda: self._look(name, timeout))
        mailbox = (signal or name) if answerable else None
        if suspends and not self._record.has_signals:
            self.opening = Opening(name, timeout, answerable, self._position + 1, mailbox)
            return StepRecord(name, StepStatus.OPEN, answerable=answerable)
        return self._commits.persist(lambda: self._open_wait(name, timeout, mailbox))

    def settle_wait(self, name: str) -> StepRecord:
        """The wait as it is now; `suspend` checks a wait that this run records only then."""
        if self.opening is not None:
            return StepRecord(name, StepStatus.OPEN, answerable=self.opening.answerable)
        opened = self._opened
        if opened is not None and opened.name == name and self._is_still_open(name):
            return opened
        return self._commits.persist(lambda: self._settle_wait(name))

    def _is_still_open(self, name: str) -> bool:
        rows = self._rows.filter(execution_id=self._record.pk, name=name, status=StepStatus.OPEN)
        left = rows.exclude(until__lte=DatabaseNow())
        return self._commits.persist(left.exists)

    def _open_wait(self, name: str, timeout: timedelta | None, signal: str | None) -> StepRecord:
        answerable = signal is not None
        with transaction.atomic(using=self._using):
            # Its outcome comes after that of the step that asks the question.
            position = self._position + 2
            if not self._rows.add(
                self._record,
                name,
                StepStatus.OPEN,
                position=position,
                answerable=answerable,
                signal=signal,
                timeout=timeout,
            ):
                return self._opened_before(name)
            asks = {"waiting_for": name, "waiting_since": DatabaseNow()}
            row = self._executions.filter(pk=self._record.pk)
            if answerable and not row.filter(has_signals=False).update(**asks):
                row.update(**asks)
                if settle_held(self._executions, self._record):
                    return self._opened_before(name)
        return self._is_opened(name, timeout, position, answerable=answerable)

    def _open_sourced(
        self, name: str, timeout: timedelta | None, sources: Sequence[Source]
    ) -> None:
        """Events find it by a search, so it is committed before this run looks.

        Otherwise a worker that claims the event meanwhile would not see it, and neither would this
        run see the event.
        """
        with transaction.atomic(using=self._using):
            if not self._rows.add(
                self._record,
                name,
                StepStatus.OPEN,
                position=self._position + 2,
                answerable=True,
                timeout=timeout,
                sources=[one.to_json() for one in sources],
            ):
                self._known(name)  # written by this run, whose response was lost
                return
            row = self._executions.filter(pk=self._record.pk)
            row.update(waiting_for=name, waiting_since=DatabaseNow())
            is_cut = self._looks_back_too_far(sources)
            waits = WorkflowEventWait.objects.using(self._using)
            waits.open(self._record, name, sources, cut=is_cut)
            if is_cut:
                self._note(HistoryKind.LOOK_BACK_CUT, name)

    def _looks_back_too_far(self, sources: Sequence[Source]) -> bool:
        retention, record = get_workflow_settings().retention, self._record
        if retention is None:
            return False
        start = record.chain_started_at or record.created_at
        backs = [one.since or start for one in sources if one.looks_back]
        return any(one < timezone.now() - retention for one in backs)

    def _look(self, name: str, timeout: timedelta | None) -> StepRecord:
        """The wait that this run has committed, after its look."""
        if settle_held(self._executions, self._record):
            return self._opened_before(name)
        wait = self._known(name)
        if wait.is_finished:  # by the look of somebody else
            return self._opened_before(name)
        return self._is_opened(name, timeout, wait.position, answerable=True)

    def _is_opened(
        self, name: str, timeout: timedelta | None, position: int, *, answerable: bool
    ) -> StepRecord:
        wait = StepRecord(name, StepStatus.OPEN, position=position, answerable=answerable)
        if timeout is None or timeout > timedelta(0):
            self._opened = wait
        return wait

    def _opened_before(self, name: str) -> StepRecord:
        """The wait as it is recorded; it may have its outcome already."""
        wait = self._known(name)
        if wait.is_finished:
            self._position = max(self._position, wait.position)
        return wait

    def _settle_wait(self, name: str) -> StepRecord:
        self.check()
        if name in self._sourced:
            return self._settle_sourced(name)
        ended = self._rows.time_out(self._record, name, self._position + 1)
        wait = self._rows.get(execution_id=self._record.pk, name=name).as_record()
        self._position = max(self._position, wait.position)
        if ended:
            self._timed_out(wait)
        elif wait.status is StepStatus.OPEN and wait.answerable:
            # A signal may have come after the run that opened the wait died, or before a timeout.
            is_taken = settle_held(self._executions, self._record)
            return self._known(name) if is_taken else wait
        return wait

    def _settle_sourced(self, name: str) -> StepRecord:
        """The look of a run that reaches the open wait; it writes the timeout if it finds nothing.

        In one transaction: until the timeout is written, an event wins.
        """
        with transaction.atomic(using=self._using):
            if not settle_held(self._executions, self._record) and self._rows.time_out(
                self._record, name, self._position + 1
            ):
                self._timed_out(self._known(name))
                WorkflowEventWait.objects.using(self._using).close(self._record)
        wait = self._known(name)
        self._position = max(self._position, wait.position)
        return wait

    def _timed_out(self, wait: StepRecord) -> None:
        self._executions.progressed(self._record)
        if wait.answerable:
            self._executions.stopped_asking(self._record, wait.name)
            self._note(HistoryKind.WAIT_TIMED_OUT, wait.name)

    def _note(self, kind: HistoryKind, name: str) -> None:
        history = WorkflowHistory.objects.using(self._using)
        history.note(kind, execution=self._record, detail=name, step=name)


def _require_one_home(sources: Iterable[Source], using: str) -> None:
    """Raises `StepUsageError` if events that *sources* name are not kept in database *using*."""
    if not any(one.kind in (SourceKind.EVENT, SourceKind.STATE) for one in sources):
        return
    try:
        registry = get_event_registry()
    except ImproperlyConfigured as error:
        raise StepUsageError(str(error)) from error
    if not getattr(registry, "supports_tables", False):
        names = {"registry": type(registry).__name__, "engine": "an engine with tables"}
        raise StepUsageError(DIFFERENT_KINDS.format(**names))
    home = router.db_for_write(WorkflowEventRecord)
    if home != using and any(one.kind is SourceKind.EVENT for one in sources):
        raise StepUsageError(DIFFERENT_DATABASES.format(events=home, executions=using))
