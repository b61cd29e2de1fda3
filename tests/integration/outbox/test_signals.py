"""What observers of stored events are told, and that nobody pays for those who are not there."""

from contextlib import contextmanager

import pytest
from django.test import override_settings

from general_manager.workflow import WorkflowEvent
from general_manager.workflow.models import WorkflowEventRecord, WorkflowOutbox
from general_manager.workflow.signals import event_dead, event_delivered, event_failed
from tests.integration.conftest import data_statements
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@contextmanager
def listening():
    told = []

    def receive(signal, **details):
        told.append((signal, details))

    signals = (event_delivered, event_failed, event_dead)
    for signal in signals:
        signal.connect(receive)
    try:
        yield told
    finally:
        for signal in signals:
            signal.disconnect(receive)


@pytest.mark.parametrize("retries", [0, 1])
def test_observers_hear_of_each_failure_and_of_how_it_ended(outbox, workers, retries):
    error = ValueError("first")
    flows.troubles[:] = [error]
    outbox.register("x", handler=lambda event: flows.stumble(), retries=retries)
    with listening() as told:
        outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
        workers.deliver()
        workers.let_rest_pass()
        workers.deliver()
    (first, about), (second, details) = told
    assert (first, second) == (event_failed, event_delivered)
    assert about["exception"] is error
    assert details["published_at"] == WorkflowEventRecord.objects.get().published_at


def test_a_final_failure_is_reported_once_and_as_such(outbox, workers):
    flows.troubles[:] = [ValueError("last")]
    outbox.register("x", handler=lambda event: flows.stumble())
    with (
        override_settings(
            GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}
        ),
        listening() as told,
    ):
        outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
        workers.deliver()
    assert [signal for signal, _ in told] == [event_dead]


def test_observers_of_deliveries_cost_no_statement(outbox, workers):
    outbox.register("x", handler=lambda event: None)
    counted = []
    for number in range(2):
        outbox.publish(WorkflowEvent(str(number), "a.b", {}, event_name="x"))
        with data_statements() as statements:
            workers.deliver()
        counted.append(len(statements))
        if number == 0:
            with listening():
                outbox.publish(WorkflowEvent("heard", "a.b", {}, event_name="x"))
                with data_statements() as statements:
                    workers.deliver()
                counted.append(len(statements))
    assert len(set(counted)) == 1
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}
