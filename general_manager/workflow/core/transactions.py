"""Distinguishes our own transactions from those of callers and handlers."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Any, Self

from django.db import connections, transaction

from general_manager.atomic import strict_atomic
from general_manager.conf import is_configured
from general_manager.database_errors import is_conflict, is_lost_connection
from general_manager.escaping import get_logger
from general_manager.workflow.core.connections import (
    ConnectionClosed,
    discard,
    has_died,
    has_open_work,
    in_transaction,
    opened,
    refresh,
)
from general_manager.workflow.exceptions import (
    StepUsageError,
    TransactionLeftOpen,
    ends_the_process,
)

logger = get_logger(__name__)


def caller_savepoints() -> AbstractContextManager[None] | None:
    """A savepoint in every transaction that is open in this thread, or `None` if none is.

    An exception rolls back the writes inside; the caller's transaction stays usable. Works without
    a database.
    """
    aliases = open_transactions()
    return _savepoints(aliases) if aliases else None


def open_transactions() -> list[str]:
    """The databases on which this thread is in a transaction, in a `TestCase` too."""
    if not is_configured():
        return []
    return [
        connection.alias
        for connection in connections.all(initialized_only=True)
        if connection.in_atomic_block
    ]


def is_in_transaction(using: str) -> bool:
    """Whether this thread is inside a transaction on *using* that will commit or roll back.

    The outermost transaction of a Django `TestCase` does not count: it never commits, but the code
    under test would.
    """
    connection = connections[using]
    return connection.in_atomic_block and not all(
        getattr(block, "_from_testcase", False)  # Django's own condition for `durable=True`
        for block in connection.atomic_blocks
    )


def one_transaction(using: str) -> AbstractContextManager[object]:
    """The caller's transaction on *using* if it is open, else a new one."""
    inside = connections[using].in_atomic_block
    return nullcontext() if inside else transaction.atomic(using=using)


@contextmanager
def _savepoints(aliases: list[str]) -> Iterator[None]:
    with ExitStack() as savepoints:
        for alias in aliases:
            savepoints.enter_context(strict_atomic(alias))
        yield


class own_transaction:
    """One transaction for the writes of user code and our record of them.

    An exception after the commit, for example by an `on_commit` hook, is logged and kept in *late*;
    it rolls nothing back, and the other hooks are called. Inside a caller's transaction this is a
    savepoint, and the hooks run after the caller's commit.
    """

    def __init__(self, using: str) -> None:
        self.late: BaseException | None = None
        self.failed_to_commit = False
        """Whether the exception came from the commit itself, after the code inside succeeded."""
        self._using = using
        self._is_committed = False
        self._is_outermost = True
        self._was_closed = False
        self.session: Any = None
        """The session of the database that commits; the connection may have another since."""
        self._hooks: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        connection: Any = connections[self._using]
        self._is_outermost = not in_transaction(connection)
        if self._is_outermost:
            connection.run_commit_hooks_on_set_autocommit_on = False
            # Django keeps it, and names it as the cause of what breaks a later transaction.
            connection.rollback_exc = None
        self._atomic = strict_atomic(self._using)
        self._atomic.__enter__()
        self.session = connection.connection
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        connection: Any = connections[self._using]
        self._was_closed = connection.closed_in_transaction
        if error is None and self._is_outermost:
            self._guard_hooks(connection)
        try:
            self._atomic.__exit__(kind, error, trace)
        except BaseException as late:
            is_committed = connection.run_commit_hooks_on_set_autocommit_on or self._is_committed
            if not (self._is_outermost and is_committed):
                self.failed_to_commit = error is None
                raise
            self._finish(connection, late)
            if ends_the_process(late):
                raise

    def was_undone_by_the_database(self, error: BaseException) -> bool:
        """Whether *error* is a lost connection or a conflict that rolled this back.

        Not if the code inside has closed the connection itself.
        """
        if not self._is_outermost or self._was_closed:
            return False
        connection = connections[self._using]
        if is_conflict(error):
            return True
        is_other = connection.connection is not self.session
        return is_lost_connection(error) and (is_other or has_died(connection))

    def _guard_hooks(self, connection: Any) -> None:
        hooks = [(sids, self._guarded(hook)) for sids, hook, _ in connection.run_on_commit]
        self._hooks = [hook for _, hook in hooks]
        guarded = [(sids, hook, False) for sids, hook in hooks]
        connection.run_on_commit = [(set(), self._mark, False), *guarded]

    def _mark(self) -> None:
        self._is_committed = True

    def _guarded(self, hook: Callable[[], object]) -> Callable[[], None]:
        def call() -> None:
            self._hooks.remove(call)
            around = Surroundings(None, ask=False)
            try:
                hook()
            except BaseException as error:
                if ends_the_process(error):
                    raise
                self.late = self.late or error
                logger.exception(
                    "An on_commit hook raised after the commit on database %r; the commit is valid",
                    self._using,
                )
            finally:  # what is written next would be part of it
                around.discard_what_was_left_open("An on_commit hook")

        return call

    def _finish(self, connection: Any, late: BaseException) -> None:
        """The commit is valid; call the hooks that should follow it."""
        self.late = late
        if not ends_the_process(late):
            logger.warning(
                "An error followed the valid commit on database %r: %r",
                self._using,
                late,
                exc_info=late,
            )
        if in_transaction(connection):
            discard(connection, "it could not leave a transaction that was committed")
        refresh(connection)
        if not ends_the_process(late):
            for hook in list(self._hooks):
                hook()


