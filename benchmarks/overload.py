"""What workers do behind a backlog and after a stall: how long fresh work waits; messages.

Run with ``tox run -e bench`` or ``python -m benchmarks.overload``. Redis and PostgreSQL are started
from their wheels, and a worker with two processes. Rates are parts of the capacity that this run
measures first, so the ratios hold on any machine.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from statistics import quantiles
from typing import Any
from unittest.mock import patch

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command

from benchmarks.measuring import show
from benchmarks.site import broker, until, worker
from general_manager.workflow import WorkflowEvent, get_event_registry
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.transport import broker as transport

BACKLOG = int(os.environ.get("BENCH_BACKLOG", "20000"))
STALL_SECONDS = int(os.environ.get("BENCH_STALL", "30"))
FRESH_RATE = 20
WARM_UP = 2_000
WINDOW = 5.0

executions = WorkflowExecutionRecord.objects
numbers = count()


def publish(name: str = "order_timed") -> None:
    payload: dict[str, Any] = {"published_at": time.time()}
    event = WorkflowEvent(f"{name} {next(numbers)}", "shop.order.paid", payload, event_name=name)
    get_event_registry().publish(event)


def publish_many(number: int, name: str) -> None:
    get_event_registry().publish_many(
        WorkflowEvent(f"{name} {next(numbers)}", "shop.order.paid", {}, event_name=name)
        for _ in range(number)
    )


@contextmanager
def messages_counted() -> Iterator[list[int]]:
    """How many messages this process sends; the workers' own are not counted."""
    sent = [0]
    real = transport._publish  # noqa: SLF001 - through which every message leaves

    def tally(*arguments: Any) -> None:
        sent[0] += 1
        real(*arguments)

    with patch.object(transport, "_publish", tally):
        yield sent


def is_done(goal: int) -> bool:
    return executions.filter(state="completed").count() >= goal


def publish_each(number: int, name: str) -> None:
    for _ in range(number):
        publish(name)


def measure_capacity(
    publish: Callable[[int, str], None] = publish_many, how: str = "by publish_many"
) -> float:
    goal = executions.filter(state="completed").count() + WARM_UP
    began = time.monotonic()
    publish(WARM_UP, "order_paid")
    until(lambda: is_done(goal), pause=0.05)
    capacity = WARM_UP / (time.monotonic() - began)
    show("capacity", f"{capacity:.0f} events/s, {how}")
    return capacity


def publish_for(seconds: float, rate: float) -> int:
    """Publish at *rate*; what comes late is made up for, as requests would be."""
    began, published = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        if published < now * rate:
            publish()
            published += 1
        else:
            time.sleep(0.002)
    return published


def latencies(since: float, to: float) -> list[float]:
    """From publishing to the handler's start, of events published in that time."""
    rows = executions.filter(workflow_id="w", input_data__published_at__gte=since)
    data = rows.filter(input_data__published_at__lt=to).values_list("input_data", flat=True)
    return [one["handled_at"] - one["published_at"] for one in data]


def quantile(values: list[float], part: int) -> float:
    return quantiles(values, n=100)[part - 1] if len(values) > 1 else float("nan")


def measure_fresh_work_behind_a_backlog() -> None:
    goal = executions.filter(state="completed").count() + BACKLOG
    for _ in range(0, BACKLOG, 5_000):
        publish_many(min(5_000, BACKLOG), "order_paid")
    began = time.time()
    fresh = 0
    while not is_done(goal + fresh):
        fresh += publish_for(1.0, FRESH_RATE)
    waited = latencies(began, time.time())
    show(
        f"publish to handler behind {BACKLOG:,} old events",
        f"p50 {quantile(waited, 50) * 1e3:.0f} ms   p99 {quantile(waited, 99) * 1e3:.0f} ms",
        "wanted: p99 < 250 ms",
    )


def measure_stall(capacity: float, part: float) -> None:
    """Every process of the worker stands still while events come."""
    rate = capacity * part
    pids = subprocess.run(
        ["pgrep", "-f", "celery -A benchmarks.celery worker"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    with messages_counted() as sent:
        events = publish_for(10, rate)
        for pid in pids:
            os.kill(int(pid), signal.SIGSTOP)
        events += publish_for(STALL_SECONDS, rate)
        for pid in pids:
            os.kill(int(pid), signal.SIGCONT)
        resumed = time.time()
        events += publish_for(STALL_SECONDS * part / (1 - part) * 1.5 + 30, rate)
    time.sleep(5)
    back = None
    moment = resumed
    while moment < time.time() - WINDOW:
        if quantile(latencies(moment, moment + WINDOW), 99) > 1.0:
            back = None
        elif back is None:
            back = moment - resumed
        moment += WINDOW
    allowed = STALL_SECONDS * part / (1 - part) * 1.5
    show(
        f"a stall of {STALL_SECONDS} s at {part:.0%} of capacity",
        f"p99 below one second again after {'never' if back is None else f'{back:.0f} s'}; "
        f"{sent[0] / events:.2f} messages an event",
        f"wanted: within {allowed:.0f} s",
    )


def main() -> None:
    call_command("migrate", verbosity=0)
    with broker(), worker(reuse=1_000):
        measure_capacity()
        measure_fresh_work_behind_a_backlog()
        capacity = measure_capacity(publish_each, "one by one")  # as events come in what follows
        for part in (0.65, 0.88):
            measure_stall(capacity, part)


if __name__ == "__main__":
    main()
