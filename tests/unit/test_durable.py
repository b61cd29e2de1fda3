"""What a handler may call: steps that are remembered, waits, sleeps."""

from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any, cast

import pytest

from general_manager.workflow.durable import current_execution_id, sleep, step, wait_for
from general_manager.workflow.engine import Retry, WorkflowDefinition
from general_manager.workflow.exceptions import StepUsageError, WaitTimeout


def noted(calls, name, result):
    calls.append(name)
    return result


def run(engine, handler, **arguments):
    return engine.start(WorkflowDefinition("w", handler=handler, **arguments))


def test_a_finished_step_is_not_run_again_when_the_execution_continues(engine):
    calls = []

    def handler(data):
        held = step("hold", partial(noted, calls, "hold", {"seat": 7}))
        answer = wait_for("approval")
        bought = step("buy", partial(noted, calls, "buy", held["seat"]))
        return {"answer": answer, "bought": bought}

    execution = run(engine, handler)
    assert calls == ["hold"]
    execution = engine.resume(execution.execution_id, "yes")
    assert execution.output_data == {"answer": "yes", "bought": 7}
    assert calls == ["hold", "buy"]


def test_a_result_is_the_same_the_first_time_and_every_time(engine):
    seen = []

    def handler(data):
        result = step("price", lambda: {"total": Decimal("1.50"), "items": (1, 2)})
        seen.append(result)
        result["items"].append("mine")
        wait_for("go")

    engine.resume(run(engine, handler).execution_id)
    assert seen == [{"total": "1.50", "items": [1, 2, "mine"]}] * 2


def test_a_step_passes_its_arguments_on(engine):
    def handler(data):
        return {"sum": step("sum", lambda *a, **k: [*a, k], 1, 2, name="x")}

    assert run(engine, handler).output_data == {"sum": [1, 2, {"name": "x"}]}


def test_a_step_that_fails_is_run_again(engine, clock):
    calls = []

    def flaky():
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("once")
        return "ok"

    execution = run(
        engine, lambda data: {"got": step("flaky", flaky)}, retry=Retry(base=1, jitter=0)
    )
    assert execution.state == "pending"
    clock.advance(seconds=1)
    assert engine.status(execution.execution_id).output_data == {"got": "ok"}


def test_a_step_that_must_run_once_is_not_run_again_and_says_so(engine, clock):
    calls = []

    def charge():
        calls.append(1)
        raise ConnectionError("lost the line")

    execution = run(
        engine,
        lambda data: step("charge", charge, once=True),
        retry=Retry(max_attempts=9, base=1, jitter=0),
    )
    clock.advance(seconds=1)
    execution = engine.status(execution.execution_id)
    assert execution.state == "failed"
    assert "Step 'charge'" in execution.error
    assert "may have happened" in execution.error
    assert calls == [1]


def test_a_step_that_must_run_once_and_did_is_remembered(engine):
    calls = []

    def handler(data):
        step("charge", lambda: calls.append(1), once=True)
        wait_for("go")

    engine.resume(run(engine, handler).execution_id)
    assert calls == [1]


def test_a_result_that_is_not_json_fails_with_the_steps_name(engine):
    execution = run(engine, lambda data: step("load", lambda: {"x": object()}))
    assert execution.state == "failed"
    assert "the result of step 'load'.x" in execution.error


def test_a_name_used_twice_is_refused_with_advice(engine):
    def handler(data):
        for item in (1, 2):
            step("same", abs, item)

    execution = run(engine, handler)
    assert execution.state == "failed"
    assert "'same' is used twice" in execution.error
    assert "in a loop" in execution.error


@pytest.mark.parametrize(
    "inner",
    [
        lambda: step("inner", dict),
        lambda: wait_for("inner"),
        lambda: sleep("inner", timedelta(1)),
    ],
)
def test_a_step_holds_no_step_and_no_wait(engine, inner):
    execution = run(engine, lambda data: step("outer", inner))
    assert execution.state == "failed"
    assert "'inner' is called inside step 'outer'" in execution.error


def test_outside_an_execution_a_step_is_a_plain_call():
    assert step("sum", sum, [1, 2]) == 3
    assert current_execution_id() is None


