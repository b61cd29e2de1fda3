"""What comes due later, done by a process that lives long enough: retries, sleeps, timeouts.

Workers and Beat do that where there are any. Where there are none, in local mode and with
`WORKFLOW_ASYNC` off, each long-lived process has a thread for it: a web server from its first
request, the development server from its start, a Celery worker from its start. Short commands and
tests have none.
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
from general_manager.workflow.backends.local import LocalWorkflowEngine
from general_manager.workflow.sweep import keeps_rows_here, tick

logger = get_logger(__name__)

LOCAL_SECONDS: Final = 1.0
"""How often memory is looked through."""
SERVERS: Final = ("runserver", "runserver_plus")
"""Commands of `manage.py` that serve requests until they are stopped."""
_UID: Final = "general_manager.workflow.timer"


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
                logger.exception("What is due could not be done; trying again in a moment")
                wait = LOCAL_SECONDS
            finally:
                connections.close_all()


def _turn() -> float:
    """Do what is due; returns after how many seconds to look again."""
    wait = LOCAL_SECONDS
    engine = get_workflow_engine()
    if isinstance(engine, LocalWorkflowEngine):
        engine.run_due()
    if keeps_rows_here():
        tick()
        if not isinstance(engine, LocalWorkflowEngine):
            wait = get_workflow_settings().beat_outbox_interval.total_seconds()
    return wait


_timer: _Timer | None = None
_lock: Final = Lock()


def start() -> bool:
    """Have this process do what comes due; false where workers or nobody has to.

    Call it in a long-lived process that is neither a web server nor a Celery worker. Calling it
    again changes nothing.
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
    """End the thread, after the turn that is under way."""
    global _timer
    with _lock:
        if _timer is not None and _timer.is_alive:
            _timer.stop()
        _timer = None


def install() -> None:
    """Called at start-up: from here the process is watched for signs of a long life."""
    request_started.connect(_on_request, dispatch_uid=_UID)
    if _is_development_server():
        start()


def _on_request(**_: object) -> None:
    if _timer is None or not _timer.is_alive:  # also in a process that was forked after the start
        start_unless_testing()


def start_unless_testing() -> None:
    if not hasattr(mail, "outbox"):  # which Django's test runner makes, and pytest-django's
        start()


def _is_needed() -> bool:
    try:
        return isinstance(get_workflow_engine(), LocalWorkflowEngine) or keeps_rows_here()
    except ImproperlyConfigured:
        return False  # `manage.py check` names it, and so does the first use


def _is_development_server() -> bool:
    """The process that serves, not the one that restarts it when a file changes."""
    is_server = any(name in sys.argv[1:2] for name in SERVERS)
    return is_server and ("--noreload" in sys.argv or os.environ.get("RUN_MAIN") == "true")


def _announce() -> None:
    if keeps_rows_here():
        logger.info(
            "This process does what comes due later, every %d s: retries, sleeps, timeouts",
            get_workflow_settings().beat_outbox_interval.total_seconds(),
        )
    else:
        logger.warning(
            "Local mode: this process does what comes due later (retries, sleeps, timeouts) as "
            "long as it lives. Everything is in its memory: a restart forgets it."
        )