def _leave_blocks(connection: Any, depth: int) -> bool:
    """Roll back the `atomic` blocks that user code has entered and not left; whether there were.

    The block around them would take theirs for its own, and commit nothing.
    """
    left = connection.atomic_blocks[depth:]
    for block in reversed(left):
        with suppress(Exception):
            block.__exit__(TransactionLeftOpen, None, None)
    return bool(left)


class Surroundings:
    """The transactions that were open around a call of user code when it began."""

    def __init__(self, using: str | None, *, ask: bool = True) -> None:
        self._using = using
        self._ask = ask
        """Whether MySQL's server is asked for a raw BEGIN, in a statement of its own."""
        found = [one for one in opened() if in_transaction(one)] if is_configured() else []
        self._depths = {one.alias: len(one.atomic_blocks) for one in found}
        self._expected = self._raw() if using is not None else None

    def require_none_inside(self, what: str) -> None:
        """Raise `StepUsageError` inside a transaction opened since then on our database."""
        if self._using is None:
            return
        connection = connections[self._using]
        before = self._depths.get(self._using)
        is_open = in_transaction(connection, ask=before is None)
        if is_open and (before is None or len(connection.atomic_blocks) > before):
            raise StepUsageError(
                f"{what} is called inside a transaction that the handler opened on database "
                f"{self._using!r} (transaction.atomic, ATOMIC code around it, or autocommit off). "
                "Its rollback would also remove the recorded step. Call it outside, and put writes "
                "that belong together into one step."
            )

    def close_what_was_left_open(self, what: object) -> None:
        """Discard connections on which user code left a transaction open.

        Raises `TransactionLeftOpen` if that rolls its writes back, and `ConnectionClosed` if it has
        closed the connection of a transaction around it.
        """
        found = list(opened()) if is_configured() else []
        for connection in found:
            if connection.alias in self._depths and connection.closed_in_transaction:
                raise ConnectionClosed(str(what), connection.alias)
        undone = self._discard(found, what)
        if undone:
            raise TransactionLeftOpen(str(what), undone)

    def discard_what_was_left_open(self, what: object) -> list[str]:
        """The same without an error. Returns the databases on which writes were rolled back.

        Inside a transaction that was open before, only what was opened in it is rolled back.
        """
        return self._discard(opened() if is_configured() else (), what)

    def _discard(self, found: Iterable[Any], what: object) -> list[str]:
        undone = []
        for connection in found:
            if (depth := self._depths.get(connection.alias)) is not None:
                if _leave_blocks(connection, depth):
                    undone.append(connection.alias)
                continue
            if not in_transaction(connection, ask=self._ask):
                continue
            if has_open_work(connection):
                undone.append(connection.alias)
            discard(connection, f"{what} left autocommit off, or a transaction open")
        return undone

    def expect_changes(self) -> None:
        """Connections replaced until now were replaced by us."""
        if self._using is not None:
            self._expected = self._raw()

    def explain(self, error: BaseException) -> bool:
        """Whether *error* only means that our own connection was lost."""
        if self._using is None or self._using in self._depths or not is_lost_connection(error):
            return False
        return self._raw() is not self._expected or has_died(connections[self._using])

    def _raw(self) -> Any:
        return connections[self._using].connection if self._using is not None else None
