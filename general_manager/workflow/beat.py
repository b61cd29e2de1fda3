"""Our entry in Beat's schedule, with either scheduler; and the word of workers that they live."""

import atexit
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any, Final

from celery.signals import (
    beat_embedded_init,
    beat_init,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, router

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow import shutdown
from general_manager.workflow.actors import BEAT, WORKER, whereabouts
from general_manager.workflow.dispatch import TICK, serve, this_app
from general_manager.workflow.leases import start_calling
from general_manager.workflow.messages import drains

logger = get_logger(__name__)

ENTRY: Final = "general_manager.workflow.tick"
ALIVE_EVERY: Final = timedelta(seconds=30)
MOST_WAIT: Final = timedelta(hours=1)
"""How long a tick is good for. Where the queue is always longer than the interval, a tick that
expired with the interval would never be heard, and nothing that is due be found. Those of a day
without workers need not all be heard; and one that comes too soon after another does nothing."""
LONG_GONE: Final = timedelta(days=1)
"""A worker that was killed could not take its word back."""


def install() -> None:
    """Add the entry to the app's schedule, once the app is ready for it. Called at start-up."""
    app: Any = this_app()
    if app.finalized:
        _add_entry(app)
    else:
        app.on_after_finalize.connect(_on_finalize, weak=False, dispatch_uid=ENTRY)
    beat_init.connect(_remove_orphan, weak=False, dispatch_uid=ENTRY)
    worker_init.connect(_begin_to_serve, weak=False, dispatch_uid=ENTRY)
    worker_shutting_down.connect(_take_no_more, weak=False, dispatch_uid=ENTRY)
    for signal in (beat_init, beat_embedded_init):
        signal.connect(_say_beat_alive, weak=False, dispatch_uid=f"{ENTRY}.alive")
    worker_ready.connect(_say_alive, weak=False, dispatch_uid=ENTRY)
    worker_ready.connect(_start_timer, weak=False, dispatch_uid=f"{ENTRY}.timer")
    worker_process_init.connect(_start_timer, weak=False, dispatch_uid=f"{ENTRY}.timer")
    worker_shutdown.connect(_say_gone, weak=False, dispatch_uid=ENTRY)
    worker_process_shutdown.connect(_send_rest, weak=False, dispatch_uid=ENTRY)


def _on_finalize(sender: Any, **_: Any) -> None:
    _add_entry(sender)


def _add_entry(app: Any) -> None:
    try:
        settings = get_workflow_settings()
    except ImproperlyConfigured:
        # Django must get as far as `manage.py check`, which names what is wrong.
        logger.error("Beat's schedule has no entry of general_manager; manage.py check says why")
        return
    if not settings.beat_enabled:
        return
    seconds = int(settings.beat_outbox_interval.total_seconds())
    expires = max(seconds, int(MOST_WAIT.total_seconds()))
    # django-celery-beat drops "expires" and reads "expire_seconds".
    options = {"expires": expires, "expire_seconds": expires}
    entry = {"task": TICK, "schedule": float(seconds), "options": options}
    app.conf.beat_schedule.setdefault(ENTRY, entry)


def is_scheduled() -> bool:
    """Whether Beat's schedule, as it is in this process, asks for our tick under any name."""
    app: Any = this_app()
    app.finalize(auto=True)
    entries = app.conf.beat_schedule.values()
    return any(isinstance(one, dict) and one.get("task") == TICK for one in entries)


def _remove_orphan(sender: Any = None, **_: Any) -> None:
    """django-celery-beat keeps an entry in its table after the code has dropped it."""
    if sender is not None:
        serve(sender.app)
    if get_workflow_settings().beat_enabled or not apps.is_installed("django_celery_beat"):
        return
    entries: Any = apps.get_app_config("django_celery_beat").get_model("PeriodicTask")
    deleted, _by_model = entries.objects.filter(name=ENTRY).delete()
    if deleted:
        logger.info("WORKFLOW_BEAT_ENABLED is off: removed %s from the schedule", ENTRY)


def _start_timer(**_: Any) -> None:
    """A worker of a project without `WORKFLOW_ASYNC` lives long, like a web server."""
    timer: Any = import_module("general_manager.workflow.timer")  # stands on the tables
    timer.start_unless_testing()


def _begin_to_serve(sender: Any, **_: Any) -> None:
    """Before the worker forks: what is decided here, its processes know."""
    shutdown.retract()
    serve(sender.app)


def _take_no_more(**_: Any) -> None:
    """On the first TERM: the handlers under way finish, and what is claimed besides is released."""
    shutdown.announce()


def _send_rest(**_: Any) -> None:
    """A worker's processes leave by `os._exit`, which waits for no thread."""
    drains.flush()


_stop_saying: list[Callable[[], None]] = []


def _say_alive(sender: Any, **_: Any) -> None:
    """The worker's main process says every half minute that it is there; health asks for it."""
    _keep_saying(WORKER, sender.hostname)


def _say_beat_alive(**_: Any) -> None:
    """Beat as well: its tick runs in a worker, and does not come where only the worker is gone."""
    if get_workflow_settings().beat_enabled:
        _keep_saying(BEAT, whereabouts())
        atexit.register(_say_gone)


def _keep_saying(kind: str, name: str) -> None:
    model: Any = apps.get_model("general_manager", "WorkflowHeartbeat")
    duty = f"{kind}{name}"

    def say() -> None:
        beats = model.objects.using(router.db_for_write(model))
        beats.beat(duty, whereabouts())
        beats.forget(kind, older_than=LONG_GONE)

    def say_gone() -> None:
        model.objects.using(router.db_for_write(model)).filter(duty=duty).delete()

    try:
        say()
    except DatabaseError:
        logger.exception("This process could not record its heartbeat")
    _stop_saying.extend((start_calling(say, ALIVE_EVERY), say_gone))


def _say_gone(**_: Any) -> None:
    while _stop_saying:
        try:
            _stop_saying.pop(0)()
        except DatabaseError:
            logger.exception("This process could not take its heartbeat back")
