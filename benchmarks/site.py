"""A broker and Celery workers for the benchmarks, as processes of their own."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from redis import Redis

from benchmarks.celery import app, say
from general_manager.workflow import dispatch
from tests import servers

CHECKOUT = Path(__file__).parents[1]
FAR_TOO_LONG = 240
PROCESSES = 2


@contextmanager
def broker() -> Iterator[None]:
    """A Redis, which this process and its workers send their messages to."""
    with tempfile.TemporaryDirectory() as folder:
        redis = servers.Redis(Path(folder))
        os.environ["BENCH_BROKER"] = redis.url
        app.conf.update(broker_url=redis.url)
        try:
            yield
        finally:
            redis.stop()


@contextmanager
def worker(*, reuse: int | None) -> Iterator[None]:
    """A worker with two processes; *reuse* is its CELERY_DB_REUSE_MAX."""
    environment = {**os.environ, "BENCH_DB_REUSE_MAX": str(reuse or "")}
    command = [
        sys.executable, "-m", "celery", "-A", "benchmarks.celery", "worker", "-c", str(PROCESSES),
        "-l", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, cwd=CHECKOUT, stdout=log, stderr=log)
        try:
            wait_for_worker()
            yield
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode()[-4000:])
            raise
        finally:
            process.terminate()
            process.wait(timeout=FAR_TOO_LONG)


@contextmanager
def messages_kept() -> Iterator[list[str]]:
    """Nothing is sent; gives the list of the executions that messages would have named."""
    executions: list[str] = []

    def keep(_: Any, task: str, arguments: list[Any]) -> None:
        if task == dispatch.RUN:
            executions.extend(arguments[0])

    with (
        patch.object(dispatch, "_publish", keep),
        patch.object(dispatch, "has_app", lambda *_: True),
    ):
        yield executions


def wait_for_worker() -> None:
    """Until the worker has begun all that was sent so far: a queue is first in, first out."""
    key = uuid4().hex
    say.delay(key)
    with Redis.from_url(os.environ["BENCH_BROKER"]) as redis:
        if redis.blpop([key], timeout=FAR_TOO_LONG) is None:
            raise SystemExit("The worker does not answer")


def until(is_so: Callable[[], bool], *, pause: float) -> None:
    deadline = time.monotonic() + FAR_TOO_LONG
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit("The worker did not do its work: the numbers mean nothing")
        time.sleep(pause)
