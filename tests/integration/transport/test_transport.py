"""Another transport than Celery: one class, named by a setting."""

import pytest
from django.test import override_settings

from general_manager.checks.backends import check_backends
from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.outbox.registry import DatabaseEventRegistry
from general_manager.workflow.transport import broker, get_transport
from general_manager.workflow.transport.base import WORK
from general_manager.workflow.transport.broker import CeleryTransport
from tests.contract.threads import ThreadTransport
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def threads(monkeypatch):
    """The transport in force; Celery's broker may not even be asked."""

    def ask(*arguments):
        raise AssertionError(f"a broker was asked for {arguments}")

    monkeypatch.setattr(broker, "_publish", ask)
    transport = ThreadTransport()
    with (
        override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}),
        transport.in_force(),
    ):
        yield transport


def test_events_and_executions_travel_by_the_transport_in_force(threads):
    registry, engine = DatabaseEventRegistry(), CeleryWorkflowEngine()
    registry.publish(WorkflowEvent("1", "a.b", {}))
    started = engine.start(WorkflowDefinition("w", handler=flows.two_steps))
    assert threads.work()
    assert set(threads.received) == {WORK}
    assert engine.status(started.execution_id).state == "completed"


def test_the_setting_names_the_transport():
    assert isinstance(get_transport(), CeleryTransport)
    name = "tests.contract.threads.ThreadTransport"
    with override_settings(GENERAL_MANAGER={"WORKFLOW_TRANSPORT": name}):
        assert isinstance(get_transport(), ThreadTransport)


@pytest.mark.parametrize(
    ("transport", "said"),
    [
        ("tests.contract.threads.NoSuchTransport", "cannot be imported"),
        ("general_manager.workflow.events.WorkflowEvent", "could not build"),
        ("builtins.dict", "lacks send()"),
    ],
)
def test_a_transport_that_cannot_be_used_is_named_by_check(transport, said):
    with override_settings(GENERAL_MANAGER={"WORKFLOW_TRANSPORT": transport}):
        (message,) = check_backends()
    assert message.id == "general_manager.E008"
    assert "WORKFLOW_TRANSPORT" in message.msg
    assert said in message.msg


def test_celerys_app_is_not_asked_for_where_another_transport_is_in_force(threads):
    said = {one.id for one in check_backends()}
    assert not said & {"general_manager.W005", "general_manager.W006"}
