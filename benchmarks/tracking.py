"""What tracking costs: CPU time of a save of 30 columns, plain and tracked.

Run with ``tox run -e bench`` or ``python -m benchmarks.tracking``; ``--sqlite`` for SQLite. Rounds
of the three alternate: the ratio of the medians is what to compare. In production mode a save that
is 20 ms later than the last message sends another one, unless a worker is busy already.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from statistics import median
from time import process_time
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
os.environ.setdefault("BENCH_BROKER", "memory://")
if "--sqlite" in sys.argv:
    from django.conf import settings  # noqa: TID251 - a project's own

    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "general_manager"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        GENERAL_MANAGER={"WORKFLOW_MODE": "production"},
        CELERY_BROKER_URL="memory://",
        USE_TZ=True,
    )

import django

django.setup()

from django.core.management import call_command
from django.db import connection, models, transaction
from django.test import override_settings
from django.utils import timezone

from benchmarks.celery import app
from benchmarks.measuring import show, statements
from general_manager import PublishingQuerySet, track_changes
from general_manager.workflow import configure_event_registry
from general_manager.workflow.event_registry import InMemoryEventRegistry
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.models import WorkflowQueue
from general_manager.workflow.outbox.registry import DatabaseEventRegistry

SAVES = 200
ROUNDS = 9
ROWS = 10_000


def columns() -> dict[str, Any]:
    kinds: list[Callable[[], Any]] = [
        lambda: models.CharField(max_length=100, default="some text"),
        lambda: models.IntegerField(default=7),
        lambda: models.DecimalField(max_digits=10, decimal_places=2, default="12.50"),
        lambda: models.DateTimeField(auto_now_add=True),
        lambda: models.BooleanField(default=True),
        lambda: models.TextField(default="more text"),
    ]
    return {f"column_{number}": kinds[number % len(kinds)]() for number in range(30)}


def make(name: str, **more: Any) -> Any:
    about = {"__module__": __name__, "Meta": type("Meta", (), {"app_label": "benchmarks"})}
    return type(name, (models.Model,), {**columns(), **about, **more})


Plain = make("Plain")
Tracked = track_changes(make("Tracked", objects=PublishingQuerySet.as_manager()))
Narrow = track_changes(make("Narrow"), fields=("column_0",))
MODELS = (Plain, Tracked, Narrow)


def handle(event: WorkflowEvent) -> None:
    """Nothing, so that only our own code is measured."""


def saving(model: Any, **options: Any) -> Callable[[], float]:
    """Microseconds of CPU time for one save that changes one column."""
    row = model.objects.create()
    count = 0

    def measure() -> float:
        nonlocal count
        started = process_time()
        for _ in range(SAVES):
            count += 1
            row.column_0 = f"text {count}"
            row.save(**options)
        return (process_time() - started) / SAVES * 1e6

    return measure


def compare(what: str, model: Any, **options: Any) -> None:
    plain, tracked = saving(Plain, **options), saving(model, **options)
    plain(), tracked()
    pairs = [(plain(), tracked()) for _ in range(ROUNDS)]
    one, other = (median(times) for times in zip(*pairs, strict=True))
    show(what, f"{one:6.0f} us plain, {other:6.0f} us, ratio {other / one:.2f}")


def bulk() -> None:
    rows = [Tracked() for _ in range(ROWS)]
    with transaction.atomic():
        show(
            "bulk_create_and_publish",
            statements(lambda: Tracked.objects.bulk_create_and_publish(rows)),
        )
        show(
            "update_and_publish",
            statements(lambda: Tracked.objects.update_and_publish(column_0="changed")),
        )
        transaction.set_rollback(True)


@contextmanager
def busy_worker() -> Iterator[None]:
    """As while a worker empties the queue: it will look again, so no message is sent."""
    WorkflowQueue.objects.say_busy("")
    WorkflowQueue.objects.update(busy_until=timezone.now() + timedelta(hours=1))
    yield
    WorkflowQueue.objects.clear_busy("")


def main() -> None:
    app.set_current()  # as a project has one, so that nudges are sent
    call_command("migrate", verbosity=0)
    with connection.schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)
    try:
        local: Any = InMemoryEventRegistry()
        for registry, mode in ((local, "local"), (DatabaseEventRegistry(), "production")):
            registry.register("manager_updated", handler=handle)
            configure_event_registry(registry)
            settings = {"WORKFLOW_MODE": mode, "WORKFLOW_SIGNAL_BRIDGE": True}
            with override_settings(GENERAL_MANAGER=settings):
                compare(f"{mode}: all of 30 columns", Tracked)
                compare(f"{mode}: fields=('column_0',)", Narrow)
                compare(f"{mode}: update_fields=['column_0']", Narrow, update_fields=["column_0"])
                compare(f"{mode}: update_fields=['column_1']", Narrow, update_fields=["column_1"])
                if mode == "production":
                    with busy_worker():
                        compare("the first one beside a busy worker", Tracked)
        with override_settings(GENERAL_MANAGER=settings):
            show("rows, and statements for them", ROWS)
            bulk()
    finally:
        with connection.schema_editor() as editor:
            for model in MODELS:
                editor.delete_model(model)


if __name__ == "__main__":
    main()
