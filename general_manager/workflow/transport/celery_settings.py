"""What is wrong with Celery's settings, for our checks: contacts no server, and never raises."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from general_manager.guarding import attempt
from general_manager.workflow.transport.base import TICK, WORK
from general_manager.workflow.transport.broker import missing_queue, this_app, try_serializer

LIMITS: Final = ("task_time_limit", "task_soft_time_limit")


def find_broker_trouble() -> str | None:
    """Why no message is sent, or no process can work with these settings; or `None`."""
    app: Any = this_app()
    if not (app.conf.broker_write_url or app.conf.broker_url):
        return "it is not configured, so Celery would use RabbitMQ on this machine"
    for look in (_connect, _look_at_numbers, _look_at_schedule, _prepare, _encode, _route, _keep):
        try:
            look(app)
        except Exception as error:  # noqa: BLE001 - transports and settings raise any exception
            name = "" if isinstance(error, _WrongError) else f"{type(error).__name__}: "
            return f"{name}{error}".rstrip(".")
    return None


class _WrongError(Exception):
    """A sentence about one setting."""


def _connect(app: Any) -> None:
    with app.connection_for_write() as connection:
        connection.transport  # noqa: B018 - created on access, if its library is installed


def _look_at_numbers(app: Any) -> None:
    for name in LIMITS:
        if not _is_limit(app.conf[name]):
            raise _WrongError(f"{name} is {app.conf[name]!r}, which is no number of seconds")


def _look_at_schedule(app: Any) -> None:
    if not isinstance(app.conf.beat_schedule, Mapping):
        raise _WrongError(f"beat_schedule is {app.conf.beat_schedule!r}, which is no mapping")


def _prepare(app: Any) -> None:
    _reading("task_annotations", app, lambda: app.tasks[WORK])


def _encode(app: Any) -> None:
    _reading("task_serializer", app, lambda: try_serializer(app.conf.task_serializer))


def _route(app: Any) -> None:
    for task in (WORK, TICK):
        if missing := missing_queue(app, task):
            raise _WrongError(
                "task_create_missing_queues is off, and task_queues lacks the queue of "
                f"{task}: {missing}"
            )


def _keep(app: Any) -> None:
    """Although we ignore results, Celery loads their backend with each message."""
    _reading("result_backend", app, lambda: app.backend)


def _reading(name: str, app: Any, read: Callable[[], object]) -> None:
    try:
        read()
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise _WrongError(f"{name} is {app.conf[name]!r} ({why.rstrip('.')})") from error


def find_time_limit() -> float | None:
    """Celery's time limit, soft or hard, for one of our tasks in seconds; `None` for none.

    One that is no number is `find_broker_trouble`'s.
    """
    app: Any = this_app()
    limits = []
    for task in (_task(app, name) for name in (WORK, TICK)):
        # Celery 5.5 sets the project's limits on a task only while it runs.
        limits += [
            getattr(task, "time_limit", None) or app.conf.task_time_limit,
            getattr(task, "soft_time_limit", None) or app.conf.task_soft_time_limit,
        ]
    return min((float(limit) for limit in limits if limit and _is_limit(limit)), default=None)


def _task(app: Any, name: str) -> Any:
    return attempt(lambda: app.tasks[name], None)  # its annotations are settings


def _is_limit(value: Any) -> bool:
    try:
        return value is None or float(value) >= 0
    except (TypeError, ValueError):
        return False
