"""Fixtures of the suite, and the report that the summary of a whole run is made of."""

import json
import os
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import django
import pytest
from django.core.management.color import no_style
from django.core.management.sql import emit_post_migrate_signal
from django.db import DatabaseError, connection, connections
from django.test import TransactionTestCase

from general_manager.workflow import (
    EventRegistry,
    InMemoryEventRegistry,
    LocalWorkflowEngine,
    configure_event_registry,
    configure_workflow_engine,
)
from general_manager.workflow.admission import lines
from general_manager.workflow.core import limits
from general_manager.workflow.models.sql import low_water
from general_manager.workflow.schedules import forget_schedules
from general_manager.workflow.transport import broker, nudges
from general_manager.workflow.transport.throttle import Throttle
from general_manager.workflow.workers import beat, work
from general_manager.workflow.workers.pace import Pace
from tests.testapp.heard import heard

KEPT = {"auth_permission", "django_content_type"}
"""What Django makes anew after each flush, which takes longer than most tests."""
SMALL = 65_536
"""Bytes of a table that is emptied row by row; its dead rows make it a larger one in time."""


def _flush(case: TransactionTestCase) -> None:
    for alias in case._databases_names(include_mirrors=False):  # type: ignore[attr-defined]
        connection = connections[alias]
        sizes = _sizes(alias)
        written = {name: size for name, size in sizes.items() if size and name not in KEPT}
        if connection.vendor != "postgresql" or not _deleted(alias, written):
            # What refers to a table with rows may have none itself, and is emptied with it.
            statements = connection.ops.sql_flush(no_style(), list(written), allow_cascade=True)
            connection.ops.execute_sql_flush(statements)
        if set(sizes) >= KEPT and not _has_content_types(alias):  # the test took the app off
            emit_post_migrate_signal(verbosity=0, interactive=False, db=alias)


def _sizes(alias: str) -> dict[str, int]:
    """Of each of Django's tables that is there; 0 for one that has no rows.

    In bytes on PostgreSQL, where a table that nobody has written to has no pages.
    """
    connection = connections[alias]
    wanted = set(connection.introspection.django_table_names(include_views=False))
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT relname, CASE relkind WHEN 'r' THEN pg_relation_size(oid) ELSE 1 END"
                " FROM pg_class WHERE relkind IN ('r', 'p') AND pg_table_is_visible(oid)"
                " AND relnamespace <> 'pg_catalog'::regnamespace"
            )
            return {name: size for name, size in cursor.fetchall() if name in wanted}
        names = sorted(wanted.intersection(connection.introspection.table_names(cursor)))
        if connection.vendor != "sqlite" or not names:
            return dict.fromkeys(names, 1)
        quote = connection.ops.quote_name
        each = (f"SELECT '{one}', EXISTS (SELECT 1 FROM {quote(one)})" for one in names)
        cursor.execute(" UNION ALL ".join(each))
        return dict(cursor.fetchall())


def _deleted(alias: str, sizes: dict[str, int]) -> bool:
    """Empty small tables row by row: to truncate one makes a file for each of its indexes."""
    connection = connections[alias]
    small = [name for name, size in sizes.items() if size <= SMALL]
    large = [name for name, size in sizes.items() if size > SMALL]
    statements = [f"DELETE FROM {connection.ops.quote_name(name)}" for name in small]
    if large:
        statements += connection.ops.sql_flush(no_style(), large, allow_cascade=True)
    try:
        connection.ops.execute_sql_flush(["; ".join(statements)] if statements else [])
    except DatabaseError:  # a key that is checked at once
        return False
    return True


def _has_content_types(alias: str) -> bool:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1 FROM django_content_type WHERE app_label = 'general_manager'")
        return cursor.fetchone() is not None


@pytest.fixture(autouse=True, scope="session")
def _permissions_and_content_types_stay() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", _flush)
        yield


@pytest.fixture(autouse=True)
def _no_registry_of_another_test() -> None:
    """What a test registers by hand must not be found unused in the next."""
    EventRegistry.made.clear()


@pytest.fixture(autouse=True)
def _no_schedule_of_another_test() -> Iterator[None]:
    forget_schedules()
    yield
    forget_schedules()


@pytest.fixture(autouse=True)
def _no_limit_of_another_test() -> Iterator[None]:
    known = dict(limits._declared)
    yield
    limits._declared.clear()
    limits._declared.update(known)
    lines._sweeps.clear()


@pytest.fixture(autouse=True)
def _no_heartbeat_of_another_test() -> Iterator[None]:
    """A test that plays a worker or Beat may end without its shutdown."""
    yield
    for stop in beat._stop_saying[::2]:  # what follows each would remove its row
        stop()
    beat._stop_saying.clear()


@pytest.fixture(autouse=True)
def _nothing_heard() -> Iterator[None]:
    heard.clear()
    yield
    heard.clear()


@pytest.fixture
def event_registry() -> Iterator[InMemoryEventRegistry]:
    """A registry of its own, in force during the test."""
    registry = InMemoryEventRegistry()
    configure_event_registry(registry)
    yield registry
    configure_event_registry(None)


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Iterator[LocalWorkflowEngine]:
    """A local engine of its own, in force during the test, on the test's clock."""
    engine = LocalWorkflowEngine(clock=clock)
    configure_workflow_engine(engine)
    yield engine
    configure_workflow_engine(None)


@pytest.fixture
def run_on_commit(
    django_capture_on_commit_callbacks: Callable[..., object],
) -> Callable[..., object]:
    return django_capture_on_commit_callbacks


@pytest.fixture(autouse=True)
def _the_broker_is_forgiven() -> Iterator[None]:
    """One test's missing broker is not another's."""
    broker.broker.answered()
    yield
    broker.broker.answered()


@pytest.fixture(autouse=True)
def drains(monkeypatch: pytest.MonkeyPatch) -> Iterator[Throttle]:
    """Delayed messages are sent when the test says so, and never in another test."""
    drains = Throttle(3600)
    monkeypatch.setattr(nudges, "nudge_throttle", drains)
    yield drains
    for timer, _ in drains._late.values():
        timer.cancel()


@pytest.fixture(autouse=True)
def _no_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker learns from the test before, or takes a busy machine for a slow handler."""
    for pace in ("entries_pace", "lanes_pace", "executions_pace"):
        monkeypatch.setattr(work, pace, Pace())
    monkeypatch.setattr(work, "SLOW_SECONDS", 3600)
    monkeypatch.setattr(work, "SLICE_SECONDS", 3600)
    monkeypatch.setattr(low_water, "SLOW_CLAIM_SECONDS", 3600)
    low_water.marks.clear()
    work._begin_with.clear()


def pytest_report_header() -> str:
    return f"django: {django.get_version()}, database: {connection.vendor}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    path = os.environ.get("TEST_REPORT")
    if not path:
        return
    counts = {
        outcome: len(terminalreporter.stats.get(outcome, []))
        for outcome in ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
    }
    skipped = [
        {"test": report.nodeid, "reason": str(report.longrepr[2])}
        for report in terminalreporter.stats.get("skipped", [])
    ]
    Path(path).write_text(
        json.dumps(
            {
                "python": platform.python_version(),
                "django": django.get_version(),
                "databases": [connection.vendor],
                "counts": counts,
                "skipped": skipped,
                "exit": int(exitstatus),
            }
        )
    )
