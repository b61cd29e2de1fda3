"""Hand work to Celery by task name, after commit, and never fail or hold up a request for it.

A message is only a nudge: the row is the truth, and Beat finds what no message announced. So a
broker that is away is logged once, left alone for a while, and forgotten.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from threading import Lock, Timer
from time import monotonic
from typing import Any, Final

from celery import current_app
from django.db import connections, transaction
from kombu.pools import connections as pooled_connections
from kombu.pools import producers

from general_manager.workflow.spacing import Spaced

logger = logging.getLogger(__name__)

PREFIX: Final = "general_manager.workflow.tasks"
DRAIN: Final = f"{PREFIX}.drain_outbox"
DELIVER: Final = f"{PREFIX}.deliver_outbox"
RUN: Final = f"{PREFIX}.run_executions"
TICK: Final = f"{PREFIX}.beat_tick"

CONNECT_SECONDS: Final = 0.5
"""How long a request may wait for the broker to accept a connection, or to answer."""

IMPATIENT: Final = {
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
    "socket_connect_timeout": CONNECT_SECONDS,
    "socket_timeout": CONNECT_SECONDS,
    "read_timeout": CONNECT_SECONDS,  # AMQP's names for the same
    "write_timeout": CONNECT_SECONDS,
}
"""For a connection of our own: Celery's usual one would hold up a request for six seconds."""

AWAY_SECONDS: Final = 5.0
"""After a failure, the broker is not asked again for so long."""

MESSAGE: Final = 10
"""How many executions that one transaction started are named in one message."""

PATIENCE_SECONDS: Final = 0.02
"""So long may the message of an execution wait for those of its neighbours; and one to drain that
follows upon another may wait for those of later commits. The first is sent at once."""

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
    """On commit, have the outbox of database *using* drained; once a transaction."""
    _nudge_on_commit(using, drain=True)


def run_execution_soon(execution_id: str, using: str) -> None:
    """On commit, have the execution run."""
    _nudge_on_commit(using, executions=[execution_id])


def deliver_now(using: str, token: str, keys: Iterable[int]) -> bool:
    """Hand claimed entries to a worker; false if no broker takes them."""
    return send(DELIVER, [using, token, list(keys)])


def deliver_here(using: str, token: str, keys: Iterable[int]) -> int:
    """Deliver claimed entries in this process: the task's body, without a message.

    Returns how many handlers completed.
    """
    return int(current_app.tasks[DELIVER].run(using, token, list(keys)))


def run_executions_now(execution_ids: Iterable[str], using: str) -> bool:
    return send(RUN, [list(execution_ids), using])


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
        _send_runs(nudge.executions, using)
    else:
        gathering.add(nudge.executions, using)


def _send_drain(using: str) -> None:
    app: Any = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - other threads may have another app
    if runs_at_once(app):
        send(DRAIN, [using], app)
    else:
        drains.call(using, partial(send, DRAIN, [using], app))


def _send_runs(executions: list[str], using: str) -> None:
    for start in range(0, len(executions), MESSAGE):
        run_executions_now(executions[start : start + MESSAGE], using)


class _Gathering:
    """Executions that a chunk of deliveries started, until there are enough for a message."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._executions: dict[str, list[str]] = {}
        self._timer: Timer | None = None

    def add(self, executions: list[str], using: str) -> None:
        with self._lock:
            waiting = self._executions.setdefault(using, [])
            waiting += executions
            if len(waiting) < MESSAGE and self._wait():
                return
        self.send()

    def _wait(self) -> bool:
        """Have all sent in a moment, even if the next handler takes its time."""
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
            _send_runs(ids, using)


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


class _Broker:
    """Remembers that the broker is away, so that only one request in a while pays for it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._away_until = 0.0

    def is_away(self) -> bool:
        return monotonic() < self._away_until

    def failed(self) -> None:
        with self._lock:
            self._away_until = monotonic() + AWAY_SECONDS

    def answered(self) -> None:
        self._away_until = 0.0


broker: Final = _Broker()


def send(task: str, arguments: list[Any], app: Any = current_app) -> bool:
    """Send *task*; false, and a line in the log, if that does not work at once."""
    if broker.is_away():
        return False
    try:
        if not has_app(app):
            logger.warning(
                "No Celery app is configured in this process, so %s is left to Beat; "
                "import your app in your project's __init__.py",
                task,
            )
            broker.failed()
            return False
        _publish(app, task, arguments)
    except Exception:
        broker.failed()
        logger.exception("The broker did not take %s; Beat will find the work", task)
        return False
    broker.answered()
    return True


def has_app(app: Any = current_app) -> bool:
    """Whether the project has a Celery app; where it has none, Celery invents "default"."""
    return bool(app.main != "default" or runs_at_once(app))


def runs_at_once(app: Any = current_app) -> bool:
    """Whether tasks run where they are sent, as projects have it in their tests."""
    return bool(app.conf.task_always_eager)


def find_broker_trouble() -> str | None:
    """Why messages cannot reach the broker that the app is configured for; asks no server."""
    app: Any = current_app
    if not (app.conf.broker_write_url or app.conf.broker_url):
        return "it is not configured, and Celery would look for RabbitMQ on this machine"
    try:
        with app.connection_for_write() as connection:
            connection.transport  # noqa: B018 - made when it is asked for, from what is installed
    except Exception as error:  # noqa: BLE001 - transports raise what they like
        return f"{type(error).__name__}: {error}"
    return None


def find_time_limit() -> float | None:
    """After how many seconds Celery stops one of our tasks, softly or not; `None` for never."""
    app: Any = current_app
    tasks = [app.tasks[name] for name in (DRAIN, DELIVER, RUN, TICK)]
    limits = [limit for task in tasks for limit in (task.time_limit, task.soft_time_limit)]
    return min((float(limit) for limit in limits if limit), default=None)


def closes_connections() -> bool:
    """Whether Celery closes the database connection after every task."""
    app: Any = current_app
    return not app.conf.get("CELERY_DB_REUSE_MAX", app.conf.get("db_reuse_max"))


_connections: dict[tuple[int, str], Any] = {}
_connected_pid = os.getpid()


def _impatient_connection(app: Any) -> Any:
    """The key to the pool of producers; made once, for making it costs more than a message."""
    if _connected_pid != os.getpid():
        _leave_parents_connections()
    key = (id(app), str(app.conf.broker_write_url or app.conf.broker_url))
    if key not in _connections:
        options = {**app.conf.broker_transport_options, **IMPATIENT}
        _connections[key] = app.connection_for_write(
            connect_timeout=CONNECT_SECONDS, transport_options=options
        )
    return _connections[key]


def _leave_parents_connections() -> None:
    """After a fork: two processes must not talk over one socket. Nor may the child close it."""
    global _connected_pid
    for connection in _connections.values():
        producers.pop(connection, None)
        pooled_connections.pop(connection, None)
    _connections.clear()
    _connected_pid = os.getpid()


def _publish(app: Any, task: str, arguments: list[Any]) -> None:
    if runs_at_once(app):
        app.tasks[task].apply(args=arguments)
        return
    connection = _impatient_connection(app)
    with producers[connection].acquire(block=True, timeout=CONNECT_SECONDS) as producer:
        app.send_task(task, args=arguments, producer=producer, retry=False, ignore_result=True)
