"""The test kit in async tests."""

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowEvent,
    get_event_registry,
    get_workflow_engine,
)
from general_manager.workflow.testing import TIMEOUT, aadvance, adrain, arun, run
from tests.testapp import aplays, flows, plays

pytestmark = pytest.mark.django_db(databases=["default", "archive"])


@pytest.fixture(autouse=True)
def _empty_stage():
    plays.reset()
    yield
    plays.reset()


async def say_yes():
    return "yes"


@pytest.mark.parametrize("answers", [{"approval": say_yes}, {"approval": "yes"}])
def test_an_async_workflow_runs_to_its_end_in_plain_and_in_async_tests(answers):
    for execution in (
        run(aplays.ask, answers=answers), async_to_sync(arun)(aplays.ask, answers=answers),
    ):  # fmt: skip
        assert execution.output_data == {"answer": "yes"}, execution.error
    late = async_to_sync(arun)(aplays.ask, {}, answers={"approval": TIMEOUT})
    assert late.output_data == {"answer": "late"}


def test_what_workers_do_and_time_are_moved_from_async_tests(outbox, celery_engine):
    flow = WorkflowDefinition("w", handler=aplays.ask)
    outbox.register("x", handler=lambda event: get_workflow_engine().start(flow, {}),
                    registration_id="r")  # fmt: skip

    async def test():
        await get_event_registry().apublish(WorkflowEvent("1", "a.b", {}, event_name="x"))
        assert await adrain() >= 1
        execution = await celery_engine.executions().afirst()
        assert execution.state == "waiting"
        await aadvance(timedelta(hours=3))
        return await celery_engine.aresult(execution.execution_id, timeout=0)

    assert async_to_sync(test)() == {"answer": "late"}
    assert flows.calls == []
