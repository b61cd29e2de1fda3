"""A timer thread for retries, sleeps and timeouts, in processes that live long enough.

Usually workers and Beat do this work. Without them, in local mode and with `WORKFLOW_ASYNC` off,
each long-lived process has a thread for it: a web server from its first request, the development
server and a Celery worker from their start. Short commands and tests have none.
"""

import os
import sys
from threading import Event, Lock, Thread
from typing import Final

from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_started
from django.db import connections

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.scheduling.firing import fire_due
from general_manager.workflow.workers.tick import keeps_rows_here, tick

logger = get_logger(__name__)

LOCAL_SECONDS: Final = 1.0
"""How often the memory of local mode is checked for due work."""
SERVERS: Final = ("runserver", "runserver_plus")
"""Commands of `manage.py` that serve requests until they are stopped."""
_UID: Final = "general_manager.workflow.workers.timer"


class _Timer:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="general_manager-timer", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self.pid == os.getpid() and self._thread.is_alive()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        wait = 0.0
        while not self._stopping.wait(wait):
            try:
                wait = _turn()
            except Exception:
                logger.exception("Due work could not be done; retrying shortly")
                wait = LOCAL_SECONDS
            finally:
                connections.close_all()


def _turn() -> float:
    """Do the due work. Returns the seconds until the next check."""
    wait = LOCAL_SECONDS
    engine = get_workflow_engine()
    has_timers = getattr(engine, "supports_timers", False)
    if has_timers:
        engine.run_due()
        fire_due()
    if keeps_rows_here():
        tick()
        if not has_timers:
            wait = get_workflow_settings().beat_outbox_interval.total_seconds()
    return wait


_timer: _Timer | None = None
_lock: Final = Lock()


def start() -> bool:
    """Start the timer in this process; false if workers do the work or nothing is stored.

    Call it in a long-lived process that is neither a web server nor a Celery worker. Repeated calls
    do nothing.
    """
    global _timer
    if not _is_needed():
        return False
    with _lock:
        if _timer is None or not _timer.is_alive:
            _timer = _Timer()
            _announce()
    return True


def stop() -> None:
    """End the thread after its current turn."""
    global _timer
    with _lock:
        if _timer is not None and _timer.is_alive:
            _timer.stop()
        _timer = None


def install() -> None:
    """Called at start-up: watch for signs that this is a long-lived process."""
    request_started.connect(_on_request, dispatch_uid=_UID)
    if _is_development_server():
        start()


def _on_request(**_: object) -> None:
    if _timer is None or not _timer.is_alive:  # also in a process that was forked after the start
        start_unless_testing()


def start_unless_testing() -> None:
    if not hasattr(mail, "outbox"):  # set by Django's test runner and pytest-django
        start()


def _is_needed() -> bool:
    try:
        return bool(getattr(get_workflow_engine(), "supports_timers", False)) or keeps_rows_here()
    except ImproperlyConfigured:
        return False  # `manage.py check` reports it, and so does the first use


def _is_development_server() -> bool:
    """Whether this process serves, rather than the autoreloader that restarts it."""
    is_server = any(name in sys.argv[1:2] for name in SERVERS)
    return is_server and ("--noreload" in sys.argv or os.environ.get("RUN_MAIN") == "true")


def _announce() -> None:
    if keeps_rows_here():
        logger.info(
            "This process handles retries, sleeps and timeouts, every %d s",
            get_workflow_settings().beat_outbox_interval.total_seconds(),
        )
    else:
        logger.warning(
            "Local mode: this process handles retries, sleeps and timeouts as long as it lives. "
            "Everything is kept in its memory; a restart loses it."
        )
