"""Messages that none of our processes sent: a broker is often shared, payloads can be forged."""

import logging

import pytest
from celery import current_app

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.models import WorkflowOutbox
from general_manager.workflow.transport.base import TICK, WORK
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

NO_DATABASES = [5, "", "elsewhere", "x" * 10_000, "\x00", [], {}, b"default", "\ud800", True]
NO_QUEUES = [None, 5, "\x00", "x" * 101, "\ud800", ["x"], " ", {"a": 1}]
FORGED = [
    *[(WORK, (one,), {}) for one in NO_DATABASES],
    *[(WORK, ("default", one), {}) for one in NO_QUEUES],
    (WORK, ("default", "", "more"), {}),
    (WORK, (), {}),
    (WORK, (), {"other": 1}),
    (WORK, (), {"x" * 10_000: 1}),
    (TICK, (1,), {}),
    (TICK, (), {"a": 1}),
]


@pytest.mark.parametrize(("task", "arguments", "named"), FORGED)
def test_a_message_that_is_not_ours_is_ignored_with_one_line_in_the_log(
    outbox, celery_engine, caplog, task, arguments, named
):
    outbox.register("x", handler=lambda event: flows.note("delivered"))
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="general_manager"):
        result = current_app.tasks[task].apply(args=arguments, kwargs=named, throw=True)
    assert result.successful()
    [record] = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert "was ignored" in record.getMessage()
    assert len(record.getMessage()) < 400
    assert record.getMessage().isprintable(), "nothing in it forges a line"
    assert WorkflowOutbox.objects.get().status == "pending"
    assert celery_engine.status(execution.execution_id).state == "pending"


def test_a_message_about_a_queue_that_is_empty_does_nothing(outbox, celery_engine, caplog):
    with caplog.at_level(logging.WARNING):
        for queue in ("", "nobody's"):
            assert current_app.tasks[WORK].apply(args=("default", queue), throw=True).successful()
    assert caplog.records == []
