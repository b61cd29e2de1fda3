"""The tutorial's blocks in each mode that its settings can ask for.

Real workers and Beat have a test of their own in `test_production.py`.
"""

from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from celery import Celery, current_app
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowExecution,
    configure_event_registry,
    configure_event_registry_from_settings,
    configure_workflow_engine,
    configure_workflow_engine_from_settings,
    get_event_registry,
    get_workflow_engine,
)
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowOutbox,
)
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.workers.tick import sweep
from tests.acceptance import tutorial_blocks as blocks
from tests.testapp.models import Project

LOCAL = {
    "WORKFLOW_MODE": "local",
    "WORKFLOW_SIGNAL_BRIDGE": True,
}
PRODUCTION = {
    "WORKFLOW_MODE": "production",
    "WORKFLOW_ENGINE": {
        "class": "general_manager.workflow.backends.celery.CeleryWorkflowEngine",
        "options": {},
    },
    "WORKFLOW_EVENT_REGISTRY": {
        "class": "general_manager.workflow.event_registry.DatabaseEventRegistry",
        "options": {},
    },
    "WORKFLOW_SIGNAL_BRIDGE": True,
    "WORKFLOW_ASYNC": True,
    "WORKFLOW_OUTBOX_BATCH_SIZE": 100,
    "WORKFLOW_OUTBOX_PROCESS_CHUNK_SIZE": 50,
    "WORKFLOW_BEAT_ENABLED": True,
    "WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS": 5,
    "WORKFLOW_BEAT_MAX_JITTER_SECONDS": 2,
    "WORKFLOW_DELIVERY_RUNNING_TIMEOUT_SECONDS": 300,
    "WORKFLOW_MAX_RETRIES": 3,
    "WORKFLOW_DEAD_LETTER_ENABLED": True,
}


if TYPE_CHECKING:
    Base = TransactionTestCase
else:
    Base = object  # so that it is not a test by itself


class Story(Base):
    """What the tutorial says happens; a subclass says in which mode."""

    databases = "__all__"
    mode: ClassVar[dict[str, object]] = LOCAL

    def setUp(self):
        overriding = override_settings(GENERAL_MANAGER=self.mode)
        overriding.enable()
        self.addCleanup(overriding.disable)
        configure_workflow_engine(None)
        # A registry and an engine of this test's own, as the settings describe them.
        settings = type("Settings", (), {"GENERAL_MANAGER": self.mode})
        configure_event_registry_from_settings(settings)
        configure_workflow_engine_from_settings(settings)
        self.addCleanup(configure_event_registry, None)
        self.addCleanup(configure_workflow_engine, None)
        blocks.dead_letters.clear()

    def committed(self) -> AbstractContextManager[object]:
        """What is published inside takes its effect at the end."""
        return nullcontext()

    def executions(self) -> list[WorkflowExecution]:
        rows = WorkflowExecutionRecord.objects.order_by("pk")
        return [row.snapshot() for row in rows]

    def let_time_pass(self) -> None:
        """As much as the next pass over what failed waits for."""
        past = timezone.now() - timedelta(seconds=1)
        WorkflowOutbox.objects.filter(available_at__isnull=False).update(available_at=past)
        WorkflowDeliveryAttempt.objects.filter(available_at__isnull=False).update(available_at=past)
        drain()
        sweep()

    def test_a_managers_change_becomes_an_event_a_workflow_and_a_result(self):
        blocks.register_the_trigger(get_event_registry())
        with self.committed():
            project = Project.create(name="Apollo")
            project.update(status="active")
        (execution,) = self.executions()
        assert execution.workflow_id == "project_status_email"
        assert execution.state == "completed"
        assert execution.output_data == {"sent": True, "to": "ops@example.test"}
        assert execution.input_data == {
            "event_id": execution.correlation_id,
            "project_id": project.id,
            "old_status": "draft",
            "new_status": "active",
        }

    def test_only_relevant_updates_are_routed(self):
        blocks.register_the_trigger(get_event_registry())
        with self.committed():
            project = Project.create(name="Apollo", status="active")
            project.update(name="Artemis")
            project.update(status="draft")
        assert self.executions() == []

    def test_an_explicit_publish_uses_the_same_routing_and_engine(self):
        get_event_registry().register(
            "project_status_changed", handler=blocks.start_project_status_workflow
        )
        with self.committed():
            event = blocks.publish_explicitly(Project.create(name="Apollo"))
        (execution,) = self.executions()
        assert (execution.state, execution.correlation_id) == ("completed", event.event_id)
        with self.committed():
            get_event_registry().publish(event)
        assert self.executions() == [execution]

    def test_trigger_failures_are_retried_and_then_reported_to_the_hook(self):
        attempts = []

        def start_project_status_workflow(event):
            attempts.append(event.event_id)
            raise RuntimeError("no workflow today")

        blocks.register_with_a_hook(get_event_registry(), start_project_status_workflow)
        with self.committed():
            Project.create(name="Apollo").update(name="Artemis")
        self.give_up()
        assert len(attempts) == 3 * self.passes
        assert blocks.dead_letters == [(attempts[0], "no workflow today")]

    passes = 1

    def give_up(self) -> None:
        """Let time pass until the last pass has failed."""
        for _ in range(self.passes - 1):
            assert blocks.dead_letters == []
            with self.committed():
                self.let_time_pass()

    def test_a_correlation_id_is_a_key_and_free_again_after_a_failure(self):
        engine = get_workflow_engine()
        definition = WorkflowDefinition("project_status_email", handler=fail)
        with self.committed():
            failed = engine.start(definition, correlation_id="event-1")
        failed = engine.status(failed.execution_id)
        assert (failed.state, failed.error) == ("failed", "the mail server is away")
        working = WorkflowDefinition(
            "project_status_email", handler=blocks.project_status_workflow_handler
        )
        with self.committed():
            first = engine.start(working, correlation_id="event-1")
        assert first.execution_id != failed.execution_id
        with self.committed():
            again = engine.start(working, correlation_id="event-1")
        assert again == engine.status(first.execution_id)
        assert again.state == "completed"


