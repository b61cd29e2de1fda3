"""A real worker with two processes: events a second, and latency.

Beside it stand Celery's own no-op tasks, and a plain design that goes row by row.

Run with ``tox run -e bench`` or ``python -m benchmarks.workers``. Redis and PostgreSQL are started
from their wheels. This process publishes while the worker works, as a web server would.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command

from benchmarks import row_by_row
from benchmarks.celery import nothing
from benchmarks.handlers import WAIT_ONCE
from benchmarks.measuring import rate, show_pairs, show_times
from benchmarks.site import broker, until, wait_for_worker, worker
from general_manager.workflow import (
    WorkflowEvent,
    get_event_registry,
    get_workflow_engine,
)
from general_manager.workflow.models import WorkflowExecutionRecord

EVENTS = 1_000
ROUNDS = 3
SINGLES = 200
PAUSE = 0.02
"""Seconds between two events, so that the worker is idle again."""

executions = WorkflowExecutionRecord.objects


def event(name: str, **payload: Any) -> WorkflowEvent:
    return WorkflowEvent(uuid4().hex, "shop.order.paid", payload, event_name=name)


def run_events(publish: Callable[[list[WorkflowEvent]], None], count: int) -> None:
    last = executions.order_by("-pk").values_list("pk", flat=True).first() or 0
    done = executions.filter(pk__gt=last, state="completed")  # to count them all would be work too
    publish([event("order_paid", id=number) for number in range(count)])
    until(lambda: done.count() >= count, pause=0.02)


def publish_each(events: list[WorkflowEvent]) -> None:
    for one in events:
        get_event_registry().publish(one)


def publish_row_by_row(events: list[WorkflowEvent]) -> None:
    for one in events:
        row_by_row.publish(one.event_id, dict(one.payload))


def publish_together(events: list[WorkflowEvent]) -> None:
    get_event_registry().publish_many(events)


def run_tasks(count: int) -> None:
    for _ in range(count):
        nothing.delay()
    wait_for_worker()


def measure_rates(*, reuse: int | None) -> None:
    ways = {
        "one by one": publish_each,
        "publish_many": publish_together,
        "row by row": publish_row_by_row,
    }
    rates: dict[str, list[float]] = {way: [] for way in ("no-op tasks", *ways)}
    for publish in ways.values():
        run_events(publish, 100)
    for _ in range(ROUNDS):
        rates["no-op tasks"].append(rate(EVENTS, partial(run_tasks, EVENTS)))
        for way, publish in ways.items():
            rates[way].append(rate(EVENTS, partial(run_events, publish, EVENTS)))
    how = f"CELERY_DB_REUSE_MAX {reuse or 'not set'}"
    for way in ways:
        show_pairs(f"{way}, {how}", pairs(rates, way, "no-op tasks"), "no-op tasks")
    for way in ("one by one", "publish_many"):
        show_pairs(f"{way}, {how}", pairs(rates, way, "row by row"), "row by row")


def pairs(rates: dict[str, list[float]], one: str, other: str) -> list[tuple[float, float]]:
    return list(zip(rates[one], rates[other], strict=True))


def is_in(execution_id: str, state: str) -> bool:
    return executions.filter(execution_id=execution_id, state=state).exists()


def measure_events() -> None:
    started, completed = [], []
    for _ in range(SINGLES):
        one = event("order_timed", published_at=time.time())
        get_event_registry().publish(one)
        mine = executions.filter(correlation_id=one.event_id, state="completed")
        until(mine.exists, pause=0.001)
        completed.append(time.time() - one.payload["published_at"])
        times = mine.get().input_data
        started.append(times["handled_at"] - times["published_at"])
        time.sleep(PAUSE)
    show_times("publish to handler started", started, "wanted: p50 < 20 ms, p95 < 50 ms")
    show_times("publish to completed execution", completed, "no target")


def measure_resumes() -> None:
    completed = []
    engine = get_workflow_engine()
    for _ in range(SINGLES):
        execution_id = engine.start(WAIT_ONCE).execution_id
        until(partial(is_in, execution_id, "waiting"), pause=0.005)
        time.sleep(PAUSE)
        resumed_at = time.time()
        engine.resume(execution_id, {"yes": True})
        until(partial(is_in, execution_id, "completed"), pause=0.001)
        completed.append(time.time() - resumed_at)
    show_times("resume to completed", completed, "wanted: p50 < 25 ms")


def main() -> None:
    call_command("migrate", verbosity=0)
    with broker():
        for reuse in (1_000, None):
            with worker(reuse=reuse):
                measure_rates(reuse=reuse)
        with worker(reuse=1_000):
            measure_events()
            measure_resumes()


if __name__ == "__main__":
    main()
