"""Waits: beside Absurd's; how soon an event answers; what thousands of open ones on a key cost.

Run with ``tox run -e bench`` or ``python -m benchmarks.waiting``.
"""

import os
import time
from collections.abc import Callable
from itertools import count
from statistics import median
from uuid import uuid4

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command

from benchmarks.handlers import WAIT_FOR_PAYMENT, WAIT_ONCE
from benchmarks.measuring import seconds, show, show_times, statements
from benchmarks.rivals import AbsurdQueue
from benchmarks.settings import POSTGRES
from benchmarks.site import broker, messages_kept, until, worker
from general_manager.workflow import WorkflowEvent, get_event_registry, get_workflow_engine
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowEventWait, WorkflowExecutionRecord
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.workers.work import empty

ANSWERS = 40
WAITS = 50
TOGETHER = 200
ROUNDS = 6
OPEN_WAITS = int(os.environ.get("OPEN_WAITS", "5000"))

executions = WorkflowExecutionRecord.objects


def publish(order_id: object) -> None:
    payload = {"order_id": order_id}
    key = "payment_received"
    event = WorkflowEvent(str(uuid4()), "bank.payment.received", payload, event_name=key)
    get_event_registry().publish(event)


def answered_after() -> float:
    """Seconds from the publication to the line behind the wait, with an idle worker."""
    order_id = str(uuid4())
    key = get_workflow_engine().start(WAIT_FOR_PAYMENT, {"order_id": order_id}).execution_id
    mine = executions.filter(execution_id=key)
    until(lambda: mine.filter(state="waiting").exists(), pause=0.02)
    time.sleep(0.1)  # the worker is idle again
    published = time.time()
    publish(order_id)
    until(lambda: mine.filter(state="completed").exists(), pause=0.005)
    output = mine.get().output_data or {}
    return float(output["answered_at"]) - published


def each(wait: Callable[[], None]) -> float:
    """Milliseconds of one of many."""

    def work() -> None:
        for _ in range(WAITS):
            wait()

    return seconds(work) / WAITS * 1e3


def wait_once() -> None:
    """From the start over the wait and its answer to the end."""
    engine = get_workflow_engine()
    key = engine.start(WAIT_ONCE).execution_id
    empty("default")
    engine.resume(key, {"yes": True})
    empty("default")


def wait_together() -> None:
    """Many of them, worked off in batches, as by a worker that has much to do."""
    engine = get_workflow_engine()
    keys = [engine.start(WAIT_ONCE).execution_id for _ in range(TOGETHER)]
    empty("default")
    for key in keys:
        engine.resume(key, {"yes": True})
    empty("default")


def measure_beside() -> None:
    absurd, numbers = AbsurdQueue(POSTGRES), count()

    def theirs_together() -> None:
        absurd.wait_together([f"wait {next(numbers)}" for _ in range(TOGETHER)])

    alone, together = list[tuple[float, float]](), list[tuple[float, float]]()
    with messages_kept():
        for _ in range(ROUNDS):
            theirs = each(lambda: absurd.wait_once(next(numbers)))
            alone.append((each(wait_once), theirs))
            theirs = seconds(theirs_together) / TOGETHER * 1e3
            together.append((seconds(wait_together) / TOGETHER * 1e3, theirs))
            if executions.exclude(state="completed").exists():
                raise SystemExit("Some did not end: the times mean nothing")
    for how, rounds in (("one by one", alone), (f"{TOGETHER} together", together)):
        ours, absurds = (median(times) for times in zip(*rounds[1:], strict=True))
        show(
            f"a wait and its answer, from start to end, {how}",
            f"ours {ours:.1f} ms, absurd {absurds:.1f} ms",
        )
    absurd.close()


def main() -> None:
    call_command("migrate", verbosity=0)
    measure_beside()
    with broker():
        with worker(reuse=1_000):
            answered_after()
            times = [answered_after() for _ in range(ANSWERS)]
        show_times("a wait answered by an event", times, "with an idle worker")
        with messages_kept():
            engine = get_workflow_engine()
            for number in range(OPEN_WAITS):
                run(engine.start(WAIT_FOR_PAYMENT, {"order_id": number}).execution_id, "default")
            show("open waits on one key", WorkflowEventWait.objects.count())
            publish("nobody")
            show("statements of an event nobody waits for", statements(drain))
            publish("nobody")
            show("milliseconds of it", f"{seconds(drain) * 1e3:.1f}")
            publish(4711 % OPEN_WAITS)
            show("statements of one that is waited for", statements(drain))


if __name__ == "__main__":
    main()