def fail(input_data):
    raise ConnectionError("the mail server is away")


def test_the_constructor_stores_a_difference_for_each_field():
    event = blocks.construct_an_event()
    assert event.payload["changes"] == {
        "status": {"old": "draft", "new": "active"},
    }


class TestLocally(Story, TransactionTestCase):
    def executions(self):
        engine: Any = get_workflow_engine()
        return list(engine.executions())


class TestInThisProcess(Story, TransactionTestCase):
    """Production with WORKFLOW_ASYNC off: no worker, no Beat, no broker."""

    mode: ClassVar = {**PRODUCTION, "WORKFLOW_ASYNC": False}
    passes = 3

    def test_everything_is_stored(self):
        blocks.register_the_trigger(get_event_registry())
        Project.create(name="Apollo").update(status="active")
        assert WorkflowEventRecord.objects.count() == 2
        assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}


class Eager(Base):
    """Celery runs each task where it is sent, as projects have it in their tests."""

    mode: ClassVar = PRODUCTION
    passes = 3

    def setUp(self):
        super().setUp()
        before: Any = current_app._get_current_object()  # type: ignore[attr-defined]
        app = Celery("eager", broker="memory://", set_as_current=True)
        app.conf.task_always_eager = True
        app.set_current()
        self.addCleanup(before.set_current)


class TestEagerly(Eager, Story, TransactionTestCase):
    pass


class TestEagerlyInATestCase(Eager, Story, TestCase):
    @contextmanager
    def committed(self):
        with self.captureOnCommitCallbacks(execute=True):
            yield


class TestInThisProcessInATestCase(Story, TestCase):
    mode: ClassVar = {**PRODUCTION, "WORKFLOW_ASYNC": False}
    passes = 3

    @contextmanager
    def committed(self):
        with self.captureOnCommitCallbacks(execute=True):
            yield


class TestLocallyInATestCase(Story, TestCase):
    @contextmanager
    def committed(self):
        with self.captureOnCommitCallbacks(execute=True):
            yield

    def executions(self):
        engine: Any = get_workflow_engine()
        return list(engine.executions())
