"""A way to a server that can be cut, stalled or left half open at any request of its clients.

A request is what a client sends at once: a statement, a BEGIN or COMMIT, a command to a broker.
"""

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Final

BEFORE: Final = "before"
"""Cut before the server has heard the request."""
AFTER: Final = "after"
"""Cut when the server has done what was asked, before the client hears of it."""
STALLED: Final = "stalled"
"""The request arrives, much later."""
HALF_OPEN: Final = "half open"
"""The request is acknowledged and lost; much later the connection breaks."""

FAULTS: Final = (BEFORE, AFTER, STALLED, HALF_OPEN)

Choice = Callable[[], str | None]
"""Asked with each request: which of `FAULTS` happens to it, if any."""


class Proxy:
    """Hands on what it hears between a port of its own and *server*, a path or host and port."""

    def __init__(self, server: str | tuple[str, int], *, pause: float = 0.2) -> None:
        self.pause = pause
        """How long what stalls takes, in seconds."""
        self.happened: list[str] = []
        self._server = server
        self._choose: Choice = _nothing
        self._lock = Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        Thread(target=self._accept, daemon=True).start()

    def fail(self, choose: Choice | None) -> None:
        """From now on *choose* decides what happens to each request; `None`: nothing does."""
        with self._lock:
            self._choose = choose or _nothing

    def fail_once(self, fault: str, at: int) -> None:
        """Have *fault* happen to request number *at* from now, counted from 0."""
        left = at

        def choose() -> str | None:
            nonlocal left
            left -= 1
            return fault if left == -1 else None

        self.happened.clear()
        self.fail(choose)

    def cut_all(self) -> None:
        """Break every connection, as a firewall or a restart does to those that are idle."""
        with self._lock:
            ends = list(self._open)
        for end in ends:
            _break(end)

    def close(self) -> None:
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    server = self._connect()
                except OSError:
                    _break(client)
                    continue
                _Link(self, client, server)

    def _connect(self) -> socket.socket:
        if isinstance(self._server, tuple):
            server = socket.create_connection(self._server)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return server
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server)
        return server

    def choose(self) -> str | None:
        with self._lock:
            fault = self._choose()
            if fault is not None:
                self.happened.append(fault)
            return fault

    def keep(self, *ends: socket.socket) -> None:
        with self._lock:
            self._open.update(ends)

    def forget(self, *ends: socket.socket) -> None:
        with self._lock:
            self._open.difference_update(ends)


class _Link:
    """One client's connection, and ours to the server for it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._must_not_answer = Event()
        proxy.keep(client, server)
        for work in (self._ask, self._answer):
            Thread(target=work, daemon=True).start()

    def _ask(self) -> None:
        with suppress(OSError):
            while request := self._client.recv(1 << 20):
                fault = self._proxy.choose()
                if fault in (STALLED, HALF_OPEN):
                    Event().wait(self._proxy.pause)
                if fault in (BEFORE, HALF_OPEN):
                    break
                if fault == AFTER:
                    self._must_not_answer.set()
                self._server.sendall(request)
        if not self._must_not_answer.is_set():
            self._break()

    def _answer(self) -> None:
        with suppress(OSError):
            while answer := self._server.recv(1 << 20):
                if self._must_not_answer.is_set():
                    break
                self._client.sendall(answer)
        self._break()

    def _break(self) -> None:
        self._proxy.forget(self._client, self._server)
        _break(self._client)
        _break(self._server)


def _nothing() -> None:
    return None


def _break(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
    end.close()
