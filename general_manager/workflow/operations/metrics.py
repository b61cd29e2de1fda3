"""Prometheus metrics: counters from `signals`, and the backlog, read at each scrape.

Call `install` in an ``AppConfig.ready()``, or add `metrics_view` to the URLs. Needs
``general-manager[metrics]``.
"""

import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from threading import Lock
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, transaction
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from general_manager.escaping import get_logger
from general_manager.workflow.admission.pausing import read_pauses
from general_manager.workflow.engine import ACTIVE_STATES, TERMINAL_STATES, WorkflowExecution
from general_manager.workflow.event_registry import Registration
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.operations.database_state import DatabaseState, read_state
from general_manager.workflow.operations.gauges import COUNTERS, GAUGES, MORE_LABELS
from general_manager.workflow.operations.overview import Overview, read_overview
from general_manager.workflow.signals import (
    event_dead,
    event_delivered,
    event_failed,
    event_published,
    execution_changed,
    execution_signalled,
    saga_undone,
    schedule_fired,
)

logger = get_logger(__name__)

NAMESPACE: Final = "general_manager"
OTHER: Final = "other"
MOST_VALUES: Final = 200
"""Values of a label with their own time series; later ones share `OTHER`."""

LATENCIES: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
RUN_TIMES: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600, 6 * 3600, 86400)


