"""What workers do behind a backlog and after a stall: how long fresh work waits; messages.

Run with ``tox run -e bench`` or ``python -m benchmarks.overload``. Redis and PostgreSQL are started
from their wheels, and a worker with two processes. Rates are parts of the capacity that this run
measures first, so the ratios hold on any machine. Names of parts, such as ``backlog``, choose some.
"""

import os
import signal
import subprocess
import sys
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
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from general_manager.workflow.transport import broker as transport

BACKLOG = int(os.environ.get("BENCH_BACKLOG", "20000"))
STALL_SECONDS = int(os.environ.get("BENCH_STALL", "30"))
OVERLOAD_SECONDS = int(os.environ.get("BENCH_OVERLOAD", "120"))
FRESH_RATE = 20
WARM_UP = 2_000
WARM_UP_SECONDS = 15
WINDOW = 5.0

executions = WorkflowExecutionRecord.objects
numbers = count()


def timed(name: str) -> WorkflowEvent:
    payload: dict[str, Any] = {"published_at": time.time()}
    return WorkflowEvent(f"{name} {next(numbers)}", "shop.order.paid", payload, event_name=name)


def publish(name: str = "order_timed") -> None:
    get_event_registry().publish(timed(name))


def publish_timed(number: int) -> None:
    get_event_registry().publish_many(timed("order_timed") for _ in range(number))


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


def completed() -> int:
    return executions.filter(state="completed").count()


def is_done(goal: int) -> bool:
    return completed() >= goal


def is_left() -> bool:
    is_open = WorkflowOutbox.objects.filter(available_at__isnull=False).exists()
    return is_open or executions.filter(ended_at=None).exists()


def publish_each(number: int, name: str) -> None:
    for _ in range(number):
        publish(name)


def measure_capacity(
    publish: Callable[[int, str], None] = publish_many, how: str = "by publish_many"
) -> float:
    goal = completed() + WARM_UP
    began = time.monotonic()
    publish(WARM_UP, "order_paid")
    until(lambda: is_done(goal), pause=0.05)
    capacity = WARM_UP / (time.monotonic() - began)
    show("capacity", f"{capacity:.0f} events/s, {how}")
    return capacity


def publish_for(seconds: float, rate: float, *, together: bool = False) -> int:
    """Publish at *rate*; what comes late is made up for, as requests would be."""
    began, published = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        due = int(now * rate) + 1 - published
        if due > 0:
            number = due if together else 1
            publish_timed(number) if together else publish()
            published += number
        if due <= 1 or together:
            time.sleep(0.01 if together else 0.002)
    return published


def latencies(since: float, to: float) -> list[tuple[float, float]]:
    """When each event was published, and how long until its handler started; of that time."""
    rows = executions.filter(workflow_id="w", input_data__published_at__gte=since)
    data = rows.filter(input_data__published_at__lt=to).values_list("input_data", flat=True)
    return [(one["published_at"], one["handled_at"] - one["published_at"]) for one in data]


def quantile(values: list[float], part: int) -> float:
    return quantiles(values, n=100)[part - 1] if len(values) > 1 else float("nan")


def measure_fresh_work_behind_a_backlog() -> None:
    goal = completed() + BACKLOG
    for _ in range(0, BACKLOG, 5_000):
        publish_many(min(5_000, BACKLOG), "order_paid")
    began = time.time()
    fresh = 0
    while not is_done(goal + fresh):
        fresh += publish_for(1.0, FRESH_RATE)
    waited = [took for _, took in latencies(began, time.time())]
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
        allowed = STALL_SECONDS * part / (1 - part) * 1.5
        events += publish_for(allowed + 30, rate)
    time.sleep(5)
    show(
        f"a stall of {STALL_SECONDS} s at {part:.0%} of capacity",
        f"{quick_again(resumed)}; {sent[0] / events:.2f} messages an event",
        f"wanted: within {allowed:.0f} s",
    )


def quick_again(since: float) -> str:
    """When the p99 of windows from publishing to the handler's start is below a second for good."""
    waited = [(at - since, took) for at, took in latencies(since, time.time())]
    back = None
    for number in range(int(max(at for at, _ in waited) / WINDOW)):
        window = [took for at, took in waited if number <= at / WINDOW < number + 1]
        if quantile(window, 99) > 1.0:
            back = None
        elif back is None:
            back = number * WINDOW
    return f"p99 below one second again after {'never' if back is None else f'{back:.0f} s'}"


def measure_overload() -> None:
    """More than the workers can do beside their publisher, by `publish_many`; then half of it."""
    publish_many(WARM_UP, "order_paid")
    before = completed()
    publish_for(WARM_UP_SECONDS, 2_000, together=True)
    capacity = (completed() - before) / WARM_UP_SECONDS
    show("capacity", f"{capacity:.0f} events/s, while more are published")
    until(lambda: not is_left(), pause=0.5)
    before = completed()
    with messages_counted() as sent:
        events = publish_for(OVERLOAD_SECONDS, capacity * 1.5, together=True)
        relieved = time.time()
        left = events - (completed() - before)
        allowed = left / (capacity / 2) * 1.5
        events += publish_for(allowed + 30, capacity / 2, together=True)
    time.sleep(5)
    show(
        f"150 % of capacity for {OVERLOAD_SECONDS} s, then half",
        f"{left:,} left; {quick_again(relieved)}; {sent[0] / events:.2f} messages an event",
        f"wanted: within {allowed:.0f} s",
    )


def measure_backlog() -> None:
    measure_capacity()
    measure_fresh_work_behind_a_backlog()


def measure_stalls() -> None:
    capacity = measure_capacity(publish_each, "one by one")  # as events come in what follows
    for part in (0.65, 0.88):
        measure_stall(capacity, part)


PARTS = {"backlog": measure_backlog, "stalls": measure_stalls, "overload": measure_overload}


def main() -> None:
    call_command("migrate", verbosity=0)
    with broker(), worker(reuse=1_000):
        for name, measure in PARTS.items():
            if name in sys.argv[1:] or not sys.argv[1:]:
                measure()


if __name__ == "__main__":
    main()
