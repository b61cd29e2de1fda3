"""`continue_as_new`: an endless workflow, in executions that end, on every engine."""

from datetime import timedelta
from itertools import pairwise

import pytest

from general_manager.workflow import WorkflowDefinition, WorkflowInvalidStateError
from general_manager.workflow.signals import execution_changed
from tests.testapp import plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HOUR = timedelta(hours=1)
PAYMENTS = WorkflowDefinition("payments", handler=plays.count_payments)


def define(handler, **options):
    return WorkflowDefinition("w", handler=handler, **options)


def chain(engine):
    """Every execution, the oldest first."""
    return list(engine.executions())[::-1]


def test_an_execution_goes_on_as_a_new_one_without_steps(engine, started):
    found = started(define(plays.count_down), {"left": 3}, metadata={"by": "ada"})
    assert (found.state, found.output_data) == ("completed", {"counted": True})
    executions = chain(engine)
    assert [one.input_data["left"] for one in executions] == [3, 2, 1, 0]
    assert plays.stage.calls == ["at 3", "at 2", "at 1", "at 0"]
    for old, new in pairwise(executions):
        assert (old.state, old.output_data) == ("completed", {})
        assert old.metadata["continued_as"] == new.execution_id
        assert new.metadata["continues"] == old.execution_id
        assert new.metadata["by"] == "ada"
    assert "continued_as" not in executions[-1].metadata


def test_an_old_id_answers_for_the_newest_in_every_verb(engine, driver, started):
    first = started(PAYMENTS, {}).execution_id
    engine.signal(first, "paid", 1)
    driver.settle()
    now = engine.status(first)
    assert now.execution_id != first
    assert (now.state, now.waiting_for, now.input_data["total"]) == ("waiting", "paid", 1)
    assert engine.find_wait(first, "paid").outcome == "open"
    assert engine.find_wait(first, "paid").execution_id == now.execution_id
    engine.resume(first, 2, wait="paid")
    driver.settle()
    last = engine.status(first)
    assert last.execution_id not in (first, now.execution_id)
    assert last.input_data["total"] == 3
    assert engine.status(now.execution_id) == last
    assert [one.kind for one in engine.history(first)] == ["continues"]
    assert engine.cancel(first, reason="enough").execution_id == last.execution_id
    assert engine.status(first).state == "cancelled"
    with pytest.raises(WorkflowInvalidStateError, match="it is cancelled"):
        engine.resume(first, 3)
    fresh = engine.retry_from_checkpoint(first)
    driver.settle()
    assert engine.status(first).execution_id == fresh.execution_id
    assert engine.status(last.execution_id).state == "cancelled"


def test_m1_signals_belong_to_the_chain(engine, driver, started):
    """Some come before their execution exists, to whichever id the sender knows."""
    at = driver.now() + HOUR
    first = engine.start(PAYMENTS, {}, at=at, correlation_id="c").execution_id
    for amount in (1, 2):
        engine.signal(first, "paid", amount)
    driver.pass_time(HOUR)
    driver.settle()
    assert engine.status(first).input_data == {"total": 3, "count": 2}
    engine.signal(workflow=PAYMENTS, correlation_id="c", name="paid", value=4)
    driver.settle()
    assert engine.status(first).output_data == {"total": 7}
    assert [(one.value, one.status) for one in engine.signals(first)] == [
        (1, "taken"),
        (2, "taken"),
        (4, "taken"),
    ]
    assert len({one.taken_by for one in engine.signals(first)}) == 3


def test_the_correlation_id_passes_on_and_stays_taken(engine, driver, started):
    first = started(PAYMENTS, {}, correlation_id="c").execution_id
    engine.signal(first, "paid", 1)
    driver.settle()
    second = engine.status(first).execution_id
    assert engine.start(PAYMENTS, {}, correlation_id="c").execution_id == second
    assert len(chain(engine)) == 2
    engine.cancel(first)
    assert started(PAYMENTS, {}, correlation_id="c").execution_id not in (first, second)


def test_the_deadline_passes_on(engine, driver, started):
    definition = define(plays.count_payments, deadline=HOUR)
    first = started(definition, {}).execution_id
    driver.pass_time(HOUR / 2)
    engine.signal(first, "paid", 1)
    driver.settle()
    second = engine.status(first)
    assert abs(second.deadline - (driver.now() + HOUR / 2)) < timedelta(minutes=1)
    driver.pass_time(HOUR / 2)
    driver.settle()
    assert engine.status(first).state == "failed"
    assert "DeadlinePassed" in engine.status(first).traceback


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("in a step", "is called inside step 'inner'"),
        ("in a transaction", "inside a transaction that the handler opened"),
        ("with an open wait", "while the wait 'open' is open"),
        ("with bytes", "input_data.bytes: JSON cannot contain bytes"),
    ],
)
def test_it_is_refused(engine, started, where, why):
    execution = started(define(plays.renew_badly), {"where": where})
    assert execution.state == "failed"
    assert why in execution.error
    assert len(chain(engine)) == 1


def test_a_handler_that_swallows_it_has_ended_all_the_same(engine, started):
    execution = started(define(plays.swallow_the_renewal))
    assert execution.output_data == {"again": True}
    assert plays.stage.calls == ["swallowed"]


def test_observers_hear_of_both(engine, started):
    heard = []

    def hear(execution, **_):
        heard.append((execution.input_data["left"], str(execution.state)))

    execution_changed.connect(hear)
    try:
        started(define(plays.count_down), {"left": 1})
    finally:
        execution_changed.disconnect(hear)
    each = ["pending", "running", "completed"]
    assert heard == [(1, state) for state in each] + [(0, state) for state in each]


def test_a_long_chain_does_not_deepen_the_stack(engine, started):
    assert started(define(plays.count_down), {"left": 300}).output_data == {"counted": True}
