"""manage.py check names limits that contradict each other, cost too much, or move too slowly."""

from datetime import timedelta

import pytest

from general_manager.checks import check_limits
from general_manager.workflow import Limit, Rate, WorkflowDefinition
from general_manager.workflow.core import limits

MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _none_declared():
    limits._declared.clear()


def found():
    return [(str(one.id).rpartition(".")[2], one.msg) for one in check_limits()]


def test_right_limits_have_nothing_to_say():
    shared = Limit(5, key="a", name="erp")
    WorkflowDefinition("one", limit=shared)
    WorkflowDefinition("two", limit=shared)
    WorkflowDefinition("three", limit=Limit(10_000), rate=Rate(10_000, per=MINUTE))
    assert found() == []


def test_one_name_with_different_numbers_is_an_error():
    WorkflowDefinition("one", limit=Limit(5, name="erp"))
    WorkflowDefinition("two", limit=Limit(6, name="erp"))
    WorkflowDefinition("erp", limit=Limit(7))
    [(code, message)] = found()
    assert code == "E030"
    assert message == (
        "The limit 'erp' has different numbers: 5 at once in workflow 'one' and 6 at once in "
        "workflow 'two'."
    )


def test_large_numbers_and_short_periods_are_warnings():
    WorkflowDefinition("large", limit=Limit(10_001))
    WorkflowDefinition("short", rate=Rate(1, per=timedelta(seconds=4)))
    codes = dict(found())
    assert set(codes) == {"W050", "W051"}
    assert "'large' has a limit or rate of 10,001" in codes["W050"]
    assert "'short' is per 4.0 s" in codes["W051"]
    assert "every 5.0 s" in codes["W051"]
