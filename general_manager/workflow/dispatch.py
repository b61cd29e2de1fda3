"""Hand work to Celery by task name, and never fail or hold up a request for it.

A message is only a nudge: the row is the truth, and Beat finds what no message announced. So a
broker that is away is logged once, left alone for a while, and forgotten.
"""

import os
import sys
from collections.abc import Iterable
from threading import Lock
from time import monotonic
from typing import Any, Final

from celery import Celery, _state, current_app
from celery.exceptions import SoftTimeLimitExceeded
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from kombu.pools import connections as pooled_connections
from kombu.pools import producers

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger

logger = get_logger(__name__)

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


def deliver_now(using: str, token: str, keys: Iterable[int]) -> bool:
    """Hand claimed entries to a worker; false if no broker takes them."""
    return send(DELIVER, [using, token, list(keys)])


def run_executions_now(execution_ids: Iterable[str], using: str) -> bool:
    return send(RUN, [list(execution_ids), using])


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


def send(task: str, arguments: list[Any], app: Any = None) -> bool:
    """Send *task*; false, and a line in the log, if that does not work at once."""
    app = app or this_app()
    if runs_at_once(app):
        return _run_at_once(app, task, arguments)
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


def _run_at_once(app: Any, task: str, arguments: list[Any]) -> bool:
    """The task in this process, as projects have it in their tests; no broker has a part in it."""
    try:
        result = app.tasks[task].apply(args=arguments, throw=False)
    except Exception:  # the eager task's own trouble: its rows are found again
        logger.exception("%s failed where it was called", task)
        return True
    if result.failed():
        logger.error("%s failed where it was called: %s", task, result.traceback)
    return True


def this_app() -> Any:
    """The project's Celery app: a client of another broker may be here too, and made last.

    The one that `WORKFLOW_CELERY_APP` names; that of the worker or Beat which this process is; the
    one where `celery -A` finds it, in the project's package; the only one that is configured from
    Django's settings; else the current one. Ask in the caller's thread: others see another one.
    """
    return (
        named_app()
        or _served
        or _app_of_package()
        or _configured_app()
        or (
            current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - the way past the proxy
        )
    )


def named_app() -> Any:
    """What `WORKFLOW_CELERY_APP` names, or `None`."""
    try:
        path = get_workflow_settings().celery_app
    except ImproperlyConfigured:  # `manage.py check` names it, and so does the first use
        return None
    return None if path is None else import_string(path)


def serve(app: Any) -> None:
    """This process is a worker, or Beat, of *app*; so are those that it forks."""
    global _served
    _served = app


_served: Any = None


def _apps() -> list[Any]:
    state: Any = _state
    return list(state._get_active_apps())  # noqa: SLF001 - Celery has no other list


def rival_apps() -> list[str]:
    """Names of the Celery apps in this process that are, or took the place of, the current one."""
    ours = this_app()
    apps = [one for one in _apps() if one.main and one.main != "default"]
    return sorted(one.main for one in apps if one is ours or one.set_as_current)


def _app_of_package() -> Any:
    package = os.environ.get("DJANGO_SETTINGS_MODULE", "").rpartition(".")[0]
    while package:
        for name in (package, f"{package}.celery"):
            module = sys.modules.get(name)
            found = [getattr(module, one, None) for one in ("app", "celery", "celery_app")]
            apps = [one for one in found if isinstance(one, Celery)]
            if apps:
                return apps[0]
        package = package.rpartition(".")[0]
    return None


def _configured_app() -> Any:
    apps = [
        one for one in _apps() if getattr(one, "_config_source", None) == "django.conf:settings"
    ]
    return apps[0] if len(apps) == 1 else None


def has_app(app: Any = None) -> bool:
    """Whether the project has a Celery app; where it has none, Celery invents "default"."""
    app = app or this_app()
    return bool(app.main != "default" or runs_at_once(app))


def runs_at_once(app: Any = None) -> bool:
    """Whether tasks run where they are sent, as projects have it in their tests."""
    return bool((app or this_app()).conf.task_always_eager)


def find_broker_trouble() -> str | None:
    """Why messages cannot reach the broker that the app is configured for; asks no server."""
    app: Any = this_app()
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
    app: Any = this_app()
    limits = []
    for task in (app.tasks[name] for name in (DRAIN, DELIVER, RUN, TICK)):
        # Celery 5.5 gives a task the project's limits only while it runs.
        limits += [
            task.time_limit or app.conf.task_time_limit,
            task.soft_time_limit or app.conf.task_soft_time_limit,
        ]
    return min((float(limit) for limit in limits if limit), default=None)


def is_time_limit(error: BaseException) -> bool:
    """Whether *error* is Celery's soft time limit, which may strike anywhere."""
    return isinstance(error, SoftTimeLimitExceeded)


def closes_connections() -> bool:
    """Whether Celery closes the database connection after every task."""
    app: Any = this_app()
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
    connection = _impatient_connection(app)
    with producers[connection].acquire(block=True, timeout=CONNECT_SECONDS) as producer:
        app.send_task(task, args=arguments, producer=producer, retry=False, ignore_result=True)
