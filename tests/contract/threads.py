"""A transport that is not Celery's: messages in a queue of this process, and threads that empty it.

All of it is here: what carries messages to those that work is one class.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Condition, local
from typing import Any

from django.db import connections
from django.utils.module_loading import import_string

from general_manager.workflow.transport import configure_transport, nudges
from general_manager.workflow.transport.base import Transport


class ThreadTransport(Transport):
    """Keeps messages until `work` is called: so a test knows when they are."""

    def __init__(self, threads: int = 2) -> None:
        self._messages: SimpleQueue[tuple[str, list[Any]]] = SimpleQueue()
        self._threads = threads
        self.received: list[str] = []
        self._depth = 0
        self._change = Condition()
        self._under_way = 0
        self._mine = local()

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """May be entered again by who is inside."""
        self._depth += 1
        configure_transport(self)
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                configure_transport(None)

    def send(self, task: str, arguments: list[Any], *, queue: str = "") -> bool:
        self._messages.put((task, arguments))
        return True

    def work(self) -> bool:
        """Do in threads what the messages ask for, and what that leads to; false without any.

        What another thread has begun is waited for: a handler may call this inside its own run.
        """
        nudges.send_late_ones()
        had_work = False
        while self._is_anything_left():
            had_work = True
            with ThreadPoolExecutor(self._threads) as pool:
                for done in [pool.submit(self._empty) for _ in range(self._threads)]:
                    done.result()
        return had_work

    def _is_anything_left(self) -> bool:
        own = getattr(self._mine, "under_way", 0)
        with self._change:
            self._change.wait_for(lambda: self._under_way <= own, timeout=10)
            return not self._messages.empty()

    def _empty(self) -> None:
        try:
            while True:
                with self._change:
                    task, arguments = self._messages.get_nowait()
                    self._count(1)
                try:
                    self.received.append(task)
                    import_string(task)(*arguments)
                finally:
                    with self._change:
                        self._count(-1)
        except Empty:
            pass
        finally:
            connections.close_all()

    def _count(self, number: int) -> None:
        self._under_way += number
        self._mine.under_way = getattr(self._mine, "under_way", 0) + number
        self._change.notify_all()
