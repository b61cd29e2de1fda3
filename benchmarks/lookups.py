"""Look-ups among a million executions: what each reads, by EXPLAIN ANALYZE, and how long it takes.

Run with ``tox run -e bench`` or ``python -m benchmarks.lookups``; EXECUTIONS for another number.
The look-ups are those whose plans the tests check beside 20,000 rows: what is rare lies behind
everything else, and of what is common a page of 100 is read.
"""

import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from benchmarks.floor import EXECUTION
from benchmarks.measuring import show
from general_manager.workflow import get_workflow_engine
from general_manager.workflow.models import WorkflowExecutionRecord
from tests.integration.executions.test_search_plans import COMMON, RARE, explained, rows_read

EXECUTIONS: Final = int(os.environ.get("EXECUTIONS", "1000000"))
DAYS: Final = 90
MOST_READ: Final = 2_000
"""Rows that a look-up may go through, however many there are."""
TOOK: Final = re.compile(r"Execution Time: (\S+)")
INDEX: Final = re.compile(r"Scan.* (?:using|on) (gm_\w+|\w+_pkey)")

FILL: Final = f"""INSERT INTO {EXECUTION} (execution_id, workflow_id, version, state, handler_path,
    input_data, metadata, correlation_id, subject, attributes, runs, ready, created_at, started_at,
    ended_at)
SELECT substr(ms, 1, 8) || '-' || substr(ms, 9, 4) || '-7' || substr(noise, 1, 3) || '-8'
        || substr(noise, 4, 3) || '-' || substr(noise, 7, 12),
    CASE WHEN n IN (6, 7) THEN 'rare' ELSE 'sync' END, '1',
    CASE n WHEN 0 THEN 'failed' WHEN 7 THEN 'failed' WHEN 1 THEN 'cancelled' WHEN 2 THEN 'waiting'
        ELSE 'completed' END, 'shop.workflows.run', '{{}}', '{{}}',
    CASE WHEN n = 5 THEN 'order-7' ELSE 'sync-' || n END,
    CASE WHEN n = 3 THEN 'Invoice 7' WHEN n %% 2 = 1 THEN 'Order ' || n %% 5000 END,
    CASE WHEN n = 4 THEN '{{"customer": 7}}'::jsonb
        WHEN n %% 3 > 0 THEN jsonb_build_object('customer', 1000 + n %% 3000) END,
    1, false, at, at, CASE WHEN n <> 2 THEN at END
FROM (SELECT n, at, md5(n::text) AS noise,
        lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS ms
    FROM (SELECT n, now() - interval '{DAYS} days' * (%(count)s - n) / %(count)s AS at
        FROM generate_series(0, %(count)s - 1) n) placed) timed ORDER BY n"""


def fill() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {EXECUTION} CASCADE")
        cursor.execute(FILL, {"count": EXECUTIONS})
        cursor.execute(f"ANALYZE {EXECUTION}")
        cursor.execute("CHECKPOINT")


def measure(
    wanted: str, works: Mapping[str, Callable[[], object]], *, most: float = MOST_READ
) -> None:
    for what, work in works.items():
        texts = list(explained(work))
        read = sum(map(rows_read, texts))
        took = sum(float(ms) for text in texts for ms in TOOK.findall(text))
        indexes = ", ".join(sorted({name for text in texts for name in INDEX.findall(text)}))
        show(f"{wanted}: {what}", f"{read:,.0f} rows read, {took:.2f} ms, {indexes}")
        if read > most or any("Seq Scan" in text for text in texts):
            raise SystemExit("\n".join([f"{wanted}, {what}: read without a bound", *texts]))


def main() -> None:
    call_command("migrate", verbosity=0)
    fill()
    engine = get_workflow_engine()
    show("executions", f"{WorkflowExecutionRecord.objects.count():,}")
    for wanted, options in RARE.items():
        found: Any = engine.executions(**options)
        works = {"the first": partial(found.__getitem__, 0), "all": partial(list, found)}
        measure(wanted, {**works, "their number": found.count})
    for wanted, given in COMMON.items():
        options = dict(given)
        if days := options.pop("days", None):
            options["started_after"] = timezone.now() - timedelta(days=days)
        found = engine.executions(**options)
        # What is asked for of some days may be read as a whole.
        of_days = (days or 0) * EXECUTIONS / DAYS * 1.2
        measure(wanted, {"a page of 100": partial(list, found[:100])}, most=MOST_READ + of_days)


if __name__ == "__main__":
    main()