@pytest.mark.parametrize("call", [lambda: wait_for("x"), lambda: sleep("x", timedelta(1))])
def test_outside_an_execution_nothing_can_wait(call):
    with pytest.raises(StepUsageError, match="outside a workflow's handler"):
        call()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (step, ["x", "not callable"]),
        (step, [7, dict]),
        (step, ["", dict]),
        (step, ["x" * 256, dict]),
        (wait_for, [None]),
        (partial(cast(Any, wait_for), timeout=5), ["x"]),
        (partial(wait_for, timeout=timedelta(-1)), ["x"]),
        (partial(cast(Any, wait_for), ask="mail"), ["x"]),
        (sleep, ["x", 5]),
        (sleep, ["x", timedelta(-1)]),
    ],
)
def test_wrong_arguments_are_refused_and_leave_nothing(engine, function: Any, arguments):
    def handler(data):
        with pytest.raises((TypeError, ValueError)):
            function(*arguments)

    assert run(engine, handler).state == "completed"


# Waits


def test_nobody_answering_in_time_is_reported_to_the_handler(engine, clock):
    def handler(data):
        try:
            wait_for("approval", timeout=timedelta(days=3))
        except WaitTimeout as timeout:
            return {"expired": timeout.name}

    execution = run(engine, handler)
    clock.advance(days=2)
    assert engine.status(execution.execution_id).state == "waiting"
    clock.advance(days=1)
    assert engine.status(execution.execution_id).output_data == {"expired": "approval"}


def test_an_answer_comes_too_late_once_the_timeout_is_written(engine, clock):
    def handler(data):
        try:
            return {"answer": wait_for("first", timeout=timedelta(hours=1))}
        except WaitTimeout:
            return {"second": wait_for("second")}

    execution = run(engine, handler)
    clock.advance(hours=1)
    engine.status(execution.execution_id)
    with pytest.raises(Exception, match="waiting for 'second'"):
        engine.resume(execution.execution_id, "late", wait="first")
    assert engine.resume(execution.execution_id, 2).output_data == {"second": 2}


def test_the_outcome_of_a_wait_stands_for_every_later_run(engine, clock):
    def handler(data):
        try:
            first = wait_for("first", timeout=timedelta(hours=1))
        except WaitTimeout:
            first = "nobody"
        return {"first": first, "second": wait_for("second")}

    answered = run(engine, handler)
    engine.resume(answered.execution_id, "me")
    clock.advance(hours=9)
    assert engine.resume(answered.execution_id, 2).output_data == {"first": "me", "second": 2}
    timed_out = run(engine, handler)
    clock.advance(hours=9)
    engine.status(timed_out.execution_id)
    assert engine.resume(timed_out.execution_id, 2).output_data == {"first": "nobody", "second": 2}


def test_the_question_is_asked_once_and_after_the_wait_is_open(engine):
    asked = []

    def ask():
        asked.append(engine.executions()[0].state)

    def handler(data):
        wait_for("first", ask=ask)
        return {"got": wait_for("second")}

    execution = run(engine, handler)
    engine.resume(execution.execution_id)
    engine.resume(execution.execution_id)
    assert asked == ["running"]


def test_an_answer_that_comes_while_the_question_is_sent_is_kept(engine):
    def ask():
        return str(engine.resume(current_execution_id(), "at once", wait="approval").state)

    execution = run(engine, lambda data: {"got": wait_for("approval", ask=ask)})
    assert execution.state == "completed"
    assert execution.output_data == {"got": "at once"}


def test_a_handler_that_swallows_everything_still_waits(engine):
    after = []

    def handler(data):
        try:
            wait_for("approval")
        except BaseException:
            after.append("swallowed")
        return {"went": "on"}

    execution = run(engine, handler)
    assert (execution.state, after) == ("waiting", ["swallowed"])


def test_once_it_must_stop_a_handler_can_do_nothing_more(engine):
    done: list[int] = []

    def handler(data):
        try:
            wait_for("approval")
        finally:
            step("clean up", done.append, 1)

    assert run(engine, handler).state == "waiting"
    assert done == []


def test_an_error_raised_on_the_way_out_does_not_undo_the_wait(engine):
    def handler(data):
        try:
            wait_for("approval")
        finally:
            raise ValueError("on the way out")

    assert run(engine, handler).state == "waiting"


# Sleeps


def test_sleep_counts_from_the_first_time_it_is_reached(engine, clock):
    def handler(data):
        sleep("a day", timedelta(days=1))
        return {"woke": True}

    execution = run(engine, handler)
    assert execution.state == "waiting"
    clock.advance(hours=23)
    assert engine.run_due() == 0
    assert engine.status(execution.execution_id).state == "waiting"
    clock.advance(hours=1)
    assert engine.run_due() == 1
    assert engine.status(execution.execution_id).output_data == {"woke": True}


def test_no_time_at_all_is_over_at_once(engine):
    def handler(data):
        sleep("nothing", timedelta(0))
        with pytest.raises(WaitTimeout):
            wait_for("nobody", timeout=timedelta(0))

    assert run(engine, handler).state == "completed"
