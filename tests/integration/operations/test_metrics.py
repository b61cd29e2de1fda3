"""What Prometheus is told, and that nothing depends on telling it."""

from datetime import timedelta

import pytest
from django.core.handlers.base import BaseHandler
from django.db import OperationalError, connection
from django.test import RequestFactory
from django.utils import timezone
from prometheus_client import CollectorRegistry, generate_latest

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.models import WorkflowDeliveryAttempt, WorkflowOutbox
from general_manager.workflow.operations import metrics as metrics_module
from general_manager.workflow.operations.gauges import GAUGES
from general_manager.workflow.operations.health_view import health_view
from general_manager.workflow.operations.metrics import (
    MOST_VALUES,
    OTHER,
    install,
    metrics_view,
    uninstall,
)
from general_manager.workflow.signals import event_delivered
from general_manager.workflow.workers.tick import tick
from tests.integration.conftest import data_statements
from tests.testapp import flows, plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture
def prometheus():
    registry = CollectorRegistry(auto_describe=True)
    install(registry)
    flows.calls.clear()
    flows.troubles.clear()
    yield registry
    uninstall(registry)


def value(registry, name, **labels):
    return registry.get_sample_value(f"general_manager_{name}", labels)


def backlog(registry, name, **labels):
    return value(registry, name, database="default", **labels)


def publish(registry, *ids, name="x"):
    registry.publish_many(WorkflowEvent(one, "a.b", {}, event_name=name) for one in ids)


def test_events_and_each_outcome_of_a_delivery_are_counted(prometheus, outbox, workers):
    flows.troubles[:] = [ValueError("later")]
    outbox.register("x", handler=lambda event: flows.stumble(), registration_id="good")
    publish(outbox, "1", "2", "2")
    workers.deliver()
    workers.let_rest_pass()
    workers.deliver()
    outbox.register(
        "y", handler=lambda event: 1 / 0, registration_id="bad", retry_on=lambda error: False
    )
    publish(outbox, "3", name="y")
    workers.deliver()
    assert value(prometheus, "events_published_total", event="x") == 2
    counted = {
        (one, outcome): value(prometheus, "deliveries_total", registration=one, outcome=outcome)
        for one in ("good", "bad")
        for outcome in ("delivered", "failed", "dead")
    }
    assert counted == {
        ("good", "delivered"): 2,
        ("good", "failed"): 1,
        ("good", "dead"): None,
        ("bad", "delivered"): None,
        ("bad", "failed"): None,
        ("bad", "dead"): 1,
    }
    assert value(prometheus, "delivery_latency_seconds_count", registration="good") == 2


def test_executions_are_counted_by_state_and_their_time_is_measured(
    prometheus, celery_engine, workers
):
    celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    celery_engine.start(WorkflowDefinition("w", handler=flows.fail))
    workers.run()
    for state, count in (("pending", 2), ("completed", 1), ("failed", 1)):
        assert value(prometheus, "executions_total", workflow="w", state=state) == count
    measured = "execution_duration_seconds_count"
    assert value(prometheus, measured, workflow="w", state="completed") == 1
    assert value(prometheus, measured, workflow="w", state="pending") is None


def test_local_mode_is_counted_too(prometheus, event_registry, engine):
    event_registry.register("x", handler=flows.start_from_event, registration_id="start")
    publish(event_registry, "1")
    assert value(prometheus, "deliveries_total", registration="start", outcome="delivered") == 1
    assert value(prometheus, "executions_total", workflow="echo", state="completed") == 1
    assert value(prometheus, "delivery_latency_seconds_count", registration="start") == 1


def test_the_backlog_is_asked_when_prometheus_asks(prometheus, outbox, celery_engine, workers):
    tick()
    publish(outbox, "1", "2")
    WorkflowOutbox.objects.update(undelivered_since=timezone.now() - timedelta(hours=1))
    celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    WorkflowDeliveryAttempt.objects.create(
        outbox=WorkflowOutbox.objects.latest("pk"), registration_id="r", status="dead_letter"
    )
    assert backlog(prometheus, "up") == 1
    assert backlog(prometheus, "outbox_undelivered") == 2
    assert 3600 <= (backlog(prometheus, "outbox_oldest_seconds") or 0) < 3700
    assert backlog(prometheus, "dead_letters") == 1
    assert backlog(prometheus, "executions_active", state="pending") == 1
    assert backlog(prometheus, "executions_active", state="waiting") == 0
    assert (backlog(prometheus, "beat_tick_age_seconds") or 0) < 60
    assert value(prometheus, "outbox_undelivered", database="archive") == 0


