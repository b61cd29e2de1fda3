"""The engines and registries under contract: what a test needs besides their public verbs.

A new engine is put under contract by one class here and its name in `ENGINES`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, ClassVar, Protocol

from django.db.models import F
from django.test import override_settings
from django.utils import timezone

from general_manager.workflow import (
    EventRegistry,
    InMemoryEventRegistry,
    LocalWorkflowEngine,
    configure_event_registry,
    configure_workflow_engine,
)
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowLane,
    WorkflowLimitKey,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.outbox.registry import DatabaseEventRegistry
from general_manager.workflow.workers.tick import sweep
from tests.conftest import Clock
from tests.contract.threads import ThreadTransport


class EngineDriver(Protocol):
    """An engine, and the world around it: workers, and time that a test moves."""

    engine: Any

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The engine is the one in force, with the settings that it is for."""
        ...

    def settle(self) -> None:
        """Run whatever may run now, until nothing is left to do."""
        ...

    def pass_time(self, duration: timedelta) -> None:
        """So much later; nothing runs by this alone. May be called inside a handler."""
        ...

    def count(self) -> int:
        """How many executions there are."""
        ...

    def now(self) -> datetime:
        """The time by which the engine goes."""
        ...


class LocalDriver:
    def __init__(self) -> None:
        self.clock = Clock()
        self.engine = LocalWorkflowEngine(clock=self.clock)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        configure_workflow_engine(self.engine)
        try:
            yield
        finally:
            configure_workflow_engine(None)

    def settle(self) -> None:
        while self.engine.run_due():
            pass

    def pass_time(self, duration: timedelta) -> None:
        self.clock.now += duration

    def count(self) -> int:
        return self.engine.executions().count()

    def now(self) -> datetime:
        return self.clock.now


class WorkerDriver:
    """`WORKFLOW_ASYNC=True`: executions are run by workers, which are played here."""

    run_async: ClassVar[bool] = True

    def __init__(self) -> None:
        self.engine = CeleryWorkflowEngine()

    @contextmanager
    def in_force(self) -> Iterator[None]:
        configure_workflow_engine(self.engine)
        mode = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": self.run_async}
        try:
            with override_settings(GENERAL_MANAGER=mode):
                yield
        finally:
            configure_workflow_engine(None)

    def settle(self) -> None:
        with self.in_force():
            while True:
                ready = WorkflowExecutionRecord.objects.filter(
                    state="pending", ready=True, wake_at__isnull=False
                )
                # Messages are lost. One after the other: of equal times any may come first.
                due = timezone.now() - timedelta(seconds=1)
                for at, key in enumerate(ready.order_by("pk").values_list("pk", flat=True)):
                    ready.filter(pk=key).update(wake_at=due + timedelta(milliseconds=at % 900))
                if not sweep(hand_on=False):
                    return

    def pass_time(self, duration: timedelta) -> None:
        times = ("wake_at", "run_until", "deadline", "step_deadline", "rate_until", "slot_until")
        for name in times:
            rows = WorkflowExecutionRecord.objects.filter(**{f"{name}__isnull": False})
            rows.update(**{name: F(name) - duration})
        WorkflowStep.objects.filter(until__isnull=False).update(until=F("until") - duration)
        lines = WorkflowLimitKey.objects.filter(look_at__isnull=False)
        lines.update(look_at=F("look_at") - duration)

    def count(self) -> int:
        return WorkflowExecutionRecord.objects.count()

    def now(self) -> datetime:
        return timezone.now()


class InProcessDriver(WorkerDriver):
    """`WORKFLOW_ASYNC=False`: executions are rows, and run in the caller's process."""

    run_async = False


class _OverThreads:
    """Another transport than Celery is in force: see `ThreadTransport`."""

    def __init__(self) -> None:
        super().__init__()
        self.transport = ThreadTransport()

    @contextmanager
    def in_force(self) -> Iterator[None]:
        driver: Any = super()
        with self.transport.in_force(), driver.in_force():
            yield


class ThreadDriver(_OverThreads, WorkerDriver):
    """Executions in the same tables, run by threads."""

    def settle(self) -> None:
        with self.in_force():
            sweep()
            while self.transport.work():
                sweep()


ENGINES: dict[str, type[LocalDriver] | type[WorkerDriver]] = {
    "local": LocalDriver,
    "workers": WorkerDriver,
    "in this process": InProcessDriver,
    "threads": ThreadDriver,
}


class MemoryRegistryDriver:
    passes: ClassVar[int] = 1
    """How often a delivery that fails for good is tried, if the registration asks for no more."""

    def __init__(self) -> None:
        self.registry: EventRegistry = InMemoryEventRegistry()

    @contextmanager
    def in_force(self) -> Iterator[None]:
        configure_event_registry(self.registry)
        try:
            yield
        finally:
            configure_event_registry(None)

    def settle(self) -> None:
        """Everything was delivered inside `publish`."""


class OutboxDriver:
    passes: ClassVar[int] = 3

    def __init__(self) -> None:
        self.registry: EventRegistry = DatabaseEventRegistry()

    @contextmanager
    def in_force(self) -> Iterator[None]:
        configure_event_registry(self.registry)
        try:
            with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}):
                yield
        finally:
            configure_event_registry(None)

    def _deliver(self) -> None:
        drain()

    def settle(self) -> None:
        """Deliver, and let every delay pass, until all is over."""
        for _ in range(20):
            self._deliver()
            past = timezone.now() - timedelta(seconds=1)
            tables = (WorkflowOutbox, WorkflowLane, WorkflowDeliveryAttempt)
            for table in tables:
                table._default_manager.filter(available_at__isnull=False).update(available_at=past)
            if not any(
                table._default_manager.filter(available_at__isnull=False).exists()
                for table in tables[:2]
            ):
                return
        raise AssertionError("deliveries go on and on")


class ThreadOutboxDriver(_OverThreads, OutboxDriver):
    """Delivered by what `ThreadTransport` has heard of."""

    def _deliver(self) -> None:
        sweep()
        self.transport.work()


REGISTRIES: dict[str, type[MemoryRegistryDriver] | type[OutboxDriver]] = {
    "in memory": MemoryRegistryDriver,
    "in the database": OutboxDriver,
    "by threads": ThreadOutboxDriver,
}
