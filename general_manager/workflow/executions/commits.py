"""Whether the commits of one run's atomic steps wait for the disk, and what that asks of the rest.

A crash of the database may undo a commit that did not wait, while the process that made it lives
on: nothing may be built on it then. A crash ends every session, so what the same session writes
needs no question; before the first write of another one, the step is looked for.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from django.db import OperationalError, connections
from django.db.models import F

from general_manager.conf import get_workflow_settings
from general_manager.workflow.core.connections import persist
from general_manager.workflow.durable.stops import Interrupted
from general_manager.workflow.models import WorkflowStep
from general_manager.workflow.models.execution import Executions, WorkflowExecutionRecord
from general_manager.workflow.models.sql.commits import may_skip_waiting

Result = TypeVar("Result")

STEP_UNDONE: Final = (
    "A crash of the database has undone step {name!r}, whose commit did not wait for the disk: it "
    "runs again"
)


class StepCommits:
    """With `WORKFLOW_SYNCHRONOUS_COMMIT` off, an atomic step is repeated if a crash undoes it.

    What its result leads to outside of the database is not: see `make_durable`.
    """

    def __init__(self, record: WorkflowExecutionRecord, using: str) -> None:
        self.is_inside = False
        """Whether an atomic step is in progress."""
        self.is_waited = True
        """Whether the transaction of the step in progress waits for the disk."""
        self.name: str | None = None
        """The step whose outcome the transaction in progress has recorded."""
        self._record = record
        self._using = using
        self._unwaited: str | None = None
        """The step whose commit was the last that did not wait. Those before it are as safe."""
        self._session: Any = None
        """The session of the database that made that commit."""

    def begin(self) -> None:
        """The transaction of an atomic step is about to begin."""
        is_relaxed = not get_workflow_settings().synchronous_commit
        self.is_waited = not (is_relaxed and may_skip_waiting(self._using))
        self.is_inside, self.name = True, None

    def committed(self, session: Any) -> None:
        """The step's transaction is committed, by *session*."""
        if self.name is not None and not self.is_waited:
            self._unwaited, self._session = self.name, session

    def ended(self) -> None:
        self.is_inside, self.is_waited = False, True

    def make_durable(self, held: Executions) -> None:
        """Wait for what was committed; *held* is the row of the run. Nothing if nothing was.

        For a call that may pass the results of steps on to the outside: repeated after a crash, the
        steps may have others.
        """
        if self._unwaited is not None:
            self.persist(lambda: held.update(runs=F("runs")))
            self._unwaited = None

    def persist(self, write: Callable[[], Result], **options: Any) -> Result:
        """`persist`, unless a crash has undone a step of this run: then raises `Interrupted`."""

        def require_and_write() -> Result:
            self.require()
            return write()

        return persist(self._using, require_and_write, **options)

    def require(self) -> None:
        """Raises `Interrupted` if a crash has undone a step. No statement in the same session."""
        name, session = self._unwaited, connections[self._using].connection
        if name is None or session is self._session:
            return
        rows = WorkflowStep.objects.using(self._using)
        if not rows.filter(execution_id=self._record.pk, name=name).exists():
            raise Interrupted(OperationalError(STEP_UNDONE.format(name=name)))
        self._session = connections[self._using].connection


def persist_for(record: WorkflowExecutionRecord, using: str, write: Callable[[], Result]) -> Result:
    """`persist` what the run of *record* came to; as `StepCommits.persist`."""
    commits: StepCommits | None = getattr(record, "commits", None)
    return persist(using, write) if commits is None else commits.persist(write)
