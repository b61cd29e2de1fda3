"""Deliveries in order beside deliveries without an order, and claims beside blocked lanes.

Run with ``tox run -e bench`` or ``python -m benchmarks.ordering``. One process, no broker.
"""

import os
from functools import partial

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command
from django.db import connection, transaction

from benchmarks.floor import DELIVERY, EVENT, OUTBOX
from benchmarks.handlers import see
from benchmarks.measuring import rate, seconds, show_pairs, show_times
from benchmarks.site import messages_kept
from general_manager.workflow import WorkflowEvent, get_event_registry
from general_manager.workflow.models.sql.due import ANY_AGE
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.outbox.order import deliver_lanes

KEYS, EVENTS, ROUNDS = 1_000, 2_000, 5
ITEMS, CLAIMS = 1_000_000, 50
LANE = "general_manager_workflowlane"

FILL = f"""WITH events AS (
    INSERT INTO {EVENT} (event_id, event_type, event_name, payload, metadata, ordering_key)
    SELECT 'blocked ' || n, 'shop.order.changed', 'ordered', '{{}}', '{{}}', n %% %(keys)s
    FROM generate_series(1, %(items)s) n RETURNING id, ordering_key), entries AS (
    INSERT INTO {OUTBOX} (event_id, expected_registrations, status, available_at, settled_at)
    SELECT id, '["ordered"]', 'processed', NULL, now() FROM events RETURNING id, event_id)
    INSERT INTO {DELIVERY} (outbox_id, registration_id, status, lane, in_lane)
    SELECT entries.id, 'ordered', 'queued', md5(ordering_key), true
    FROM entries JOIN events ON events.id = entries.event_id"""
BLOCK = f"""INSERT INTO {LANE} (lane, registration_id, ordering_key, available_at, blocked_since)
    SELECT md5(n::text), 'ordered', n, NULL, now() FROM generate_series(0, %s) n"""


def publish(name: str, number: int, *, key: bool) -> None:
    registry = get_event_registry()
    with transaction.atomic():
        registry.publish(
            WorkflowEvent(
                f"{name} {number}",
                "shop.order.changed",
                {"id": number},
                name,
                ordering_key=f"order:{number % KEYS}" if key else None,
            )
        )


def publish_and_deliver(name: str, start: int, *, key: bool) -> None:
    for number in range(start, start + EVENTS):
        publish(name, number, key=key)
    drain("default")


def deliver(name: str, start: int, *, key: bool) -> float:
    """How many events a second are delivered, after they were published."""
    for number in range(start, start + EVENTS):
        publish(name, number, key=key)
    return rate(EVENTS, partial(drain, "default"))


def compare() -> None:
    both, alone = [], []
    for number in range(ROUNDS):
        start = number * EVENTS
        work = [partial(publish_and_deliver, one, start, key=key) for one, key in WAYS]
        both.append((rate(EVENTS, work[0]), rate(EVENTS, work[1])))
        first, second = (deliver(one, (ROUNDS + number) * EVENTS, key=key) for one, key in WAYS)
        alone.append((first, second))
    show_pairs(f"published and delivered, {KEYS:,} keys", both, "unordered")
    show_pairs(f"delivered, {KEYS:,} keys", alone, "unordered")


WAYS = (("ordered", True), ("plain", False))


def beside_blocked_lanes() -> None:
    with connection.cursor() as cursor:
        cursor.execute(FILL, {"keys": KEYS, "items": ITEMS})
        cursor.execute(BLOCK, [KEYS - 1])
        cursor.execute("ANALYZE")
    idle = [seconds(partial(deliver_lanes, "default", ANY_AGE, 50)) for _ in range(CLAIMS)]
    show_times(f"idle look beside {ITEMS:,} blocked events", idle, "2 ms")
    times = []
    for number in range(CLAIMS):
        publish("ordered", 100_000_000 + number, key=True)
        drain("default")
        publish("ordered", 200_000_000 + number, key=True)
        times.append(seconds(partial(drain, "default")))
    show_times("one event in order beside them", times, "20 ms")


def main() -> None:
    call_command("migrate", verbosity=0)
    registry = get_event_registry()
    registry.register("ordered", handler=see, in_order=True, registration_id="ordered")
    registry.register("plain", handler=see, registration_id="plain")
    with messages_kept():
        compare()
        beside_blocked_lanes()


if __name__ == "__main__":
    main()
