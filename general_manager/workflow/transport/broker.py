"""Send tasks to Celery by name, without failing or delaying a request.

A message is only a nudge: the row is authoritative, and Beat finds work without a message. So an
unreachable broker is logged once and not contacted again for a while.
"""

import os
import sys
from threading import Lock
from time import monotonic
from typing import Any, Final

from celery import Celery, _state, current_app
from celery.exceptions import QueueNotFound, SoftTimeLimitExceeded
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from kombu.pools import connections as pooled_connections
from kombu.pools import producers
from kombu.serialization import dumps

from general_manager.check_messages import warning
from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.transport.base import Transport

logger = get_logger(__name__)

CONNECT_SECONDS: Final = 0.5
"""How long a request may wait for the broker to accept a connection or to respond."""

IMPATIENT: Final = {
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
    "socket_connect_timeout": CONNECT_SECONDS,
    "socket_timeout": CONNECT_SECONDS,
    "read_timeout": CONNECT_SECONDS,  # AMQP's names of the same options
    "write_timeout": CONNECT_SECONDS,
}
"""For our own connection: Celery's default would delay a request for six seconds."""

AWAY_SECONDS: Final = 5.0
"""After a failure, the broker is not contacted for so long."""


class CeleryTransport(Transport):
    """Sends Celery tasks to the workers of the project's app."""

    supports_celery = True

    def __init__(self, app: Any = None) -> None:
        self._app = app
        """`None` for the app of the sending thread."""

    def send(self, task: str, arguments: list[Any], *, queue: str = "") -> bool:
        return send(task, arguments, self._app, queue=queue)

    def here(self) -> "CeleryTransport":
        return CeleryTransport(self._app or this_app())

    def runs_at_once(self) -> bool:
        return runs_at_once(self._app)

    def check(self) -> list[CheckMessage]:
        if not has_app(self._app):
            return [
                warning(
                    "W005",
                    "No Celery app is configured in this process, so work waits for Beat's next "
                    "tick.",
                    "Import your app in your project's __init__.py.",
                )
            ]
        if closes_connections():
            return [
                warning(
                    "W006",
                    "Celery closes the database connection after every task. CONN_MAX_AGE has no "
                    "effect in workers.",
                    "Set CELERY_DB_REUSE_MAX = 1000.",
                )
            ]
        return []


class _Broker:
    """Remembers that the broker is unreachable, so that few requests wait for it."""

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


def send(task: str, arguments: list[Any], app: Any = None, *, queue: str = "") -> bool:
    """Send *task*; false and a log line if that fails or takes too long."""
    app = app or this_app()
    if runs_at_once(app):
        return _run_at_once(app, task, arguments)
    if broker.is_away():
        return False
    try:
        if not has_app(app):
            logger.warning(
                "No Celery app is configured in this process, so %s waits for Beat; "
                "import your app in your project's __init__.py",
                task,
            )
            broker.failed()
            return False
        _publish(app, task, arguments, queue)
    except Exception:
        broker.failed()
        logger.exception(
            "The broker did not accept %s; the next Beat tick will pick the work up", task
        )
        return False
    broker.answered()
    return True


def _run_at_once(app: Any, task: str, arguments: list[Any]) -> bool:
    """Run the task in this process without a broker, as projects configure it in tests."""
    try:
        result = app.tasks[task].apply(args=arguments, throw=False)
    except Exception:  # the eager task failed; the sweep finds its rows again
        logger.exception("%s failed in the calling process", task)
        return True
    if result.failed():
        logger.error("%s failed in the calling process: %s", task, result.traceback)
    return True


def this_app() -> Any:
    """The project's Celery app. The process may have others, such as clients of other brokers.

    The app that `WORKFLOW_CELERY_APP` names; the app of the worker or Beat in this process; the one
    in the project's package, where `celery -A` finds it; the only one that is configured from
    Django's settings; else the current one. Call it in the caller's thread: the current app depends
    on the thread.
    """
    return (
        named_app()
        or _served
        or _app_of_package()
        or _configured_app()
        or (
            current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - bypasses the proxy
        )
    )


def named_app() -> Any:
    """The app that `WORKFLOW_CELERY_APP` names, or `None`."""
    try:
        path = get_workflow_settings().celery_app
    except ImproperlyConfigured:  # `manage.py check` reports it, and so does the first use
        return None
    return None if path is None else import_string(path)


def serve(app: Any) -> None:
    """Record that this process, and those that it forks, are a worker or Beat of *app*."""
    global _served
    _served = app


_served: Any = None


def _apps() -> list[Any]:
    state: Any = _state
    return list(state._get_active_apps())  # noqa: SLF001 - Celery has no public list


def rival_apps() -> list[str]:
    """Names of the Celery apps in this process that are, or were, the current app."""
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
    """Whether the project has a Celery app; otherwise Celery creates one named "default"."""
    app = app or this_app()
    return bool(app.main != "default" or runs_at_once(app))


def runs_at_once(app: Any = None) -> bool:
    """Whether tasks run in the sending process, as projects configure it in tests."""
    return bool((app or this_app()).conf.task_always_eager)


def try_serializer(name: Any) -> None:
    """Raise if Celery does not know it."""
    dumps({}, serializer=name)


def missing_queue(app: Any, task: str) -> str:
    """Why the app has no queue for *task*; empty if it has one."""
    try:
        app.amqp.router.route({}, task, [], {})
    except QueueNotFound as error:
        return str(error)
    return ""


def is_time_limit(error: BaseException) -> bool:
    """Whether *error* is Celery's soft time limit, which may be raised anywhere."""
    return isinstance(error, SoftTimeLimitExceeded)


def closes_connections() -> bool:
    """Whether Celery closes the database connection after every task."""
    app: Any = this_app()
    return not app.conf.get("CELERY_DB_REUSE_MAX", app.conf.get("db_reuse_max"))


_connections: dict[tuple[int, str], Any] = {}
_connected_pid = os.getpid()


def _impatient_connection(app: Any) -> Any:
    """The key of the producer pool; created once, since that costs more than a message."""
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
    """After a fork: two processes must not share a socket, and the child must not close it."""
    global _connected_pid
    for connection in _connections.values():
        producers.pop(connection, None)
        pooled_connections.pop(connection, None)
    _connections.clear()
    _connected_pid = os.getpid()


def _publish(app: Any, task: str, arguments: list[Any], queue: str) -> None:
    connection = _impatient_connection(app)
    route = {"queue": queue} if queue else {}
    with producers[connection].acquire(block=True, timeout=CONNECT_SECONDS) as producer:
        app.send_task(
            task, args=arguments, producer=producer, retry=False, ignore_result=True, **route
        )
