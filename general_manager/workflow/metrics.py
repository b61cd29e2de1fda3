"""Prometheus metrics: counted by receivers of `signals`, and the backlog, asked at each scrape.

A project calls `install` in an ``AppConfig.ready()``, or has `metrics_view` in its urls. Needs
``general-manager[metrics]``.
"""

import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from threading import Lock
from typing import Any, Final

from django.db import Error
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
from general_manager.workflow.databases import outboxes
from general_manager.workflow.engine import ACTIVE_STATES, TERMINAL_STATES, WorkflowExecution
from general_manager.workflow.event_registry import Registration
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.overview import Overview, look
from general_manager.workflow.signals import (
    event_dead,
    event_delivered,
    event_failed,
    event_published,
    execution_changed,
)

logger = get_logger(__name__)

PREFIX: Final = "general_manager"
OTHER: Final = "other"
MOST_VALUES: Final = 200
"""Values of a label that have a time series of their own; later ones share `OTHER`."""

LATENCIES: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
RUN_TIMES: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600, 6 * 3600, 86400)

GAUGES: Final = {
    "up": "1 if the database could be asked, else 0.",
    "outbox_owed": "Events that are owed to handlers; 10001 stands for more.",
    "outbox_claimed": "Owed events that a worker has; 10001 stands for more.",
    "outbox_oldest_seconds": "How long the oldest owed event has been owed.",
    "dead_letters": "Deliveries that failed for the last time; 10001 stands for more.",
    "executions_active": "Executions that are not over, by state; 10001 stands for more.",
    "executions_late": "Executions that are due and that nobody has taken up.",
    "deliveries_long": "Deliveries that have been running for too long.",
    "beat_tick_age_seconds": "How long ago Beat ticked; absent if it never did.",
    "workers": "Workers that said lately that they are there.",
}
"""What is asked of each database at a scrape, in the label ``database``."""


class _Bounded:
    """A label's values: whatever names projects invent, there is an end to time series."""

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
    """The closed list of what is counted, in one Prometheus registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace=PREFIX, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(
                name, text, labels, namespace=PREFIX, registry=registry, buckets=buckets
            )

        self.registry = registry
        self.published = counter("events_published", "Events accepted by a registry.", "event")
        self.deliveries = counter(
            "deliveries",
            "Outcomes of deliveries: delivered, failed (and tried again), dead.",
            "registration",
            "outcome",
        )
        self.executions = counter(
            "executions", "States that executions entered.", "workflow", "state"
        )
        self.latency = histogram(
            "delivery_latency_seconds",
            "From the publishing of an event to the end of its handler.",
            LATENCIES,
            "registration",
        )
        self.run_time = histogram(
            "execution_duration_seconds",
            "From the first start of an execution to its end, waits included.",
            RUN_TIMES,
            "workflow",
            "state",
        )
        self._events, self._registrations, self._workflows = _Bounded(), _Bounded(), _Bounded()

    def connect(self) -> None:
        for signal, receive in self._receivers():
            signal.connect(receive, weak=False, dispatch_uid=(PREFIX, id(self.registry)))

    def disconnect(self) -> None:
        for signal, _ in self._receivers():
            signal.disconnect(dispatch_uid=(PREFIX, id(self.registry)))

    def _receivers(self) -> Iterable[tuple[Signal, Any]]:
        return (
            (event_published, self._on_published),
            (event_delivered, self._on_delivered),
            (event_failed, self._on_failed),
            (event_dead, self._on_dead),
            (execution_changed, self._on_execution),
        )

    def _on_published(self, event: WorkflowEvent, **_: Any) -> None:
        self.published.labels(self._events(event.event_name or event.event_type)).inc()

    def _on_delivered(self, registration: Registration, published_at: datetime, **_: Any) -> None:
        name = self._registrations(registration.id)
        self.deliveries.labels(name, "delivered").inc()
        # Two clocks may disagree; nothing is delivered before it is published.
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


class BacklogCollector:
    """Asks the databases how things stand, when Prometheus asks: three statements for each."""

    def describe(self) -> list[GaugeMetricFamily]:
        """What there will be; without this, registering would ask the database at start-up."""
        return list(_families().values())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = _families()
        for alias in outboxes():
            try:
                seen = look(alias)
            except Error:
                logger.exception("Database %r could not be asked for its backlog", alias)
                families["up"].add_metric([alias], 0)
            else:
                families["up"].add_metric([alias], 1)
                _add(families, alias, seen)
        yield from families.values()


def _families() -> dict[str, GaugeMetricFamily]:
    return {
        name: GaugeMetricFamily(
            f"{PREFIX}_{name}",
            text,
            labels=["database", "state"] if name == "executions_active" else ["database"],
        )
        for name, text in GAUGES.items()
    }


def _add(families: dict[str, GaugeMetricFamily], alias: str, seen: Overview) -> None:
    oldest = 0.0 if seen.oldest_owed is None else _seconds(seen.oldest_owed, seen.at)
    for name, value in (
        ("outbox_owed", seen.owed),
        ("outbox_claimed", seen.claimed),
        ("outbox_oldest_seconds", oldest),
        ("dead_letters", seen.dead),
        ("executions_late", seen.late_executions),
        ("deliveries_long", seen.long_deliveries),
        ("workers", len(seen.workers)),
    ):
        families[name].add_metric([alias], value)
    for state in ACTIVE_STATES:
        families["executions_active"].add_metric([alias, state], seen.states[state])
    if seen.last_tick is not None:
        families["beat_tick_age_seconds"].add_metric([alias], _seconds(seen.last_tick, seen.at))


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


_installed: dict[int, tuple[Metrics, BacklogCollector]] = {}
_lock = Lock()


def install(registry: CollectorRegistry = REGISTRY) -> None:
    """Count from now on, in *registry*; a second call changes nothing. Asks no database."""
    with _lock:
        if id(registry) in _installed:
            return
        metrics, backlog = Metrics(registry), BacklogCollector()
        registry.register(backlog)
        metrics.connect()
        _installed[id(registry)] = (metrics, backlog)


def uninstall(registry: CollectorRegistry = REGISTRY) -> None:
    """Count no more in *registry*, and take our metrics out of it. For tests."""
    with _lock:
        found = _installed.pop(id(registry), None)
    if found is None:
        return
    metrics, backlog = found
    metrics.disconnect()
    for one in (
        backlog,
        metrics.published,
        metrics.deliveries,
        metrics.executions,
        metrics.latency,
        metrics.run_time,
    ):
        registry.unregister(one)


@never_cache
@require_safe
def metrics_view(request: HttpRequest) -> HttpResponse:
    """What Prometheus scrapes, of all processes that share ``PROMETHEUS_MULTIPROC_DIR`` if set.

    Installs the metrics in this process if nobody did. Asks nobody who they are: keep the url to
    yourself.
    """
    install()
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(BacklogCollector())
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(registry), content_type=content_type)
