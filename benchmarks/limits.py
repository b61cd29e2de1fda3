"""Limits beside a long line: claims should not feel it, and a release should change one row.

Run with ``tox run -e bench`` or ``python -m benchmarks.limits``.
"""

import os
from collections.abc import Callable

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command
from django.db import connection

from benchmarks.claims import analyze
from benchmarks.floor import EXECUTION
from benchmarks.measuring import rate, seconds, show, show_times, statements
from general_manager.workflow import Limit, WorkflowDefinition
from general_manager.workflow.core.limits import line_of
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowLimitKey
from general_manager.workflow.models.executions.claims import give_back, take_ready
from general_manager.workflow.models.executions.lines import look, place_in_line
from general_manager.workflow.models.sql.due import ANY_AGE
from general_manager.workflow.models.sql.lines import lines_without_look

IN_LINE = 100_000
CLAIMS = 200
LOOKS = 200
ROWS = WorkflowExecutionRecord
HOT = line_of("hot", Limit(5), None, {})

FILL = f"""INSERT INTO {EXECUTION} (execution_id, workflow_id, version, state, handler_path,
        input_data, metadata, wake_at, slot_key, waits_slot, limits)
    SELECT gen_random_uuid(), %s, '1', 'pending', 'benchmarks.handlers.nothing', '{{}}', '{{}}',
        CASE WHEN %s::text IS NULL THEN now() - interval '1 s' END, %s, %s, %s::jsonb
    FROM generate_series(1, %s)"""


def fill(count: int, *, in_line: bool) -> None:
    assert HOT is not None
    key = HOT.key if in_line else None
    limits = f'{{"scope": "{HOT.scope}", "label": "hot", "most": 5, "rate": null, "per": null}}'
    with connection.cursor() as cursor:
        values = ("hot" if in_line else "cold", key, key, key, limits if in_line else None, count)
        cursor.execute(FILL, values)


def claim() -> None:
    rows = ROWS.objects.all()
    taken = take_ready(rows, 50, ANY_AGE)
    assert taken.size == 50
    give_back(rows, taken.token, taken.calm)


def measure_claims(beside: str) -> None:
    show("statements of a claim", statements(claim))
    show_times(f"claim(50) and give back, {beside}", [seconds(claim) for _ in range(CLAIMS)],
               "wanted: the same")  # fmt: skip


def end_one() -> None:
    """What the end of a run does, without the run."""
    held = ROWS.objects.filter(holds_slot__isnull=False).order_by("pk").first()
    assert held is not None
    ROWS.objects.filter(pk=held.pk).update(
        state="completed", holds_slot=None, wake_at=None, claim_token=None
    )


def release() -> None:
    assert HOT is not None
    admitted = look(ROWS.objects.all(), HOT.key)
    assert len(admitted) == 1, admitted


def measure_looks() -> None:
    assert HOT is not None
    admitted = look(ROWS.objects.all(), HOT.key)
    assert len(admitted) == 5
    times = []
    for _ in range(LOOKS):
        end_one()
        times.append(seconds(release))
    show_times("look that gives one slot", times, "wanted: p50 < 5 ms")
    end_one()
    show("statements of it", statements(release))
    show_times("look that gives none", [seconds(look_in_vain) for _ in range(LOOKS)], "no target")
    last = ROWS.objects.filter(waits_slot__isnull=False).latest("pk")
    show_times("its place, on a page", [seconds(lambda: place(last)) for _ in range(20)],
               "no target")  # fmt: skip


def look_in_vain() -> None:
    assert HOT is not None
    assert look(ROWS.objects.all(), HOT.key) == []


def place(last: WorkflowExecutionRecord) -> None:
    place_in_line(ROWS.objects.all(), last, 1_000)


def repeat(work: Callable[[], object], count: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            work()

    return run


def search() -> None:
    assert lines_without_look(ROWS.objects.all(), WorkflowLimitKey.objects.all(), "") == ([], "")


def main() -> None:
    call_command("migrate", verbosity=0)
    WorkflowDefinition("hot", limit=Limit(5))
    fill(5_000, in_line=False)
    analyze()
    measure_claims("no line")
    fill(IN_LINE, in_line=True)
    analyze()
    show("executions in line", f"{IN_LINE:,}")
    measure_claims("beside the line")
    measure_looks()
    show("looks a second, one key", f"{rate(LOOKS, repeat(look_in_vain, LOOKS)):,.0f}")
    show_times("the sweep's search for lines", [seconds(search) for _ in range(20)], "no target")


if __name__ == "__main__":
    main()
