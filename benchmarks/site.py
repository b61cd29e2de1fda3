"""A broker and Celery workers for the benchmarks, as processes of their own."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

from redis import Redis

from benchmarks.celery import app, say
from general_manager.workflow.transport import broker as transport
from general_manager.workflow.workers import work
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
def messages_kept() -> Iterator[None]:
    """Nothing is sent, so a worker goes on until all is done, however long it takes."""
    with (
        patch.object(transport, "_publish", lambda *_: None),
        patch.object(transport, "has_app", lambda *_: True),
        patch.object(work, "SLICE_SECONDS", FAR_TOO_LONG),
        patch.object(work, "SLOW_SECONDS", FAR_TOO_LONG),
    ):
        yield


def wait_for_worker() -> None:
    """Until the worker has begun all that was sent so far: a queue is first in, first out."""
    key = uuid4().hex
    say.delay(key)
    patient = FAR_TOO_LONG + 10  # the client's own limit is shorter than a worker's start
    with Redis.from_url(os.environ["BENCH_BROKER"], socket_timeout=patient) as redis:
        if redis.blpop([key], timeout=FAR_TOO_LONG) is None:
            raise SystemExit("The worker does not answer")


def until(is_so: Callable[[], bool], *, pause: float) -> None:
    deadline = time.monotonic() + FAR_TOO_LONG
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit("The worker did not do its work: the numbers mean nothing")
        time.sleep(pause)