def test_installing_asks_no_database_and_twice_is_once(prometheus):
    with data_statements() as statements:
        install(prometheus)
    assert statements == []
    text = generate_latest(prometheus).decode()
    assert text.count("# TYPE general_manager_up gauge") == 1
    for name in GAUGES:
        assert f"# HELP general_manager_{name} " in text


def test_a_database_that_is_away_fails_no_scrape(prometheus, monkeypatch):
    def be_away(self, *arguments, **options):
        raise OperationalError("refused")

    monkeypatch.setattr("django.db.backends.utils.CursorWrapper.execute", be_away)
    assert backlog(prometheus, "up") == 0
    assert backlog(prometheus, "outbox_undelivered") is None


def test_names_beyond_two_hundred_share_one_time_series(prometheus, engine):
    for number in range(MOST_VALUES + 5):
        engine.start(WorkflowDefinition(f"w{number}"))
    engine.start(WorkflowDefinition("w0"))
    counted = {
        name: value(prometheus, "executions_total", workflow=name, state="completed")
        for name in ("w0", "w199", "w200", OTHER)
    }
    assert counted == {"w0": 2, "w199": 1, "w200": None, OTHER: 5}


def test_e11_a_raising_exporter_harms_nothing(prometheus, outbox, workers, monkeypatch):
    def explode(*arguments):
        raise RuntimeError("the exporter's bug")

    monkeypatch.setattr("prometheus_client.Counter.inc", explode)
    seen = []
    outbox.register("x", handler=lambda event: seen.append(event.event_id))
    publish(outbox, "1")
    workers.deliver()
    assert seen == ["1"]
    assert WorkflowOutbox.objects.get().status == "processed"


def test_uninstalling_leaves_no_receiver_and_no_metric(prometheus):
    before = len(event_delivered.receivers)
    uninstall(prometheus)
    uninstall(prometheus)
    assert len(event_delivered.receivers) == before - 1
    assert generate_latest(prometheus) == b""


@pytest.fixture
def default_registry():
    yield
    uninstall()


def test_the_view_shows_what_prometheus_reads(default_registry):
    response = metrics_view(RequestFactory().get("/metrics/"))
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain")
    assert "no-cache" in response["Cache-Control"]
    assert b'general_manager_up{database="default"} 1.0' in response.content
    assert b"python_info" in response.content
    assert metrics_view(RequestFactory().post("/metrics/")).status_code == 405


def test_the_view_gathers_the_processes_that_share_a_folder(
    default_registry, tmp_path, monkeypatch
):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    response = metrics_view(RequestFactory().get("/metrics/"))
    assert b'general_manager_up{database="default"} 1.0' in response.content
    assert b"python_info" not in response.content


def test_every_metric_has_our_prefix(prometheus):
    names = [family.name for family in prometheus.collect()]
    assert len(names) == 8 + len(GAUGES)
    assert all(name.startswith(f"{metrics_module.NAMESPACE}_") for name in names)


def test_signals_are_counted_by_workflow(prometheus, engine):
    key = engine.start(WorkflowDefinition("w", handler=flows.ask_twice)).execution_id
    for name in ("first", "other"):
        engine.signal(key, name, 1)
    assert value(prometheus, "signals_total", workflow="w") == 2


def test_sagas_are_counted_by_workflow_and_outcome(prometheus, engine, clock):
    plays.reset()
    plays.stage.failing.add("c")
    engine.start(WorkflowDefinition("trip", handler=plays.book_trip))
    assert value(prometheus, "sagas_undone_total", workflow="trip", outcome="completely") == 1
    plays.stage.failing.add("undo b")
    failed = engine.start(WorkflowDefinition("trip", handler=plays.book_trip))
    clock.advance(minutes=2)
    engine.run_due()
    assert engine.status(failed.execution_id).state == "failed"
    assert value(prometheus, "sagas_undone_total", workflow="trip", outcome="incomplete") == 1


def test_a_request_in_a_transaction_asks_no_database_before_the_scrape(monkeypatch):
    """With ATOMIC_REQUESTS, one that is down would fail the request."""
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    for view in (metrics_view, health_view):
        assert BaseHandler().make_view_atomic(view) is view
