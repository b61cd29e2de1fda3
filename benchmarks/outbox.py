"""Publishing, delivering and running on PostgreSQL, beside the floor, in one run.

Run with ``tox run -e bench`` or ``python -m benchmarks.outbox``. One process, no broker; one
handler does nothing, the other starts a workflow with a correlation id. Absolute rates are this
machine's at this moment: compare the ratios. With ``--prepared``, Django prepares statements as
psycopg does by default, and the floor with it. All is measured twice: with commits as fast as this
machine's disk, and with commits that wait for another millisecond, as many disks let them.
"""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
if "--prepared" in sys.argv:
    os.environ["BENCH_PREPARED"] = "1"
django.setup()

from django.core.management import call_command
from django.db import connection, transaction
from django.test import override_settings

from benchmarks.floor import Floor
from benchmarks.measuring import Pairs, rate, show, show_pairs, statements
from benchmarks.settings import POSTGRES
from benchmarks.site import messages_kept
from general_manager.workflow import WorkflowEvent, get_event_registry
from general_manager.workflow.event_registry import DatabaseEventRegistry
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.workers.work import empty

EVENTS = 500
ROUNDS = 7
UNWAITED = {"WORKFLOW_MODE": "production", "WORKFLOW_SYNCHRONOUS_COMMIT": False}
PAYLOAD: dict[str, Any] = {"manager": "Project", "identification": {"id": 42}}


class Ours:
    """Our own path."""

    def __init__(self) -> None:
        registry = get_event_registry()
        assert isinstance(registry, DatabaseEventRegistry)
        self._registry = registry

    def publish(self, event_id: str, payload: dict[str, Any], *, name: str = "order_paid") -> None:
        with transaction.atomic():
            self._registry.publish(event_of(event_id, payload, name))

    def publish_many(self, ids: list[str], *, name: str = "order_paid") -> None:
        with transaction.atomic():
            self._registry.publish_many(event_of(one, PAYLOAD, name) for one in ids)

    def deliver(self) -> None:
        drain("default")

    def deliver_and_run(self) -> None:
        empty("default")


def event_of(event_id: str, payload: dict[str, Any], name: str) -> WorkflowEvent:
    return WorkflowEvent(event_id, "shop.order.paid", payload, event_name=name)


def new_ids(numbers: Iterator[int]) -> list[str]:
    return [f"e{next(numbers)}" for _ in range(EVENTS)]


def each(publish: Callable[[str, dict[str, Any]], None], ids: list[str]) -> None:
    for event_id in ids:
        publish(event_id, PAYLOAD)


class Measured:
    """One list of pairs a question, filled round by round."""

    def __init__(self) -> None:
        self.publish: list[tuple[float, float]] = []
        self.run: list[tuple[float, float]] = []
        self.deliver: list[tuple[float, float]] = []
        self.many: list[tuple[float, float]] = []
        self.grouped: list[tuple[float, float]] = []
        self.unwaited: list[tuple[float, float]] = []
        self.both: list[tuple[float, float]] = []
        self.seen_grouped: list[tuple[float, float]] = []
        self.run_grouped: list[tuple[float, float]] = []

    def add_round(self, floor: Floor, ours: Ours, numbers: Iterator[int]) -> None:
        theirs = rate(EVENTS, partial(each, floor.publish, new_ids(numbers)))
        theirs_run = rate(EVENTS, lambda: floor.deliver_and_run(50))
        mine = rate(EVENTS, partial(each, ours.publish, new_ids(numbers)))
        mine_run = rate(EVENTS, ours.deliver_and_run)
        many = rate(EVENTS, partial(ours.publish_many, new_ids(numbers)))
        ours.deliver_and_run()
        each(floor.publish, new_ids(numbers))
        theirs_seen = rate(EVENTS, lambda: floor.deliver(50))
        ours.publish_many(new_ids(numbers), name="order_seen")
        mine_seen = rate(EVENTS, ours.deliver)
        self.publish.append((mine, theirs))
        self.run.append((mine_run, theirs_run))
        self.deliver.append((mine_seen, theirs_seen))
        self.many.append((many, mine))
        ours.publish_many(new_ids(numbers), name="order_seen_grouped")
        self.seen_grouped.append((rate(EVENTS, ours.deliver), theirs_seen))
        ours.publish_many(new_ids(numbers), name="order_paid_grouped")
        self.run_grouped.append((rate(EVENTS, ours.deliver_and_run), theirs_run))
        alone = self._written(ours, numbers, "order_written")
        self.grouped.append((self._written(ours, numbers, "order_grouped"), alone))
        with override_settings(GENERAL_MANAGER=UNWAITED):
            self.unwaited.append((self._written(ours, numbers, "order_written"), alone))
            self.both.append((self._written(ours, numbers, "order_grouped"), alone))

    @staticmethod
    def _written(ours: Ours, numbers: Iterator[int], name: str) -> float:
        """Deliveries a second to a handler that inserts a row."""
        ours.publish_many(new_ids(numbers), name=name)
        return rate(EVENTS, ours.deliver)


def main() -> None:
    call_command("migrate", verbosity=0)
    floor, numbers = Floor(POSTGRES), iter(range(10**9))
    with messages_kept():
        for microseconds in (0, 1000):
            delay = f"SET commit_siblings = 0; SET commit_delay = {microseconds}"
            floor.execute(delay)
            with connection.cursor() as cursor:
                cursor.execute(delay)
            show("each commit waits longer by", f"{microseconds / 1000:.0f} ms")
            measure(floor, Ours(), numbers)
    floor.close()


def measure(floor: Floor, ours: Ours, numbers: Iterator[int]) -> None:
    measured = Measured()
    for _ in range(ROUNDS):
        measured.add_round(floor, ours, numbers)
    require_all_done()
    show_all(measured)
    ours.publish_many([f"e{next(numbers)}" for _ in range(50)], name="order_seen")
    show("data statements a delivery, chunk of 50", statements(ours.deliver) / 50)
    ours.publish_many([f"e{next(numbers)}" for _ in range(50)])
    show("data statements an event, run included", statements(ours.deliver_and_run) / 50)


def require_all_done() -> None:
    left = WorkflowExecutionRecord.objects.exclude(state="completed").count()
    left += WorkflowOutbox.objects.exclude(status="processed").count()
    if left:
        raise SystemExit(f"{left} rows are not where they belong: the rates mean nothing")


def show_all(measured: Measured) -> None:
    questions: tuple[tuple[str, Pairs, str], ...] = (
        ("publish", measured.publish, "the floor"),
        ("claim to settled, a no-op handler", measured.deliver, "the floor"),
        ("claim to completed execution", measured.run, "the floor"),
        ("a no-op handler, grouped", measured.seen_grouped, "the floor"),
        ("to completed execution, grouped", measured.run_grouped, "the floor"),
        ("publish_many", measured.many, "one by one"),
        ("one row a delivery: grouped", measured.grouped, "alone"),
        ("one row a delivery: unwaited", measured.unwaited, "alone"),
        ("one row a delivery: grouped and unwaited", measured.both, "alone"),
    )
    for question in questions:
        show_pairs(*question)


if __name__ == "__main__":
    main()
