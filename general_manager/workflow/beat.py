"""Our entry in Beat's schedule: with Celery's own scheduler and with django-celery-beat's."""

import logging
from typing import Any, Final

from celery import current_app
from celery.signals import beat_init
from django.apps import apps

from general_manager.conf import get_workflow_settings
from general_manager.workflow.dispatch import TICK

logger = logging.getLogger(__name__)

ENTRY: Final = "general_manager.workflow.tick"


def install() -> None:
    """Add the entry to the app's schedule, once the app is ready for it. Called at start-up."""
    app: Any = current_app
    if app.finalized:
        _add_entry(app)
    else:
        app.on_after_finalize.connect(_on_finalize, weak=False, dispatch_uid=ENTRY)
    beat_init.connect(_remove_orphan, weak=False, dispatch_uid=ENTRY)


def _on_finalize(sender: Any, **_: Any) -> None:
    _add_entry(sender)


def _add_entry(app: Any) -> None:
    settings = get_workflow_settings()
    if not settings.beat_enabled:
        return
    seconds = int(settings.beat_outbox_interval.total_seconds())
    # A tick that waited longer than the next one is due has nothing to add. django-celery-beat
    # drops "expires" and reads "expire_seconds".
    options = {"expires": seconds, "expire_seconds": seconds}
    entry = {"task": TICK, "schedule": float(seconds), "options": options}
    app.conf.beat_schedule.setdefault(ENTRY, entry)


def _remove_orphan(**_: Any) -> None:
    """django-celery-beat keeps an entry in its table after the code has dropped it."""
    if get_workflow_settings().beat_enabled or not apps.is_installed("django_celery_beat"):
        return
    entries: Any = apps.get_app_config("django_celery_beat").get_model("PeriodicTask")
    deleted, _by_model = entries.objects.filter(name=ENTRY).delete()
    if deleted:
        logger.info("WORKFLOW_BEAT_ENABLED is off: removed %s from the schedule", ENTRY)
