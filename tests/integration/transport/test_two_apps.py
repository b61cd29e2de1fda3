"""A second Celery app in the process, a client of another team's broker, and made last."""

import sys
from types import ModuleType

import pytest
from celery import Celery, _state, current_app
from celery.signals import beat_init, worker_init
from django.test import override_settings

from general_manager.checks.workers import check_workers
from general_manager.workflow import (
    WorkflowEvent,
)
from general_manager.workflow.transport import broker
from general_manager.workflow.transport.base import WORK
from general_manager.workflow.workers import beat

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
PRODUCTION = {"WORKFLOW_MODE": "production"}


def active():
    return list(_state._get_active_apps())  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _apps_end_here(monkeypatch):
    before = current_app._get_current_object()  # type: ignore[attr-defined]
    known = set(active())
    monkeypatch.setattr(broker, "_served", None)
    # Those that other tests made live on until somebody collects them.
    monkeypatch.setattr(broker, "_apps", lambda: [one for one in active() if one not in known])
    yield
    before.set_current()
    for app in set(active()) - known:
        app.close()
        _state._deregister_app(app)  # type: ignore[attr-defined]


@pytest.fixture
def project(monkeypatch):
    """The project's app, where `celery -A shop` finds it."""
    app = Celery("shop", broker="memory://")
    module = ModuleType("shop.celery")
    module.app = app  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop.celery", module)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "shop.settings.production")
    return app


@pytest.fixture
def client(project):
    app = Celery("client", broker="memory://elsewhere")
    assert current_app.main == "client"
    return app


@pytest.fixture
def published(monkeypatch):
    said: list[tuple[str, str]] = []
    monkeypatch.setattr(
        broker, "_publish", lambda app, task, arguments, queue: said.append((app.main, task))
    )
    return said


def test_messages_and_beats_entry_go_to_the_projects_app_whichever_was_made_last(
    outbox, project, client, published
):
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    assert published == [("shop", WORK)]
    project.finalize()
    client.finalize()
    with override_settings(GENERAL_MANAGER=PRODUCTION):
        beat.install()
        assert beat.is_scheduled()
    assert beat.ENTRY in project.conf.beat_schedule
    assert beat.ENTRY not in client.conf.beat_schedule


def test_the_only_app_that_is_configured_from_djangos_settings_is_the_projects(monkeypatch):
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    app = Celery("billing")
    app.config_from_object("django.conf:settings", namespace="CELERY")
    Celery("client", broker="memory://")
    assert broker.this_app() is app


@pytest.mark.parametrize("signal", [worker_init, beat_init])
def test_a_worker_and_beat_use_the_app_that_they_run(project, client, signal):
    class Sender:
        app = client
        hostname = "here"

    with override_settings(GENERAL_MANAGER=PRODUCTION):
        beat.install()
        signal.send(Sender())
    assert broker.this_app() is client


def test_a_check_sees_two_apps_and_the_setting_settles_it(project, client):
    with override_settings(GENERAL_MANAGER=PRODUCTION):
        found = {one.id: one for one in check_workers()}
    assert "'client', 'shop'" in found["general_manager.W028"].msg
    assert "through 'shop'" in found["general_manager.W028"].msg
    named = {**PRODUCTION, "WORKFLOW_CELERY_APP": "shop.celery.app"}
    with override_settings(GENERAL_MANAGER=named):
        assert "general_manager.W028" not in {one.id for one in check_workers()}
        assert broker.this_app() is project


def test_a_client_that_is_not_made_current_is_no_rival(project):
    Celery("client", broker="memory://elsewhere", set_as_current=False)
    with override_settings(GENERAL_MANAGER=PRODUCTION):
        assert "general_manager.W028" not in {one.id for one in check_workers()}
