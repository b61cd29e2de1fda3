"""The project's Celery app, and the tasks that ours are compared with."""

import os

from celery import Celery, shared_task
from redis import Redis

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
app = Celery("benchmarks")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.set_default()
app.autodiscover_tasks(["benchmarks"], related_name="row_by_row")


@shared_task
def nothing() -> None:
    """The least that a task can do."""


@shared_task
def say(key: str) -> None:
    """Push to the list *key*: this worker has come this far."""
    with Redis.from_url(app.conf.broker_url) as redis:
        redis.rpush(key, "here")


@shared_task(ignore_result=False)
def leaf() -> dict[str, bool]:
    """One member of a chord."""
    return {"ok": True}


@shared_task
def join(results: list[dict[str, bool]], key: str) -> None:
    """The end of a chord: push the number of results to the list *key*."""
    with Redis.from_url(app.conf.broker_url) as redis:
        redis.rpush(key, len(results))
