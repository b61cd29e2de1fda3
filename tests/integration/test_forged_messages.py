"""Messages that none of our processes sent: a broker is often shared, payloads can be forged."""

import logging

import pytest
from celery import current_app

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.dispatch import DELIVER, DRAIN, RUN, TICK
from general_manager.workflow.models import WorkflowOutbox
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

NO_DATABASES = [5, "", "elsewhere", "x" * 10_000, "\x00", [], {}, b"default", "\ud800", True]
NO_IDS = [
    None,
    5,
    "abc",
    {"a": 1},
    [5],
    [None],
    [["x"]],
    ["\x00"],
    ["x" * 10_000],
    ["\ud800"],
    [b""],
]
NO_KEYS = [None, 5, "12", {"a": 1}, ["1"], [None], [True], [1.5], [2**63], [-(2**70)], [[1]]]
NO_TOKENS = [None, 5, "", "\x00", "x" * 33, "\ud800", ["x"], "a b", "' OR 1=1"]
FORGED = [
    *[(DRAIN, (one,), {}) for one in NO_DATABASES],
    (DRAIN, ("default", "more"), {}),
    (DRAIN, (), {"other": 1}),
    (DRAIN, (), {"x" * 10_000: 1}),
    *[(DELIVER, (one, "a" * 32, [1]), {}) for one in [*NO_DATABASES, None]],
    *[(DELIVER, ("default", "a" * 32, one), {}) for one in NO_KEYS],
    *[(DELIVER, ("default", one, [1]), {}) for one in NO_TOKENS],
    (DELIVER, (), {}),
    *[(RUN, (["a" * 32], one), {}) for one in [*NO_DATABASES, None]],
    *[(RUN, (one, "default"), {}) for one in NO_IDS],
    (RUN, (), {}),
    (RUN, (), {"using": "default"}),
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


def test_a_message_about_rows_that_are_gone_does_nothing(outbox, celery_engine, caplog):
    with caplog.at_level(logging.WARNING):
        for task, arguments in (
            (DELIVER, ("default", "a" * 32, [1, 2**62])),
            (RUN, (["nothing", "0" * 36], "default")),
        ):
            assert current_app.tasks[task].apply(args=arguments, throw=True).successful()
    assert caplog.records == []
