"""What a long history costs: a wake of an execution with many recorded steps.

Run with ``python -m benchmarks.histories``. Each wake loads the steps, calls the handler from the
top, replays each step and suspends in another wait.
"""

import os
import tracemalloc
from collections.abc import Callable
from functools import partial
from statistics import median
from time import process_time

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command

from benchmarks.handlers import LONG, MANY, RESULT
from benchmarks.measuring import seconds, show, statements
from benchmarks.site import messages_kept
from general_manager.workflow import get_workflow_engine
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep

LENGTHS = (0, 10, 100, 1_000, 5_000)
LONG_RUN = 10_000
ROUNDS = 9


def suspended(length: int) -> str:
    """An execution that has *length* steps behind it, and sleeps."""
    key = get_workflow_engine().start(LONG, {"steps": length}).execution_id
    record = WorkflowExecutionRecord.objects.get(execution_id=key)
    WorkflowStep.objects.bulk_create(
        WorkflowStep(
            execution=record, name=f"step {n}", status="done", result=RESULT, position=n + 1
        )
        for n in range(length)
    )
    WorkflowExecutionRecord.objects.filter(pk=record.pk).update(runs=1)
    run(key, "default")
    return key


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of this process, so that other processes on the machine do not count."""
    started = process_time()
    work()
    return process_time() - started


def wake(key: str) -> None:
    get_workflow_engine().wake(key)


def main() -> None:
    call_command("migrate", verbosity=0)
    base = 0.0
    with messages_kept():
        for length in LENGTHS:
            key = suspended(length)
            times, counts = [], set[int]()
            for number in range(ROUNDS):
                wake(key)
                once = partial(run, key, "default")
                if number % 3 == 2:
                    counts.add(statements(once))
                else:
                    times.append(cpu_seconds(once))
            wake(key)
            tracemalloc.start()
            run(key, "default")
            peak = tracemalloc.get_traced_memory()[1] / 1024
            tracemalloc.stop()
            took = median(times)
            base = base or took
            each = (
                f"{(took - base) / length * 1e6:.1f} µs a replayed call" if length >= 1_000 else ""
            )
            show(
                f"a wake after {length:,} steps",
                f"{took * 1e3:7.2f} ms of CPU, statements {sorted(counts)}, peak {peak:,.0f} KB",
                each,
            )
        key = get_workflow_engine().start(MANY, {"steps": LONG_RUN}).execution_id
        tracemalloc.start()
        took = seconds(partial(run, key, "default"))
        peak = tracemalloc.get_traced_memory()[1] / 1024
        show(f"one run of {LONG_RUN:,} new steps", f"{took:.1f} s, peak {peak:,.0f} KB")


if __name__ == "__main__":
    main()
