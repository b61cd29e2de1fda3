"""Our entry in Beat's schedule, for both schedulers, and the heartbeats of workers and Beat."""

import atexit
from collections.abc import Callable, Mapping
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
from general_manager.guarding import attempt
from general_manager.workflow.core import shutdown
from general_manager.workflow.core.actors import BEAT, WORKER, whereabouts
from general_manager.workflow.core.leases import start_calling
from general_manager.workflow.transport.base import TICK
from general_manager.workflow.transport.broker import serve, this_app
from general_manager.workflow.transport.throttle import nudge_throttle

logger = get_logger(__name__)

ENTRY: Final = "general_manager.workflow.tick"
ALIVE_EVERY: Final = timedelta(seconds=30)
MOST_WAIT: Final = timedelta(hours=1)
"""When a tick message expires. If the queue is always longer than the interval, ticks that expired
with the interval would never run and due work would not be found. Not all ticks of a day without
workers need to run; one that follows another too soon does nothing."""
LONG_GONE: Final = timedelta(days=1)
"""A killed worker cannot remove its heartbeat."""


def install() -> None:
    """Add the entry to the app's schedule once the app is ready. Called at start-up."""
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
        # Django must reach `manage.py check`, which reports the mistake.
        logger.error(
            "Beat's schedule has no entry of general_manager; run manage.py check to see why"
        )
        return
    if not settings.beat_enabled or not isinstance(app.conf.beat_schedule, dict):
        return  # manage.py check names a wrong schedule
    seconds = int(settings.beat_outbox_interval.total_seconds())
    expires = max(seconds, int(MOST_WAIT.total_seconds()))
    # django-celery-beat drops "expires" and reads "expire_seconds".
    options = {"expires": expires, "expire_seconds": expires}
    entry = {"task": TICK, "schedule": float(seconds), "options": options}
    app.conf.beat_schedule.setdefault(ENTRY, entry)


def is_scheduled() -> bool:
    """Whether Beat's schedule in this process contains our tick, under any name."""
    app: Any = this_app()
    attempt(lambda: app.finalize(auto=True), None)  # W013 names wrong settings
    entries = app.conf.beat_schedule
    if not isinstance(entries, Mapping):
        return True  # and so that it is none
    return any(isinstance(one, dict) and one.get("task") == TICK for one in entries.values())


def _remove_orphan(sender: Any = None, **_: Any) -> None:
    """Remove our entry from django-celery-beat's table, which keeps dropped entries."""
    if sender is not None:
        serve(sender.app)
    if get_workflow_settings().beat_enabled or not apps.is_installed("django_celery_beat"):
        return
    entries: Any = apps.get_app_config("django_celery_beat").get_model("PeriodicTask")
    deleted, _by_model = entries.objects.filter(name=ENTRY).delete()
    if deleted:
        logger.info("WORKFLOW_BEAT_ENABLED is off: removed %s from the schedule", ENTRY)


def _start_timer(**_: Any) -> None:
    """A worker of a project without `WORKFLOW_ASYNC` is long-lived, like a web server."""
    timer: Any = import_module("general_manager.workflow.workers.timer")  # imports models
    timer.start_unless_testing()


def _begin_to_serve(sender: Any, **_: Any) -> None:
    """Before the worker forks: its processes inherit these decisions."""
    shutdown.retract()
    serve(sender.app)


def _take_no_more(**_: Any) -> None:
    """On the first TERM: let running handlers finish, and release the other claims."""
    shutdown.announce()


def _send_rest(**_: Any) -> None:
    """A worker's processes end by `os._exit`, which does not wait for threads."""
    nudge_throttle.flush()


_stop_saying: list[Callable[[], None]] = []


def _say_alive(sender: Any, **_: Any) -> None:
    """The worker's main process records a heartbeat every half minute, for health checks."""
    app = getattr(sender, "app", None)
    queues = None if app is None else sorted(app.amqp.queues.consume_from)
    _keep_saying(WORKER, sender.hostname, queues)


def _say_beat_alive(**_: Any) -> None:
    """Beat too: its tick runs in a worker, so a missing tick does not show which is gone."""
    if get_workflow_settings().beat_enabled:
        _keep_saying(BEAT, whereabouts())
        atexit.register(_say_gone)


def _keep_saying(kind: str, name: str, queues: list[str] | None = None) -> None:
    model: Any = apps.get_model("general_manager", "WorkflowHeartbeat")
    duty = f"{kind}{name}"

    def say() -> None:
        beats = model.objects.using(router.db_for_write(model))
        beats.beat(duty, whereabouts(), queues=queues)
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
            logger.exception("This process could not remove its heartbeat")
