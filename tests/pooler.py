"""A pooler in transaction mode, as PgBouncer is: each transaction has another server connection.

It speaks the protocol of PostgreSQL, version 3, with clients that do not ask for encryption or a
password, and passes no prepared statements from one server connection to the next.
"""

import socket
import struct
from contextlib import suppress
from itertools import cycle
from threading import Thread
from typing import Final

SERVERS: Final = 2
"""Server connections for each client, which take turns."""

_ENCRYPTION: Final = {80877103, 80877104}  # by SSL, by GSSAPI
_CANCEL: Final = 80877102
_NUMBER: Final = 4242424
"""The process that clients are told they talk to."""


class Pooler:
    """Listens on a port of its own for clients of the server with the socket *server*."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        servers: list[_Session] = []
        with client, suppress(OSError, EOFError):
            startup = _startup(client)
            if startup is None:
                return
            servers += [_Session(self._server, startup) for _ in range(SERVERS)]
            client.sendall(servers[0].greeting)
            turns = cycle(servers)
            server = next(turns)
            while True:
                kind, message = _message(client)
                if kind == b"X":
                    break
                server.socket.sendall(message)
                if kind in b"QS" and server.answer(client) == b"I":  # no transaction is open
                    server = next(turns)
        for one in servers:
            one.socket.close()


class _Session:
    """One connection to the server."""

    def __init__(self, server: str, startup: bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(server)
        self.socket.sendall(startup)
        self.greeting = b""
        """What a client is told when it connects."""
        kind = b""
        while kind != b"Z":
            kind, message = _message(self.socket)
            if kind == b"K":
                message = b"K" + struct.pack("!iii", 12, _NUMBER, 1)
            self.greeting += message

    def answer(self, client: socket.socket) -> bytes:
        """Hand on what the server says until it is ready; returns what it is ready in."""
        answer = kind = b""
        while kind != b"Z":
            kind, message = _message(self.socket)
            answer += message
        client.sendall(answer)
        return answer[-1:]


def _startup(client: socket.socket) -> bytes | None:
    while True:
        head = _exactly(client, 8)
        length, code = struct.unpack("!ii", head)
        if code in _ENCRYPTION:
            client.sendall(b"N")
        elif code == _CANCEL:
            return None
        else:
            return head + _exactly(client, length - 8)


def _message(end: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(end, 5)
    [length] = struct.unpack("!i", head[1:])
    return head[:1], head + _exactly(end, length - 4)


def _exactly(end: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = end.recv(size - len(found))
        if not more:
            raise EOFError
        found += more
    return found
