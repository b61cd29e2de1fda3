"""Plans beside a long line: claims do not see it, and a look reads what it needs by an index."""

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from general_manager.workflow import Limit, Rate, WorkflowDefinition
from general_manager.workflow.core.limits import line_of
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowLimitKey
from general_manager.workflow.models.executions.claims import take_ready
from general_manager.workflow.models.executions.lines import look
from general_manager.workflow.models.sql.due import ANY_AGE
from general_manager.workflow.models.sql.lines import lines_without_look
from tests.integration.models.test_query_plans import plans, update_statistics

pytestmark = pytest.mark.django_db(databases=["default", "archive"])

LIMIT, RATE = Limit(3), Rate(5, per=timedelta(minutes=1))
LINE: Any = line_of("w", LIMIT, RATE, {})
ROWS = WorkflowExecutionRecord


@pytest.fixture
def long_line():
    WorkflowDefinition("w", limit=LIMIT, rate=RATE)
    now = timezone.now()
    waits = {"slot_key": LINE.key, "waits_slot": LINE.key, "limits": LINE.to_json()}
    ROWS.objects.bulk_create(
        [
            *(ROWS(execution_id=f"w{n}", workflow_id="w", **waits) for n in range(2_000)),
            *(ROWS(execution_id=f"r{n}", workflow_id="w", wake_at=now) for n in range(9)),
            *(
                ROWS(execution_id=f"e{n}", workflow_id="w", state="completed", holds_rate=LINE.key,
                     rate_until=now - timedelta(hours=1))
                for n in range(2_000)
            ),
        ]
    )  # fmt: skip
    update_statistics(ROWS)


def test_l1_a_claim_reads_nothing_of_a_line(long_line):
    for text in plans(partial(take_ready, ROWS.objects.all(), 5, ANY_AGE), "wake_at", "LIMIT"):
        # On SQLite neither of the two contains what is due at no time.
        ways = ("gm_execution_ready", "gm_execution_due")
        assert any(name in text for name in ways[: 1 + (connection.vendor == "sqlite")])
        assert "gm_execution_line" not in text
        assert "Seq Scan" not in text
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'gm_execution_ready'")
            [[definition]] = cursor.fetchall()
        assert "wake_at IS NOT NULL" in definition, "what is in line is not in it"


def test_l1_a_look_finds_the_oldest_and_the_holders_by_their_indexes(long_line):
    WorkflowLimitKey.objects.add(LINE)

    def texts(*words):
        return plans(partial(look, ROWS.objects.all(), LINE.key), "SELECT", *words)

    for text in texts("ORDER BY", "rate_until", "waits_slot"):
        assert "gm_execution_line" in text
        assert "TEMP B-TREE" not in text
        assert "Seq Scan" not in text


def test_l1_a_look_counts_by_the_indexes_of_what_is_held(long_line):
    WorkflowLimitKey.objects.add(LINE)
    look_now = partial(look, ROWS.objects.all(), LINE.key)
    found = plans(look_now, "SELECT COUNT")
    assert any("gm_execution_slot" in text for text in found)
    assert any("gm_execution_rate" in text for text in found)
    assert not any("Seq Scan" in text for text in found)


def test_l1_the_sweep_steps_from_line_to_line(long_line):
    keys = WorkflowLimitKey.objects.all()
    [text] = plans(partial(lines_without_look, ROWS.objects.all(), keys, ""), "RECURSIVE")
    assert "gm_execution_line" in text
    assert lines_without_look(ROWS.objects.all(), keys, "") == ([LINE.key], "")
    assert lines_without_look(ROWS.objects.all(), keys, LINE.key) == ([], "")


def test_l1_a_release_changes_one_row_of_a_long_line(long_line):
    look(ROWS.objects.all(), LINE.key)
    held = ROWS.objects.filter(holds_slot=LINE.key).order_by("pk")
    assert [one.execution_id for one in held] == ["w0", "w1", "w2"]
    held.filter(execution_id="w0").update(holds_slot=None, state="completed")
    admitted = look(ROWS.objects.all(), LINE.key)
    assert [one.execution_id for one in admitted] == ["w3"]
    assert ROWS.objects.filter(waits_slot=LINE.key).count() == 2_000 - 4
