"""A worker and Beat for the demo, each a process of its own, as in production."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

WORKER = (
    "worker", "-P", "threads", "-c", "4", "-l", "INFO",
    "--without-gossip", "--without-mingle", "--without-heartbeat",
)  # fmt: skip


@contextmanager
def worker_and_beat(say: Callable[[str], object]) -> Iterator[None]:
    """Both run until the block ends; what they say goes into var/."""
    beat = ("beat", "--pidfile=", "-s", str(settings.VAR_DIR / "beat-schedule"))
    processes = [_start(say, "worker", WORKER), _start(say, "beat", beat)]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        say("The worker and Beat have stopped.")


def _start(
    say: Callable[[str], object], name: str, arguments: tuple[str, ...]
) -> "subprocess.Popen[bytes]":
    with Path(settings.VAR_DIR / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "company", *arguments],
            cwd=settings.BASE_DIR,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    say(f"Started {name}, process {process.pid}; it writes to var/{name}.log")
    return process
