"""Deliveries and executions while somebody holds a snapshot, so that no dead row can be removed.

Run with ``tox run -e bench`` or ``python -m benchmarks.held_snapshot``. An idle REPEATABLE READ
transaction is open from before the first event to after the last. First executions are run from
the claim of their event to their end, then as many events are delivered. A tenth should cost no
more than the first one, which stands beside it. BENCH_SNAPSHOT_EVENTS sets how many.
Commits do not wait for the disk, which would hide what the dead rows cost; processor time does not
depend on what else the machine does.
"""

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

import psycopg
from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from benchmarks.floor import OUTBOX
from benchmarks.measuring import show
from benchmarks.outbox import UNWAITED, Ours
from benchmarks.settings import POSTGRES
from benchmarks.site import messages_kept
from general_manager.workflow.models import WorkflowOutbox

EVENTS = int(os.environ.get("BENCH_SNAPSHOT_EVENTS", "100000"))
PARTS = 10


def dead_rows() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = %s", [OUTBOX])
        return int(cursor.fetchone()[0])


def server_seconds() -> float:
    """Processor time of the server's process for our connection, which is on this machine."""
    connection.ensure_connection()
    fields = Path(f"/proc/{connection.connection.info.backend_pid}/stat").read_text()
    user, system = fields.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def measure(what: str, name: str, events: int, work: Callable[[], None]) -> None:
    """Publish *events* called *name*, and do all that follows, in tenths."""
    size, first = events // PARTS, None
    for part in range(PARTS):
        Ours().publish_many([f"{what} {part} {number}" for number in range(size)], name=name)
        began, client, server = perf_counter(), process_time(), server_seconds()
        work()
        rate = size / (perf_counter() - began)
        server = (server_seconds() - server) / size * 1e3
        client = (process_time() - client) / size * 1e3
        first = first or server
        show(
            f"{what} {part * size:,} to {(part + 1) * size:,}",
            f"{rate:.0f}/s; processor time of each: ours {client:.2f} ms, the server's "
            f"{server:.2f} ms, {server / first:.2f} of the first tenth; "
            f"{dead_rows():,} dead entries",
            "wanted: 1.25 or less",
        )


def main() -> None:
    call_command("migrate", verbosity=0)
    with psycopg.connect(POSTGRES) as holder:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        holder.execute("SELECT count(*) FROM auth_group")
        with messages_kept(), override_settings(GENERAL_MANAGER=UNWAITED):
            measure("executions", "order_paid", EVENTS, Ours().deliver_and_run)
            measure("deliveries", "order_seen", EVENTS, Ours().deliver)
        holder.rollback()
    if WorkflowOutbox.objects.exclude(status="processed").exists():
        raise SystemExit("Some events are not delivered: the rates mean nothing")


if __name__ == "__main__":
    main()