class _Bounded:
    """A label's values, limited so that time series cannot grow without bound."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._lock = Lock()

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        with self._lock:
            if len(self._known) >= MOST_VALUES:
                return OTHER
            self._known.add(value)
            return value


class Metrics:
    """All counters and histograms, in one Prometheus registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.made: list[Counter | Histogram] = []

        def counter(name: str, *labels: str) -> Counter:
            one = Counter(name, COUNTERS[name], labels, namespace=NAMESPACE, registry=registry)
            self.made.append(one)
            return one

        def histogram(name: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            how: Any = {"namespace": NAMESPACE, "registry": registry, "buckets": buckets}
            one = Histogram(name, COUNTERS[name], labels, **how)
            self.made.append(one)
            return one

        self.registry = registry
        self.published = counter("events_published", "event")
        self.deliveries = counter("deliveries", "registration", "outcome")
        self.executions = counter("executions", "workflow", "state")
        self.slots = counter("schedule_slots", "schedule", "outcome")
        self.signals = counter("signals", "workflow")
        self.sagas = counter("sagas_undone", "workflow", "outcome")
        self.latency = histogram("delivery_latency_seconds", LATENCIES, "registration")
        self.run_time = histogram("execution_duration_seconds", RUN_TIMES, "workflow", "state")
        self._events, self._registrations, self._workflows = _Bounded(), _Bounded(), _Bounded()
        self._schedules = _Bounded()

    def connect(self) -> None:
        for signal, receive in self._receivers():
            signal.connect(receive, weak=False, dispatch_uid=(NAMESPACE, id(self.registry)))

    def disconnect(self) -> None:
        for signal, _ in self._receivers():
            signal.disconnect(dispatch_uid=(NAMESPACE, id(self.registry)))

    def _receivers(self) -> Iterable[tuple[Signal, Any]]:
        return (
            (event_published, self._on_published),
            (event_delivered, self._on_delivered),
            (event_failed, self._on_failed),
            (event_dead, self._on_dead),
            (execution_changed, self._on_execution),
            (schedule_fired, self._on_slots),
            (execution_signalled, self._on_signal),
            (saga_undone, self._on_saga),
        )

    def _on_published(self, event: WorkflowEvent, **_: Any) -> None:
        self.published.labels(self._events(event.event_name or event.event_type)).inc()

    def _on_delivered(self, registration: Registration, published_at: datetime, **_: Any) -> None:
        name = self._registrations(registration.id)
        self.deliveries.labels(name, "delivered").inc()
        # Clocks may differ, but no event is delivered before it is published.
        self.latency.labels(name).observe(max(0.0, _seconds(published_at, timezone.now())))

    def _on_failed(self, registration: Registration, **_: Any) -> None:
        self.deliveries.labels(self._registrations(registration.id), "failed").inc()

    def _on_dead(self, registration: Registration, **_: Any) -> None:
        self.deliveries.labels(self._registrations(registration.id), "dead").inc()

    def _on_execution(self, execution: WorkflowExecution, **_: Any) -> None:
        name, state = self._workflows(execution.workflow_id), execution.state
        self.executions.labels(name, state).inc()
        started, ended = execution.started_at, execution.ended_at
        if state in TERMINAL_STATES and started is not None and ended is not None:
            self.run_time.labels(name, state).observe(max(0.0, _seconds(started, ended)))

    def _on_slots(self, schedule: str, outcome: str, count: int, **_: Any) -> None:
        self.slots.labels(self._schedules(schedule), outcome).inc(count)

    def _on_signal(self, workflow_id: str, **_: Any) -> None:
        self.signals.labels(self._workflows(workflow_id)).inc()

    def _on_saga(self, workflow_id: str, left: tuple[str, ...], **_: Any) -> None:
        outcome = "incomplete" if left else "completely"
        self.sagas.labels(self._workflows(workflow_id), outcome).inc()


class BacklogCollector:
    """Reads the backlog of each database at a scrape.

    Five statements, one for each queue, where something is paused two more, and on PostgreSQL two.
    """

    def describe(self) -> list[GaugeMetricFamily]:
        """The metrics without values, so that registering does not query the database."""
        return list(_families().values())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = _families()
        for alias in outboxes():
            try:
                overview, state = read_overview(alias), read_state(alias)
                pauses = read_pauses(using=alias)
            except (Error, ImproperlyConfigured):
                logger.exception("Could not read the backlog of database %r", alias)
                families["up"].add_metric([alias], 0)
            else:
                families["up"].add_metric([alias], 1)
                _add(families, alias, overview)
                _add_state(families, alias, state)
                for one in pauses[:MOST_VALUES]:
                    families["pauses"].add_metric([alias, one.kind, one.name], one.parked)
        yield from families.values()


def _families() -> dict[str, GaugeMetricFamily]:
    return {
        name: GaugeMetricFamily(
            f"{NAMESPACE}_{name}",
            text,
            labels=["database", *MORE_LABELS.get(name, ())],
        )
        for name, text in GAUGES.items()
    }


def _add(families: dict[str, GaugeMetricFamily], alias: str, overview: Overview) -> None:
    oldest = (
        0.0
        if overview.oldest_undelivered is None
        else _seconds(overview.oldest_undelivered, overview.at)
    )
    for name, value in (
        ("outbox_undelivered", overview.undelivered),
        ("outbox_claimed", overview.claimed),
        ("outbox_oldest_seconds", oldest),
        ("dead_letters", overview.dead),
        ("executions_late", overview.late_executions),
        ("ends_late", overview.late_ends),
        ("deliveries_long", overview.long_deliveries),
        ("schedules_late", overview.late_schedules),
        ("schedules_unregistered", overview.unregistered_schedules),
        ("lanes", overview.lanes),
        ("lanes_blocked", overview.blocked_lanes),
        ("late_items", overview.late_items),
        ("limit_lines", overview.lines),
        ("limit_waiting", overview.in_line),
        ("limit_lines_standing", overview.standing_lines),
        ("workers", len(overview.workers)),
    ):
        families[name].add_metric([alias], value)
    for state in ACTIVE_STATES:
        families["executions_active"].add_metric([alias, state], overview.states[state])
    if overview.last_tick is not None:
        families["beat_tick_age_seconds"].add_metric(
            [alias], _seconds(overview.last_tick, overview.at)
        )


def _add_state(families: dict[str, GaugeMetricFamily], alias: str, state: DatabaseState) -> None:
    if state.oldest is not None:
        age = state.oldest.age.total_seconds()
        families["oldest_transaction_seconds"].add_metric([alias], age)
    for table in state.tables:
        families["dead_rows"].add_metric([alias, table.name], table.dead)


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


_installed: dict[int, tuple[Metrics, BacklogCollector]] = {}
_lock = Lock()


def install(registry: CollectorRegistry = REGISTRY) -> None:
    """Start counting in *registry*. Repeated calls do nothing. Queries no database."""
    with _lock:
        if id(registry) in _installed:
            return
        metrics, backlog = Metrics(registry), BacklogCollector()
        registry.register(backlog)
        metrics.connect()
        _installed[id(registry)] = (metrics, backlog)


def uninstall(registry: CollectorRegistry = REGISTRY) -> None:
    """Stop counting, and remove our metrics from *registry*. For tests."""
    with _lock:
        found = _installed.pop(id(registry), None)
    if found is None:
        return
    metrics, backlog = found
    metrics.disconnect()
    for one in (backlog, *metrics.made):
        registry.unregister(one)


@never_cache
@require_safe
@transaction.non_atomic_requests  # else a database that is down fails first
def metrics_view(request: HttpRequest) -> HttpResponse:
    """The endpoint that Prometheus scrapes, for all processes that share
    ``PROMETHEUS_MULTIPROC_DIR`` if that is set.

    Installs the metrics in this process if needed. Has no authentication: do not expose the URL.
    """
    install()
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # their package
        registry.register(BacklogCollector())
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(registry), content_type=content_type)
