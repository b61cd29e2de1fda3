"""Workers and Beat of a site that are killed again and again, wherever they are in their work."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.servers import wait_until
from tests.sites import FAR_TOO_LONG, Process, Site

SETTINGS = "tests.reliability.hurried"
FROZEN_SECONDS = 5
"""Two leases of these settings and more: everybody thinks that the worker is dead."""

CHILD = "child of a worker killed"
GAVE_UP = "worker gave up"


class Chaos:
    """Workers, two by default, and Beat; what dies is started again.

    Disasters are paced by the work: each comes some effects after the one before, so that a slow
    machine sees as many as a fast one.
    """

    def __init__(self, site: Site, *, workers: int = 2) -> None:
        self.happened: Counter[str] = Counter()
        self._site = site
        self._workers = [self._new_worker() for _ in range(workers)]
        self._beat = site.beat()

    def rage(
        self,
        *,
        children: int = 40,
        workers: int = 10,
        beats: int = 3,
        freezes: int = 2,
        patience: float = FAR_TOO_LONG,
    ) -> None:
        """So many disasters of each kind, in random order.

        Raises `TimeoutError` if the work stands still so many seconds.
        """
        disasters = [
            *[self._kill_a_child] * children,
            *[self._kill_a_worker] * workers,
            *[self._kill_beat] * beats,
            *[self._freeze_a_worker] * freezes,
        ]
        random.shuffle(disasters)
        try:
            for disaster in disasters:
                self._wait_for_effects(random.randint(5, 20), patience)
                disaster()
        finally:
            self._workers.append(self._new_worker())  # for the rest, whatever the others do

    def outside(self) -> list[str]:
        """The effects outside, each as often as it happened."""
        world = self._site.folder / "marks" / "outside"
        return world.read_text().splitlines() if world.exists() else []

    def end(self) -> None:
        """Let everybody finish: nothing happens after this."""
        for process in (*self._workers, self._beat):
            self._site.end(process)

    def _wait_for_effects(self, more: int, patience: float) -> None:
        goal = len(self.outside()) + more

        def is_reached() -> bool:
            self._supervise()
            return len(self.outside()) >= goal

        wait_until(is_reached, "more effects", seconds=patience)

    def _supervise(self) -> None:
        """A worker that loses a child while it starts gives up: that is Celery's way."""
        for worker in self._workers:
            if worker.poll() is not None:
                self.happened[GAVE_UP] += 1
                self._replace(worker)
        assert self.happened[GAVE_UP] <= self.happened[CHILD], self._site.logs()

    def _kill_a_child(self) -> None:
        while True:
            self._supervise()
            children = [pid for worker in self._workers for pid in _children_of(worker)]
            if children:
                with suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(random.choice(children), signal.SIGKILL)
                    self.happened[CHILD] += 1
                    return
            time.sleep(0.05)

    def _kill_a_worker(self) -> None:
        worker = random.choice(self._workers)
        self._site.kill(worker)
        self._replace(worker)
        self.happened["worker killed"] += 1

    def _replace(self, worker: Process) -> None:
        self._workers[self._workers.index(worker)] = self._new_worker()

    def _new_worker(self) -> Process:
        queue = self._site.broker.queue
        return self._site.worker("-Q", f"{queue},{queue}_ticks")

    def _kill_beat(self) -> None:
        self._site.kill(self._beat)
        self._beat = self._site.beat()
        self.happened["Beat killed"] += 1

    def _freeze_a_worker(self) -> None:
        worker = random.choice(self._workers)
        self._site.freeze(worker)
        time.sleep(FROZEN_SECONDS)
        self._site.thaw(worker)
        self.happened["worker frozen past its leases"] += 1


def _children_of(process: Process) -> Iterator[int]:
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, _, rest = file.read_text().partition(" ")
            state, parent = rest.rpartition(")")[2].split()[:2]
            if int(parent) == process.pid and state != "Z":
                yield int(pid)
