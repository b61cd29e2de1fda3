"""What manage.py check says of a project that stores its events."""

import pytest
from celery import Celery, current_app
from django.db import connections

from general_manager.checks import check_backends
from tests.testapp import flows


@pytest.fixture
def app():
    app = Celery("tests", broker="memory://", set_as_current=False)
    app.conf.db_reuse_max = 1000
    before = current_app._get_current_object()  # type: ignore[attr-defined]
    app.set_current()
    yield app
    before.set_current()


def ids():
    return [(message.id or "").removeprefix("general_manager.") for message in check_backends()]


@pytest.fixture
def is_sqlite():
    return connections["default"].vendor == "sqlite"


def test_a_project_that_has_all_it_needs_hears_nothing(outbox, celery_engine, app):
    outbox.register("x", handler=flows.start_from_event)
    outbox.register("x", handler=lambda event: None, registration_id="named")
    assert ids() == []


def test_a_process_without_a_celery_app_hears_so(outbox, celery_engine):
    assert ids() == ["W005"]


def test_connections_that_are_closed_after_every_task_are_named(outbox, celery_engine, app):
    app.conf.db_reuse_max = None
    assert ids() == ["W006"]


def test_fragile_registrations_are_named(outbox, celery_engine, app):
    outbox.register("x", handler=lambda event: None)
    outbox.register("x", handler=flows.start_from_event, when=lambda event: True)
    messages = check_backends()
    assert ids() == ["W007", "W007"]
    assert "start_from_event for 'x'" in messages[1].msg


def test_sqlite_that_workers_would_lock_is_named(
    outbox, celery_engine, app, monkeypatch, is_sqlite
):
    monkeypatch.setitem(connections["archive"].settings_dict, "OPTIONS", {"timeout": 20})
    assert ids() == (["W004"] if is_sqlite else [])
