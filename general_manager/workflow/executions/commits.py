"""Whether the commits of one run's atomic steps wait for the disk."""

from django.db.models import F

from general_manager.conf import get_workflow_settings
from general_manager.workflow.core.connections import persist
from general_manager.workflow.models.execution import Executions
from general_manager.workflow.models.sql.commits import may_skip_waiting


class StepCommits:
    """With `WORKFLOW_SYNCHRONOUS_COMMIT` off, an atomic step is repeated if a crash undoes it.

    What its result leads to outside of the database is not: see `make_durable`.
    """

    def __init__(self, using: str) -> None:
        self.is_inside = False
        """Whether an atomic step is in progress."""
        self.is_waited = True
        """Whether the transaction of the step in progress waits for the disk."""
        self._using = using
        self._has_unwaited = False

    def begin(self) -> None:
        """The transaction of an atomic step is about to begin."""
        is_relaxed = not get_workflow_settings().synchronous_commit
        self.is_waited = not (is_relaxed and may_skip_waiting(self._using))
        self.is_inside = True
        self._has_unwaited |= not self.is_waited

    def ended(self) -> None:
        self.is_inside, self.is_waited = False, True

    def make_durable(self, held: Executions) -> None:
        """Wait for what was committed; *held* is the row of the run. Nothing if nothing was.

        For a call that may pass the results of steps on to the outside: repeated after a crash, the
        steps may have others.
        """
        if self._has_unwaited:
            persist(self._using, lambda: held.update(runs=F("runs")))
            self._has_unwaited = False
