"""`Limit` and `Rate`: what they accept, and which executions share a line."""

import pickle
from datetime import timedelta
from typing import Any

import pytest

from general_manager.workflow import Limit, LimitKeyError, Rate, WorkflowDefinition
from general_manager.workflow.core.limits import Line, Numbers, declared_numbers, line_of

MINUTE = timedelta(minutes=1)
FIVE: Any = 5


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Limit(0), ValueError, "Limit.most must be 1 or more, not 0"),
        (lambda: Limit(True), TypeError, "Limit.most must be a whole number, not True"),
        (lambda: Limit(2.5), TypeError, "not 2.5"),
        (lambda: Limit(1, key=""), ValueError, "Limit.key must not be empty"),
        (lambda: Limit(1, name=7), TypeError, "Limit.name must be text, not 7"),
        (lambda: Rate(0, per=MINUTE), ValueError, "Rate.most must be 1 or more"),
        (lambda: Rate(1, per=60), TypeError, "Rate.per must be a timedelta, not 60"),
        (lambda: Rate(1, per=timedelta(0)), ValueError, "longer than 0"),
        (lambda: Rate(1, per=timedelta(days=366)), ValueError, "at most a year"),
        (lambda: WorkflowDefinition("w", limit=FIVE), TypeError, "limit must be a Limit or None"),
        (lambda: WorkflowDefinition("w", rate=FIVE), TypeError, "rate must be a Rate or None"),
    ],
)
def test_a_wrong_value_is_refused_by_name(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("different", [{"key": "other"}, {"name": "erp"}])
def test_a_limit_and_a_rate_of_one_workflow_wait_in_one_line(different):
    with pytest.raises(ValueError, match="must have the same") as caught:
        WorkflowDefinition("w", limit=Limit(1, key="a"), rate=Rate(1, per=MINUTE, **different))
    assert "wait in one line" in str(caught.value)


def key(workflow_id, limit, data):
    line = line_of(workflow_id, limit, None, data)
    assert line is not None
    return line.key


def test_executions_share_slots_by_scope_and_value():
    mine = Limit(1, key="a")
    shared = Limit(1, key="a", name="erp")
    assert key("w", mine, {"a": 1}) == key("w", mine, {"a": 1, "b": 2})
    assert key("w", mine, {"a": 1}) != key("v", mine, {"a": 1})
    assert key("w", shared, {"a": 1}) == key("v", shared, {"a": 1})
    values = [{"a": value} for value in (1, 2, "1", True, None, "", 1.5)]
    assert len({key("w", mine, one) for one in values}) == len(values)
    assert key("w", Limit(1), {}) not in {key("w", mine, one) for one in values}
    assert key("erp", Limit(1, key="a"), {"a": 1}) != key("w", shared, {"a": 1})


def test_a_line_can_be_stored():
    rate = Rate(5, per=timedelta(seconds=90), key="a.b")
    line = line_of("w", Limit(2, key="a.b"), rate, {"a": {"b": "ada"}})
    assert line is not None
    assert Line.from_json(line.key, line.to_json()) == line
    assert line.label == "w: a.b=ada"
    assert str(line.numbers) == "2 at once, 5 per 90 s"
    long = line_of("w", Limit(1, key="a"), None, {"a": "x" * 1000})
    assert long is not None
    assert len(long.label) == 255


def test_a_secret_value_is_not_part_of_the_label():
    shown = line_of("w", Limit(1, key="account.password"), None, {"account": {"password": "x"}})
    other = line_of("w", Limit(1, key="account.password"), None, {"account": {"password": "y"}})
    assert shown is not None
    assert other is not None
    assert shown.label == other.label == "w: account.password=••••••"
    assert shown.key != other.key


def test_the_error_keeps_its_arguments():
    error = pickle.loads(pickle.dumps(LimitKeyError("w", "a", "which is missing")))
    assert (error.workflow_id, error.path) == ("w", "a")
    assert str(error).startswith("Workflow 'w' is limited by 'a', which is missing.")


def test_the_latest_definition_of_a_workflow_counts():
    WorkflowDefinition("w", limit=Limit(1))
    WorkflowDefinition("w", limit=Limit(2))
    assert declared_numbers("workflow:w") == Numbers(2)
    WorkflowDefinition("w")
    assert declared_numbers("workflow:w") is None
