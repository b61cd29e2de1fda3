"""What an event costs in processor time, here and in the server: how many a core can do.

Run with ``tox run -e bench`` or ``python -m benchmarks.costs``. Processor time hardly depends on
what else the machine does, so it says more about sizes than rates on a machine that is shared. One
process, no broker: Celery's and Redis's share comes on top, a message for many events under load.
"""

import os
from collections.abc import Callable
from functools import partial
from statistics import median
from time import process_time

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command
from django.test import override_settings

from benchmarks.held_snapshot import server_seconds
from benchmarks.measuring import show
from benchmarks.outbox import UNWAITED, Ours, each
from benchmarks.site import messages_kept

EVENTS = int(os.environ.get("BENCH_COSTS_EVENTS", "500"))
ROUNDS = 3


def cost(work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds an event: this process, and the server's for it."""
    client, server = process_time(), server_seconds()
    work()
    return (
        (process_time() - client) / EVENTS * 1e3,
        (server_seconds() - server) / EVENTS * 1e3,
    )


def measure(ours: Ours) -> None:
    costs: dict[str, list[tuple[float, float]]] = {}

    def add(what: str, work: Callable[[], object]) -> None:
        costs.setdefault(what, []).append(cost(work))

    for turn in range(ROUNDS):
        ids = [f"cost {turn} {number}" for number in range(EVENTS)]
        add("publish, one by one", partial(each, ours.publish, ids))
        add("claim to completed execution", ours.deliver_and_run)
        for name, what in (
            ("order_seen", "claim to settled, a no-op handler"),
            ("order_written", "the same, one row a delivery"),
            ("order_grouped", "the same, grouped"),
        ):
            many = [f"{name} {one}" for one in ids]
            add("publish_many", partial(ours.publish_many, many, name=name))
            add(what, ours.deliver)
    for what, found in costs.items():
        client, server = (median(values) for values in zip(*found, strict=True))
        show(what, f"{client:.2f} ms and {server:.2f} ms: {1e3 / (client + server):.0f} a core")


def main() -> None:
    call_command("migrate", verbosity=0)
    with messages_kept(), override_settings(GENERAL_MANAGER=UNWAITED):
        measure(Ours())


if __name__ == "__main__":
    main()
