"""A real worker with two processes: events a second beside Celery's own no-op tasks, and latency.

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
    goal = executions.filter(state="completed").count() + count
    publish([event("order_paid", id=number) for number in range(count)])
    until(lambda: executions.filter(state="completed").count() >= goal, pause=0.02)


def publish_each(events: list[WorkflowEvent]) -> None:
    for one in events:
        get_event_registry().publish(one)


def publish_together(events: list[WorkflowEvent]) -> None:
    get_event_registry().publish_many(events)


def run_tasks(count: int) -> None:
    for _ in range(count):
        nothing.delay()
    wait_for_worker()


def measure_rates(*, reuse: int | None) -> None:
    each, together = [], []
    run_events(publish_each, 100)
    for _ in range(ROUNDS):
        tasks = rate(EVENTS, partial(run_tasks, EVENTS))
        each.append((rate(EVENTS, partial(run_events, publish_each, EVENTS)), tasks))
        together.append((rate(EVENTS, partial(run_events, publish_together, EVENTS)), tasks))
    how = f"CELERY_DB_REUSE_MAX {reuse or 'not set'}"
    show_pairs(f"one by one, {how}", each, "no-op tasks")
    show_pairs(f"publish_many, {how}", together, "no-op tasks")


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
