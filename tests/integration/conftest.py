"""The production path on real tables, without workers: tests drain and sweep by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from django.db import connection
from django.test import override_settings
from django.utils import timezone

from general_manager.workflow import configure_event_registry, configure_workflow_engine
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
)
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.outbox.registry import DatabaseEventRegistry
from general_manager.workflow.workers.tick import sweep
from tests.testapp import flows


@pytest.fixture(autouse=True)
def _no_flow_of_another_test() -> Iterator[None]:
    flows.calls.clear()
    flows.troubles.clear()
    yield
    flows.calls.clear()
    flows.troubles.clear()


@contextmanager
def data_statements() -> Iterator[list[str]]:
    """Statements on data, without those that only begin and end transactions."""
    statements: list[str] = []

    def count(execute: Any, sql: str, *arguments: Any) -> Any:
        if not sql.startswith(("SAVEPOINT", "RELEASE", "BEGIN", "SET SESSION")):
            statements.append(sql)
        return execute(sql, *arguments)

    with connection.execute_wrapper(count):
        yield statements


@pytest.fixture
def outbox() -> Iterator[DatabaseEventRegistry]:
    """A database registry of its own, in force during the test."""
    registry = DatabaseEventRegistry()
    configure_event_registry(registry)
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}):
        yield registry
    configure_event_registry(None)


@pytest.fixture
def celery_engine() -> Iterator[CeleryWorkflowEngine]:
    engine = CeleryWorkflowEngine()
    configure_workflow_engine(engine)
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}):
        yield engine
    configure_workflow_engine(None)


@pytest.fixture
def quiet_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots of the present hour are on time, however late in the hour the test runs."""
    monkeypatch.setattr("general_manager.workflow.scheduling.rules.ON_TIME", timedelta(hours=1))


class Workers:
    """What workers would do, done here; time is moved by moving the column."""

    def deliver(self) -> int:
        return drain()

    def run(self) -> int:
        """Run every execution that is owed a run, whether or not its message is lost."""
        WorkflowExecutionRecord.objects.filter(state="pending", ready=True).update(
            wake_at=timezone.now() - timedelta(seconds=1)
        )
        return sweep(hand_on=False)

    def let_rest_pass(self) -> None:
        past = timezone.now() - timedelta(seconds=1)
        WorkflowOutbox.objects.filter(available_at__isnull=False).update(available_at=past)
        WorkflowDeliveryAttempt.objects.filter(available_at__isnull=False).update(available_at=past)
        WorkflowExecutionRecord.objects.filter(wake_at__isnull=False).update(wake_at=past)


@pytest.fixture
def workers() -> Workers:
    return Workers()


class _Hidden(HTMLParser):
    """The hidden fields of a page's forms that are not the site's own."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        name = values.get("name") or ""
        if tag == "input" and values.get("type") == "hidden" and name != "csrfmiddlewaretoken":
            self.found[name] = values.get("value") or ""


def hidden_fields(page: Any) -> dict[str, str]:
    """What a confirmation page sends along: what it is about, and what was seen."""
    parser = _Hidden()
    parser.feed(page.content.decode())
    return parser.found


def confirm(client: Any, url: str, **values: Any) -> Any:
    """Open the page of an act, and say yes to what it shows; *follow* as the client takes it."""
    follow = values.pop("follow", False)
    page = client.get(url)
    assert page.status_code == 200, page
    return client.post(url, {**hidden_fields(page), **values}, follow=follow)
