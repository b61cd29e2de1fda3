"""A parent that starts many children and joins them: how long, in how much memory.

Beside a worker stands a Celery chord over the same Redis, which keeps nothing in a database; beside
one process Absurd and DBOS on the same PostgreSQL.

Run with ``tox run -e bench`` or ``python -m benchmarks.children``; CHILDREN for another number.
"""

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from celery import chord
from django.core.management import call_command
from django.db import connection
from redis import Redis

from benchmarks.celery import app, join, leaf
from benchmarks.handlers import FAN_OUT
from benchmarks.measuring import seconds, show
from benchmarks.rivals import AbsurdQueue, Dbos
from benchmarks.settings import POSTGRES
from benchmarks.site import broker, messages_kept, until, worker
from general_manager.workflow import get_workflow_engine
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowHistory
from general_manager.workflow.workers.work import empty

BESIDE = 1_000
CHILDREN = int(os.environ.get("CHILDREN", "10000"))
ROUNDS = 3

executions = WorkflowExecutionRecord.objects


def start(count: int) -> str:
    return get_workflow_engine().start(FAN_OUT, {"children": count}).execution_id


def run_ours(count: int) -> None:
    mine = executions.filter(execution_id=start(count), state="completed")
    until(mine.exists, pause=0.02)


def run_chord(count: int) -> None:
    key = uuid4().hex
    chord([leaf.s() for _ in range(count)], join.s(key)).delay()
    with Redis.from_url(os.environ["BENCH_BROKER"], socket_timeout=250) as redis:
        if redis.blpop([key], timeout=240) is None:
            raise SystemExit("The chord did not end: the numbers mean nothing")


def run_in_one_process(count: int) -> None:
    key = start(count)
    empty("default")
    if not executions.filter(execution_id=key, state="completed").exists():
        raise SystemExit("The parent did not end: the numbers mean nothing")


@contextmanager
def transactions() -> Iterator[list[float]]:
    """Seconds of each transaction of this process."""
    took: list[float] = []
    began = 0.0
    set_autocommit: Callable[..., Any] = connection.set_autocommit

    def note(is_on: Any, *arguments: Any, **options: Any) -> None:
        nonlocal began
        if not is_on:
            began = time.perf_counter()
        set_autocommit(is_on, *arguments, **options)
        if is_on:
            took.append(time.perf_counter() - began)

    with patch.object(connection, "set_autocommit", note):
        yield took


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    call_command("migrate", verbosity=0)
    with broker():
        app.conf.update(result_backend=os.environ["BENCH_BROKER"])
        with worker(reuse=1_000):
            run_ours(10)
            run_chord(10)
            for _ in range(ROUNDS):
                ours = seconds(lambda: run_ours(BESIDE))
                theirs = seconds(lambda: run_chord(BESIDE))
                show(f"{BESIDE} children, and a chord", f"{ours:.2f} s, {theirs:.2f} s")
    absurd, dbos = AbsurdQueue(POSTGRES), Dbos(POSTGRES)
    with messages_kept(), dbos:
        for warm_up in (run_in_one_process, absurd.fan_out, dbos.fan_out):
            warm_up(10)
        for _ in range(ROUNDS):
            times = [
                seconds(partial(fan_out, BESIDE))
                for fan_out in (run_in_one_process, absurd.fan_out, dbos.fan_out)
            ]
            show(
                f"{BESIDE} children in one process",
                "ours {:.2f} s, absurd {:.2f} s, dbos {:.2f} s".format(*times),
            )
    absurd.close()
    with messages_kept():
        before, key = megabytes(), start(CHILDREN)
        with transactions() as took:
            done = seconds(lambda: empty("default"))
        mine = executions.filter(execution_id=key).get()
        joined = WorkflowHistory.objects.filter(execution=mine, kind="children_ended").count()
        show(f"{CHILDREN} children in one process", f"{done:.1f} s, {mine.state}")
        show("how often the parent was woken", joined)
        show("runs of the parent", mine.runs)
        show("longest transaction", f"{max(took) * 1e3:.0f} ms of {len(took)}")
        show("memory, before and at most", f"{before:.0f} MB, {megabytes():.0f} MB")


if __name__ == "__main__":
    main()
