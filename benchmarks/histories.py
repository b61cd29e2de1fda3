"""What a long history costs: a wake of an execution with many recorded steps.

Run with ``python -m benchmarks.histories``. Each wake loads the steps, calls the handler from the
top, replays each step and suspends in another wait. Beside it, in the same run, Absurd is woken in
the same way, by an event. DBOS keeps a workflow that waits in memory, so of it stands what a
recovered workflow spends on the steps that it has recorded, without the time to load it.
"""

import os
import tracemalloc
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter, process_time

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command

from benchmarks.handlers import LONG, MANY, RESULT
from benchmarks.measuring import seconds, show, statements
from benchmarks.rivals import AbsurdQueue, Dbos
from benchmarks.settings import POSTGRES
from benchmarks.site import messages_kept
from general_manager.workflow import get_workflow_engine
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep

LENGTHS = (0, 10, 100, 1_000, 5_000)
BESIDE = (10, 100, 1_000, 5_000)
LONG_RUN = 10_000
ROUNDS = 9
RECOVERIES = 3


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


def wake_and_run(key: str) -> None:
    wake(key)
    run(key, "default")


class Times:
    """Of the wakes of one: seconds, and seconds of this process's CPU."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._times: list[tuple[float, float]] = []
        wake()

    def add(self) -> None:
        began, cpu = perf_counter(), process_time()
        self._wake()
        self._times.append((perf_counter() - began, process_time() - cpu))

    def __str__(self) -> str:
        took, cpu = (median(values) * 1e3 for values in zip(*self._times, strict=True))
        return f"{took:7.1f} ms ({cpu:6.1f} of CPU)"


def measure_beside() -> None:
    absurd, dbos = AbsurdQueue(POSTGRES), Dbos(POSTGRES)
    with messages_kept():
        for length in BESIDE:
            ours = Times(partial(wake_and_run, suspended(length)))
            theirs = Times(absurd.waiting(length))
            for _ in range(ROUNDS):
                ours.add()
                theirs.add()
            with dbos:
                replayed = median(dbos.replay(length) for _ in range(RECOVERIES)) * 1e3
            show(
                f"a wake after {length:,} steps",
                f"ours {ours}, absurd {theirs}, dbos replays in {replayed:.1f} ms",
            )
    absurd.close()


def measure_ours() -> None:
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
        tracemalloc.stop()
        show(f"one run of {LONG_RUN:,} new steps", f"{took:.1f} s, peak {peak:,.0f} KB")


def main() -> None:
    call_command("migrate", verbosity=0)
    measure_ours()
    measure_beside()


if __name__ == "__main__":
    main()
