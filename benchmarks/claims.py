"""Claims, idle drains and sweeps on full tables: they should not feel how full the tables are.

Run with ``tox run -e bench`` or ``python -m benchmarks.claims``.
"""

import os
from datetime import timedelta

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command
from django.db import connection

from benchmarks.floor import EVENT, EXECUTION, OUTBOX
from benchmarks.measuring import seconds, show, show_times, statements
from general_manager.workflow.models import Claim, WorkflowExecutionRecord, WorkflowOutbox
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.workers.tick import sweep

DUE, DELAYED, SETTLED = 200_000, 200_000, 1_000_000
WAITING = 5_000
CLAIMS = 200
LEASE = timedelta(minutes=5)
STEP = "general_manager_workflowstep"

FILL = f"""WITH events AS (
    INSERT INTO {EVENT} (event_id, event_type, event_name, payload, metadata)
    SELECT %(status)s || n, 'shop.order.paid', 'order_seen', '{{"id": 42}}', '{{}}'
    FROM generate_series(1, %(count)s) n RETURNING id)
    INSERT INTO {OUTBOX} (event_id, expected_registrations, status, available_at, settled_at)
    SELECT id, '["r"]', %(stored)s, now() + %(available)s * interval '1 s'
        + random() * interval '1 hour', %(settled)s::timestamptz FROM events"""
WAIT = f"""WITH waiting AS (
    INSERT INTO {EXECUTION} (execution_id, workflow_id, version, state, handler_path, input_data,
        metadata, wake_at, waiting_for, runs, ready)
    SELECT gen_random_uuid(), 'wait_once', '1', 'waiting', 'benchmarks.handlers.wait_once', '{{}}',
        '{{}}', CASE WHEN n %% 2 = 0 THEN now() + interval '1 day' END, 'answer', 1, false
    FROM generate_series(1, %s) n RETURNING id, wake_at)
    INSERT INTO {STEP} (execution_id, name, status, answerable, until)
    SELECT id, 'answer', 'open', true, wake_at FROM waiting"""


def fill(kind: str, count: int) -> None:
    """*count* entries that are due, delayed or settled, in one statement."""
    values: dict[str, str | int | None] = {
        "status": kind,
        "count": count,
        "stored": "processed" if kind == "settled" else "pending",
        "available": {"due": -7_200, "delayed": 7_200, "settled": None}[kind],
        "settled": "now" if kind == "settled" else None,
    }
    with connection.cursor() as cursor:
        cursor.execute(FILL, values)


def analyze() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        cursor.execute(
            "CHECKPOINT"
        )  # or claims would be timed beside the writing of what was filled in


def claim() -> Claim:
    claimed = WorkflowOutbox.objects.claim(50, lease=LEASE, by="bench")
    assert claimed.size == 50
    return claimed


def measure_idle() -> None:
    """Nothing is due; there is much else."""
    fill("settled", SETTLED)
    fill("delayed", DELAYED)
    with connection.cursor() as cursor:
        cursor.execute(WAIT, [WAITING])
    analyze()
    show("rows settled, delayed", f"{SETTLED:,}, {DELAYED:,}")
    show("statements of an idle drain", statements(drain), "wanted: 1")
    show_times("idle drain", [seconds(drain) for _ in range(CLAIMS)], "no target")


def measure_sweeps() -> None:
    show("executions that wait", f"{WAITING:,}")
    show("statements of a sweep", statements(sweep))
    show_times("sweep", [seconds(sweep) for _ in range(CLAIMS)], "wanted: p50 < 5 ms")
    waiting = WorkflowExecutionRecord.objects.filter(state="waiting", claim_token=None)
    if waiting.count() != WAITING:
        raise SystemExit("A sweep took executions that have nothing to do")


def measure_claims() -> None:
    fill("due", DUE)
    analyze()
    show("rows due", f"{DUE:,}")
    show("statements of a claim", statements(claim))
    show_times("claim(50)", [seconds(claim) for _ in range(CLAIMS)], "wanted: p50 < 5 ms")


def main() -> None:
    call_command("migrate", verbosity=0)
    measure_idle()
    measure_sweeps()
    measure_claims()


if __name__ == "__main__":
    main()
