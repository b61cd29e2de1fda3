"""`drain` and `advance` with limits and rates, on both engines and inside a test case."""

from datetime import timedelta

import pytest

from general_manager.workflow import Limit, Rate, WorkflowDefinition
from general_manager.workflow.testing import advance, drain, run
from tests.testapp import limited

MINUTE = timedelta(minutes=1)
pytestmark = pytest.mark.django_db(databases=["default", "archive"])


@pytest.fixture(autouse=True)
def _fresh():
    limited.reset()
    yield
    limited.reset()


@pytest.mark.parametrize("options", [{}, {"limit": Limit(1, key="key")}])
def test_time_lets_a_rate_s_line_move(celery_engine, options):
    rate = Rate(2, per=MINUTE, key="key")
    flow = WorkflowDefinition("w", handler=limited.play, rate=rate, **options)
    for n in range(5):
        celery_engine.start(flow, {"name": f"e{n}", "key": 1})
    drain()
    assert limited.CALLS == ["e0", "e1"]
    advance(timedelta(seconds=59))
    assert limited.CALLS == ["e0", "e1"]
    advance(timedelta(seconds=2))
    assert limited.CALLS == ["e0", "e1", "e2", "e3"]
    advance(timedelta(hours=1))
    assert limited.CALLS == ["e0", "e1", "e2", "e3", "e4"]


def test_a_line_moves_within_drain(celery_engine):
    flow = WorkflowDefinition("w", handler=limited.rest, limit=Limit(1, key="key"))
    for n in range(3):
        celery_engine.start(flow, {"name": f"e{n}", "key": 1})
    drain()
    assert limited.CALLS == ["e0", "e1", "e2"]
    advance(timedelta(hours=2))
    assert sorted(limited.CALLS[3:]) == sorted(
        [f"e{n}{more}" for n in range(3) for more in ("", " again")]
    )


def test_run_needs_no_time_for_a_limit():
    rate = Rate(1, per=MINUTE)
    flow = WorkflowDefinition("w", handler=limited.rest, limit=Limit(1), rate=rate)
    assert run(flow, {"name": "one"}).state == "completed"
