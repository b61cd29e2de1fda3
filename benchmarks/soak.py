"""A long run at 70 % of the capacity: what grows, and how long events wait.

The capacity is that of events which are published one by one, as in the run; deleting comes on top.

Run with ``python -m benchmarks.soak``. Redis and PostgreSQL are started from their wheels, and a
worker with two processes. BENCH_SOAK_SECONDS sets the length, by default 20 minutes. Memory and
descriptors are those of the worker's processes together. What was done is pruned after a tenth of
the time, as a project's retention does after days, so tables and indexes should become level too.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command
from django.db import connection, connections

from benchmarks.floor import DELIVERY, EVENT, EXECUTION, OUTBOX
from benchmarks.measuring import show
from benchmarks.overload import (
    latencies,
    measure_capacity,
    publish_each,
    publish_for,
    quantile,
)
from benchmarks.site import broker, worker
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from general_manager.workflow.workers.pruning import prune

SECONDS = float(os.environ.get("BENCH_SOAK_SECONDS", "1200"))
PART = 0.7
SAMPLES = 10
KEPT = timedelta(seconds=SECONDS / SAMPLES)
PRUNED_EVERY = 5
"""Seconds."""


def workers() -> list[int]:
    """The worker's processes, which this process has started."""
    parents = {os.getpid()}
    found: list[int] = []
    while parents:
        children = [pid for pid, parent in _parents() if parent in parents]
        found += [pid for pid in children if "celery" in _read(pid, "cmdline")]
        parents = set(children)
    return found


def _parents() -> list[tuple[int, int]]:
    pids = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]
    stats = [(pid, _read(pid, "stat").rpartition(")")[2].split()) for pid in pids]
    return [(pid, int(stat[1])) for pid, stat in stats if stat]


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:  # it has ended
        return ""


def memory(pids: list[int]) -> float:
    """Resident megabytes."""
    pages = sum(int(_read(pid, "statm").split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors(pids: list[int]) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def sizes() -> dict[str, int]:
    """Bytes of tables and indexes; connections."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(pg_table_size(t::regclass)), sum(pg_indexes_size(t::regclass)) "
            "FROM unnest(%s::text[]) t",
            [[EVENT, OUTBOX, DELIVERY, EXECUTION]],
        )
        tables, indexes = map(int, cursor.fetchone())
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE %s",
                       ["client%"])  # fmt: skip
        return {"tables": tables, "indexes": indexes, "connections": cursor.fetchone()[0]}


def sample(events: int, rate: float, since: float) -> None:
    pids, found = workers(), sizes()
    waited = [took for _, took in latencies(since, time.time())]
    show(
        f"after {events:,} events",
        f"{rate:.0f} events/s; "
        f"{memory(pids):.0f} MB and {descriptors(pids)} descriptors in {len(pids)} processes; "
        f"{found['connections']} connections; tables {found['tables'] / 1e6:.1f} MB, "
        f"indexes {found['indexes'] / 1e6:.1f} MB; "
        f"p50 {quantile(waited, 50) * 1e3:.0f} ms, p99 {quantile(waited, 99) * 1e3:.0f} ms",
    )


@contextmanager
def pruning() -> Iterator[None]:
    """Delete what is older than `KEPT`, again and again, in a process beside this one."""
    connections.close_all()
    child = os.fork()
    if child == 0:
        try:
            while True:
                time.sleep(PRUNED_EVERY)
                for _ in prune(KEPT):
                    pass
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def main() -> None:
    call_command("migrate", verbosity=0)
    with broker(), worker(reuse=1_000):
        measure_capacity()
        rate, events = measure_capacity(publish_each, "one by one") * PART, 0
        show("published", f"{rate:.0f} events/s for {SECONDS:.0f} s")
        with pruning():
            for _ in range(SAMPLES):
                since = time.time()
                published = publish_for(SECONDS / SAMPLES, rate)
                events += published
                sample(events, published / (time.time() - since), since)
        time.sleep(5)
        left = WorkflowOutbox.objects.exclude(status="processed").count()
        left += WorkflowExecutionRecord.objects.exclude(state="completed").count()
        show("not done five seconds later", left, "wanted: 0")


if __name__ == "__main__":
    main()
