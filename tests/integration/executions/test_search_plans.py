"""Looking executions up among many goes along an index, whatever is asked for.

The tables have some 20,000 rows with statistics: what is rare or old lies behind all the others.
"""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.core.ids import first_id_at
from general_manager.workflow.models import WorkflowExecutionRecord

pytestmark = pytest.mark.django_db(databases=["default", "archive"])

MANY = 20_000
TABLE = "general_manager_workflowexecutionrecord"


def _workflow_of(number):
    """One that was busy long ago, and one that is only now; each with a few at other times."""
    is_late = number > MANY / 2
    if number < MANY / 5 or (is_late and number % 1_000 == 500):
        return "faded"
    if number > 4 * MANY / 5 or (not is_late and number % 1_000 == 500):
        return "grown"
    return "sync"


@pytest.fixture
def crowd(db):
    """Old ones of each kind, then many that are completed; and what the database knows of them."""
    began = timezone.now() - timedelta(days=30)

    def record(number, **values):
        key = first_id_at(began + timedelta(seconds=number * 120))
        given = {"execution_id": key, "workflow_id": "sync", "state": "completed"}
        return WorkflowExecutionRecord(**{**given, "ended_at": began, **values})

    old: list[dict[str, Any]] = [
        {"state": "failed"}, {"state": "cancelled"}, {"state": "waiting", "ended_at": None},
        {"subject": "Invoice 7"}, {"attributes": {"customer": 7}}, {"correlation_id": "order-7"},
        {"workflow_id": "rare"}, {"workflow_id": "rare", "state": "failed"},
    ]  # fmt: skip
    rows = [record(number, **values) for number, values in enumerate(old)]
    rows += [
        record(
            number,
            workflow_id=_workflow_of(number),
            subject=f"Order {number % 500}" if number % 2 else None,
            attributes={"customer": 1_000 + number % 300} if number % 3 else None,
            correlation_id=f"sync-{number}",
        )
        for number in range(len(old), MANY)
    ]
    if connection.vendor == "postgresql":  # pages of rows that a test rolled back count in plans
        with connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {TABLE} CASCADE")
    WorkflowExecutionRecord.objects.bulk_create(rows, batch_size=2_000)
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            cursor.execute(f"ANALYZE TABLE {TABLE} PERSISTENT FOR ALL")
        else:
            cursor.execute(f"ANALYZE {TABLE}")
    return began


def explained(work: Callable[[], object]) -> Iterator[str]:
    """The plans of the statements of *work* that read the table, and how many rows they read."""
    found = []

    def keep(execute, sql, parameters, many, context):
        if TABLE in sql and sql.startswith("SELECT"):
            found.append((sql, parameters))
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(keep):
        work()
    assert found
    how = {"postgresql": "EXPLAIN (ANALYZE, TIMING OFF)", "sqlite": "EXPLAIN QUERY PLAN"}.get(
        connection.vendor, "ANALYZE FORMAT=JSON"
    )
    with connection.cursor() as cursor:
        for sql, parameters in found:
            cursor.execute(f"{how} {sql}", parameters)
            yield "\n".join(" ".join(map(str, row)) for row in cursor.fetchall())


def rows_read(text: str) -> float:
    """The rows that a plan really went through, those that it left out included."""
    if connection.vendor == "postgresql":
        went = re.findall(r"(?:Scan|Only Scan)[^\n]*actual rows=([\d.]+)", text)
        left = re.findall(r"Removed by (?:Filter|Index Recheck): (\d+)", text)
        return sum(float(one) for one in (*went, *left))
    return sum(float(one) for one in re.findall(r'"r_rows": ([\d.]+)', text))


RARE: dict[str, dict[str, Any]] = {
    "failed": {"state": "failed"},
    "cancelled": {"state": "cancelled"},
    "waiting": {"state": "waiting"},
    "not successful": {"state": ["failed", "cancelled"]},
    "active": {"state": ["pending", "running", "waiting"]},
    "a subject": {"subject": "Invoice 7"},
    "an object's texts": {"subject": "Invoice:7"},
    "a correlation id": {"correlation_id": "order-7"},
    "a workflow": {"workflow": "rare"},
    "a workflow that fails": {"workflow": "rare", "state": "failed"},
    "a busy workflow that waits": {"workflow": "sync", "state": "waiting"},
    "a workflow's key": {"workflow": "sync", "correlation_id": "order-7"},
    "a workflow's subject": {"workflow": "sync", "subject": "Invoice 7"},
    "attributes": {"attributes": {"customer": 7}},
    "a workflow's attributes": {"workflow": "sync", "attributes": {"customer": 7}},
}


def engine():
    return CeleryWorkflowEngine()


def test_what_is_rare_and_old_is_found_by_an_index(crowd):
    for wanted, options in RARE.items():
        # Only PostgreSQL has one for attributes; SQLite takes half of the states for half the rows.
        is_several = isinstance(options.get("state"), list) and connection.vendor == "sqlite"
        has_none = "attributes" in options and connection.vendor != "postgresql"
        has_index = not (is_several or has_none)
        found = engine().executions(**options)
        for work in (partial(found.__getitem__, 0), partial(list, found), found.count):
            for text in explained(work) if has_index else ():
                assert "Seq Scan" not in text, (wanted, text)
                assert "SCAN" not in text, (wanted, text)
                if connection.vendor != "sqlite":
                    assert rows_read(text) < 100, (wanted, text)
    assert engine().executions(attributes={"customer": 1_007}).count() > 30
    assert engine().executions(attributes={"customer": 7}).count() == 1


COMMON: dict[str, dict[str, Any]] = {
    "all": {},
    "completed": {"state": "completed"},
    "a busy workflow": {"workflow": "sync"},
    "completed of a workflow": {"workflow": "sync", "state": "completed"},
    "of the last day": {"days": 1},
    "a busy workflow of the last day": {"days": 1, "workflow": "sync"},
    "of the last day, of nothing": {"days": 1, "workflow": "sync", "subject": "Order -1"},
}


def test_a_page_of_what_is_common_reads_a_page_and_a_time_ends_a_scan(crowd):
    for wanted, given in COMMON.items():
        options = dict(given)
        days = options.pop("days", None)
        if days is not None:  # the newest of the table is some days old
            options["started_after"] = crowd + timedelta(seconds=MANY * 120, days=-days)
        found = engine().executions(**options)
        for text in explained(partial(list, found[:100])):
            assert "Seq Scan" not in text, (wanted, text)
            assert "TEMP B-TREE" not in text, (wanted, text)
            if connection.vendor != "sqlite":
                assert rows_read(text) < MANY / 10, (wanted, text)
    # Behind the last that matches, nothing more is read, though a page is not full.
    middle = crowd + timedelta(seconds=MANY * 60)
    hour = timedelta(hours=1)
    for options, count in (
        ({"workflow": "sync", "started_after": middle, "started_before": middle + hour}, 30),
        ({"workflow": "faded", "started_after": middle}, 10),
        ({"workflow": "grown", "started_before": middle}, 6),
    ):
        found = engine().executions(**options)
        assert found.count() == count, options
        for text in explained(partial(list, found)):
            if connection.vendor != "sqlite":
                assert rows_read(text) < MANY / 40, (options, text)
            assert "Seq Scan" not in text, text
