"""What is asked of workers, and when: once a transaction, after its commit, a few things together.

A message is only a nudge, so some can share one, and one that is lost is made good by Beat.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from threading import Lock, Timer
from typing import Any, Final

from django.db import connections, transaction

from general_manager.conf import get_workflow_settings
from general_manager.workflow.dispatch import DRAIN, RUN, runs_at_once, send, this_app
from general_manager.workflow.in_process import drain, perform_soon
from general_manager.workflow.shutdown import is_announced
from general_manager.workflow.spacing import Spaced

MESSAGE: Final = 10
"""How many executions that one transaction started are named in one message."""

PATIENCE_SECONDS: Final = 0.02
"""So long may the message of an execution wait for those of its neighbours; and one to drain that
follows upon another may wait for those of later commits. The first is sent at once."""

SLOW_SECONDS: Final = 0.25
"""When executions that share a message have kept their worker for so long, the rest is others'."""

drains: Final = Spaced(PATIENCE_SECONDS)
"""A drain finds all that is committed when it begins, so one can stand for others before it."""

_NUDGE: Final = "_general_manager_nudge"


class _Nudge:
    """What one transaction will ask for when it commits, once, however often it was said."""

    def __init__(self) -> None:
        self.is_sent = False
        self.drain = False
        self.executions: list[str] = []


def drain_outbox_soon(using: str) -> None:
    """On commit, have the outbox of database *using* drained; once a transaction.

    By workers, or with `WORKFLOW_ASYNC` off by this process.
    """
    if not get_workflow_settings().run_async:
        perform_soon(lambda: drain(using), using)
        return
    _nudge_on_commit(using, drain=True)


def run_execution_soon(execution_id: str, using: str) -> None:
    """On commit, have the execution run."""
    _nudge_on_commit(using, executions=[execution_id])


def _nudge_on_commit(using: str, *, drain: bool = False, executions: Iterable[str] = ()) -> None:
    connection = connections[using]
    nudge: _Nudge | None = getattr(connection, _NUDGE, None)
    if nudge is None or nudge.is_sent or not connection.run_on_commit:
        # Without a callback left, the last transaction was rolled back with what it asked for.
        nudge = _Nudge()
        setattr(connection, _NUDGE, nudge)
    nudge.drain |= drain
    nudge.executions += executions
    # Every call registers, and the first to run sends: a savepoint that is rolled back takes only
    # its own callbacks with it. What it asked for is then asked in vain, which harms nothing.
    # Outside of a transaction it is called at once, so the nudge must be complete by now.
    # No partial: of a robust callback that failed, Django asks for its __qualname__.
    transaction.on_commit(lambda: _send_nudge(nudge, using), using=using, robust=True)


def _send_nudge(nudge: _Nudge, using: str) -> None:
    if nudge.is_sent:
        return
    nudge.is_sent = True
    if nudge.drain:
        _send_drain(using)
    gathering = _gathering.get()
    if gathering is None:
        _send_runs(nudge.executions, using, this_app())
    else:
        gathering.add(nudge.executions, using)


def _send_drain(using: str) -> None:
    app = this_app()
    if runs_at_once(app):
        send(DRAIN, [using], app)
    else:
        drains.call(using, partial(send, DRAIN, [using], app))


def _send_runs(executions: list[str], using: str, app: Any) -> None:
    for start in range(0, len(executions), MESSAGE):
        send(RUN, [executions[start : start + MESSAGE], using], app)


class _Gathering:
    """Executions that a chunk of deliveries started, until there are enough for a message."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._executions: dict[str, list[str]] = {}
        self._timer: Timer | None = None
        self._app = this_app()
        self._at_once = runs_at_once(self._app)

    def add(self, executions: list[str], using: str) -> None:
        with self._lock:
            waiting = self._executions.setdefault(using, [])
            waiting += executions
            if len(waiting) < MESSAGE and self._wait():
                return
        self.send()

    def _wait(self) -> bool:
        """Have all sent in a moment, even if the next handler takes its time.

        Where tasks run when they are sent, that is not done from another thread.
        """
        if self._at_once:
            return True
        if self._timer is None:
            self._timer = Timer(PATIENCE_SECONDS, self.send)
            self._timer.daemon = True
            try:
                self._timer.start()
            except RuntimeError:  # the system has no thread to spare
                self._timer = None
        return self._timer is not None

    def send(self) -> None:
        with self._lock:
            executions, self._executions = self._executions, {}
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        for using, ids in executions.items():
            _send_runs(ids, using, self._app)


_gathering: Final[ContextVar[_Gathering | None]] = ContextVar("gathering", default=None)


@contextmanager
def gathered_messages() -> Iterator[None]:
    """Executions that are started in the block share messages, a few at a time.

    Should the process die before it sends, the sweep finds them: a message is only a nudge.
    """
    gathering = _Gathering()
    token = _gathering.set(gathering)
    try:
        yield
    finally:
        _gathering.reset(token)
        gathering.send()


@contextmanager
def handing_on(execution_ids: Sequence[str], using: str) -> Iterator[Iterator[str]]:
    """Gives the executions of one message one by one, as long as they come along quickly.

    Those that are still to come after `SLOW_SECONDS` are sent to other workers, each in a
    message of its own, while the one under way goes on here. So are those that are left when this
    worker shuts down, or when one of them ends the process.
    """
    own = deque(execution_ids)
    app = this_app()

    def hand_on() -> None:
        while own:
            with suppress(IndexError):  # the other thread was quicker
                execution_id = own.pop()
                if not send(RUN, [[execution_id], using], app):
                    own.append(execution_id)
                    return

    def each() -> Iterator[str]:
        while own and not is_announced():
            with suppress(IndexError):
                yield own.popleft()

    timer = Timer(SLOW_SECONDS, hand_on)
    timer.daemon = True
    if len(own) > 1 and not runs_at_once(app):
        with suppress(RuntimeError):  # the system has no thread to spare
            timer.start()
    try:
        yield each()
    finally:
        timer.cancel()
        hand_on()
