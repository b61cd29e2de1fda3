"""A web server, a worker and Beat for the demo, each in its own process, as in production."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from django.conf import settings
from django.core.management.base import CommandError

Say = Callable[[str], object]
Process = subprocess.Popen[bytes]

WORKER = (
    "celery", "-A", "company", "worker", "-P", "threads", "-c", "4", "-l", "INFO",
    "--without-gossip", "--without-mingle", "--without-heartbeat",
)  # fmt: skip
BEAT = ("celery", "-A", "company", "beat", "--pidfile=", "-s")
WEB = ("django", "runserver", "--noreload")
LONGEST_START = 60
"""Seconds."""


@contextmanager
def web_worker_and_beat(port: int, say: Say) -> Iterator[Process]:
    """Run all three until the block ends; they log to var/. Yields the web server's process."""
    started: list[Process] = []
    try:
        web = _start(say, started, "web", (*WEB, f"127.0.0.1:{port}"))
        _start(say, started, "worker", WORKER)
        _start(say, started, "beat", (*BEAT, str(settings.VAR_DIR / "beat-schedule")))
        _wait_until_it_serves(web, port)
        yield web
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        say("The web server, the worker and Beat have stopped.")


def shown(path: Path) -> str:
    """*path* relative to the working directory."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _start(say: Say, started: list[Process], name: str, module: tuple[str, ...]) -> Process:
    path = Path(settings.VAR_DIR / f"{name}.log")
    with path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=settings.BASE_DIR,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    started.append(process)
    say(f"Started {name}, process {process.pid}; it writes to {shown(path)}")
    return process


def _wait_until_it_serves(web: Process, port: int) -> None:
    opener = build_opener(ProxyHandler({}))  # a local address needs no proxy
    deadline = monotonic() + LONGEST_START
    while True:
        try:
            opener.open(f"http://127.0.0.1:{port}/", timeout=LONGEST_START).close()
        except URLError:
            if web.poll() is not None or monotonic() > deadline:
                log = shown(Path(settings.VAR_DIR / "web.log"))
                raise CommandError(f"The web server did not start. Check {log}") from None
            sleep(0.1)
        else:
            return
