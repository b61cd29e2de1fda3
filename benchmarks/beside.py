"""Drains beside one another over one backlog, with a handler that waits for 5 ms.

Run with ``tox run -e bench`` or ``python -m benchmarks.beside``. Each drain is a process. Such
handlers leave the processors idle, so eight drains should do more than two; no event may be
delivered twice. BENCH_BESIDE_EVENTS sets the backlog.
"""

import os
from time import perf_counter

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command
from django.db import connections

from benchmarks.measuring import show
from benchmarks.outbox import Ours
from benchmarks.site import messages_kept
from general_manager.workflow.models import WorkflowDeliveryAttempt, WorkflowOutbox
from general_manager.workflow.outbox.drain import drain

EVENTS = int(os.environ.get("BENCH_BESIDE_EVENTS", "4000"))
HANDLER_SECONDS = 0.005


def in_processes(count: int) -> float:
    """Seconds until *count* drains have emptied the outbox."""
    connections.close_all()
    began = perf_counter()
    children = [_start() for _ in range(count)]
    for child in children:
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit("A drain has failed: the rates mean nothing")
    return perf_counter() - began


def _start() -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        drain("default")
        status = 0
    finally:
        os._exit(status)


def measure(ours: Ours, processes: int) -> float:
    ids = [f"{processes} drains {number}" for number in range(EVENTS)]
    ours.publish_many(ids, name="order_slow")
    rate = EVENTS / in_processes(processes)
    left = WorkflowOutbox.objects.exclude(status="processed").count()
    delivered = WorkflowDeliveryAttempt.objects.filter(outbox__event__event_id__in=ids)
    if left or delivered.count() != EVENTS:
        raise SystemExit("Not every event was delivered once: the rates mean nothing")
    bound = processes / HANDLER_SECONDS
    show(f"{processes} drains", f"{rate:.0f}/s, {rate / bound:.2f} of what the handlers allow")
    return rate


def main() -> None:
    call_command("migrate", verbosity=0)
    ours = Ours()
    with messages_kept():
        rates = {count: measure(ours, count) for count in (1, 2, 4, 8)}
    show("eight drains beside two", f"{rates[8] / rates[2]:.2f} times as fast")


if __name__ == "__main__":
    main()
