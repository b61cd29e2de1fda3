"""What an operator did wrong can be taken back, on both engines: answers, results, decisions."""

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from general_manager.workflow import (
    Retry,
    WaitTimeout,
    WorkflowCancelledError,
    WorkflowExecution,
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
    WorkflowWaitMismatchError,
    acting_as,
    sleep,
    step,
    wait_for,
)
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from tests.integration.executions.test_repairs import InMemory, Stored, kinds, start
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture(params=["local", "celery"])
def world(request):
    flows.calls.clear()
    flows.troubles.clear()
    if request.param == "local":
        return InMemory()
    return Stored(request.getfixturevalue("celery_engine"), request.getfixturevalue("workers"))


def approve(input_data):
    """A step, a question, a payment that happens once, a mail; it needs a mapping for an answer."""
    prepared = step("prepare", flows.write, "prepare")
    answer = wait_for("approval", timeout=timedelta(days=1), ask=lambda: flows.note("ask"))
    receipt = step("pay", flows.note, "pay", once=True, atomic=False)
    sleep("a day", timedelta(days=1))
    step("mail", flows.note, "mail")
    approved = answer["approved"]
    flows.stumble()
    return {"prepared": prepared, "approved": approved, "receipt": receipt}


def early(input_data):
    """It fails on a wrong answer before anything else happens."""
    answer = wait_for("approval", ask=lambda: flows.note("ask"))
    return {"approved": step("read", lambda: answer["approved"])}


def caught(input_data):
    """A question whose sending failed is open while another is asked and answered."""
    try:
        first = wait_for("a", ask=flows.stumble)
    except ValueError:
        first = "not asked"
    second = wait_for("b")
    if second == "bad":
        raise RuntimeError("bad")
    return {"a": first, "b": second}


def pays_twice(input_data):
    first = step("first", flows.charge_and_tell, once=True, atomic=False)
    second = step("second", flows.note, "second", once=True, atomic=False)
    flows.stumble()
    return {"first": first, "second": second}


def catches(input_data):
    """A once-step's failure is caught, and something is done about it."""
    try:
        step("pay", flows.charge, once=True, atomic=False)
    except ValueError:
        step("apologize", flows.note, "apologize")
    flows.stumble()
    return {}


def escalates(input_data):
    try:
        return {"answer": wait_for("approval", timeout=timedelta(days=3))}
    except WaitTimeout:
        step("escalate", flows.note, "escalate")
        return {"answer": None}


def asks_for_good(input_data):
    return {"answer": wait_for("approval")}


def answered(world, handler, answer, *troubles, **arguments):
    """An execution of *handler* that got this answer and ran on as far as it came."""
    asked = start(world, handler, *troubles, **arguments)
    world.engine.resume(asked.execution_id, answer)
    world.go_on()
    return world.engine.status(asked.execution_id)


def settled(world, execution):
    world.go_on()
    return world.engine.status(execution.execution_id)


def test_o5_a_wrong_answer_is_taken_back_and_asked_again(world):
    failed = answered(world, early, True)
    assert failed.state == "failed"
    fresh = settled(
        world, world.engine.retry_from_checkpoint(failed.execution_id, before="approval")
    )
    assert (fresh.state, fresh.waiting_for) == ("waiting", "approval")
    assert "resume_signal" not in fresh.metadata
    assert flows.calls == ["ask", "ask"]
    world.engine.resume(fresh.execution_id, {"approved": True}, wait="approval")
    done = settled(world, fresh)
    assert (done.state, done.output_data) == ("completed", {"approved": True})
    assert world.engine.status(failed.execution_id) == failed


def test_o5_an_empty_answer_is_taken_back(world):
    failed = answered(world, early, None)
    fresh = settled(
        world, world.engine.retry_from_checkpoint(failed.execution_id, before="approval")
    )
    world.engine.resume(fresh.execution_id, {"approved": False})
    assert settled(world, fresh).output_data == {"approved": False}


def test_without_before_the_wrong_answer_is_kept(world):
    failed = answered(world, early, True)
    again = settled(world, world.engine.retry_from_checkpoint(failed.execution_id))
    assert again.state == "failed"
    assert flows.calls == ["ask"]


def run_to_the_end(world, answer, *troubles):
    execution = answered(world, approve, answer, *troubles)
    assert execution.state == "waiting"  # asleep
    world.let_time_pass()
    return settled(world, execution)


def test_o5_what_ended_before_the_name_is_kept_and_what_ended_after_it_is_not(world):
    failed = run_to_the_end(world, True)
    assert failed.state == "failed"
    seen = world.engine.preview_retry(failed.execution_id, before="approval", repeat_once=True)
    assert seen.kept == ("prepare",)
    assert seen.runs_again == ("pay", "a day", "mail")
    assert seen.asked_again == ("approval",)
    assert (seen.repeats_once, seen.refusal) == (("pay",), "")
    fresh = world.engine.retry_from_checkpoint(
        failed.execution_id, before="approval", repeat_once=True
    )
    settled(world, fresh)
    assert flows.calls == ["prepare", "ask", "pay", "mail", "ask"]
    assert Tag.objects.filter(name="prepare").count() == 1
    [forgotten] = [
        one for one in world.engine.history(fresh.execution_id) if one.kind == "forgotten"
    ]
    assert forgotten.detail == "approval: ask, approval, pay, a day, mail"


def test_x5_a_step_that_happens_once_is_not_repeated_unless_that_is_said(world):
    failed = run_to_the_end(world, True)
    before = world.engine.history(failed.execution_id)
    with pytest.raises(WorkflowInvalidStateError, match=r"'pay' would run again.*repeat_once=True"):
        world.engine.retry_from_checkpoint(failed.execution_id, before="approval")
    assert world.engine.history(failed.execution_id) == before
    refused = world.engine.preview_retry(failed.execution_id, before="approval")
    assert "repeat_once=True" in refused.refusal
    assert refused.repeats_once == ("pay",)
    fresh = world.engine.retry_from_checkpoint(failed.execution_id, before="mail")
    assert settled(world, fresh).state == "failed"
    assert flows.calls.count("pay") == 1


def test_a_sleep_that_is_forgotten_begins_again(world):
    failed = run_to_the_end(world, {"approved": True}, ValueError("boom"))
    assert failed.state == "failed"
    fresh = settled(world, world.engine.retry_from_checkpoint(failed.execution_id, before="a day"))
    assert (fresh.state, fresh.waiting_for) == ("waiting", None)
    world.let_time_pass()
    assert settled(world, fresh).state == "completed"
    assert flows.calls == ["prepare", "ask", "pay", "mail", "mail"]


def test_a_name_that_is_not_recorded_is_refused_in_words(world):
    failed = answered(world, early, True)
    with pytest.raises(
        WorkflowInvalidStateError, match=r"'aproval' is recorded.*'approval: ask', 'approval'"
    ):
        world.engine.retry_from_checkpoint(failed.execution_id, before="aproval")
    assert "'aproval'" in world.engine.preview_retry(failed.execution_id, before="aproval").refusal
    assert kinds(world, failed) == ["resumed"]


@pytest.mark.parametrize("name", [5, ["approval"], b"approval"])
def test_what_is_no_name_is_a_type_error(world, name):
    failed = answered(world, early, True)
    with pytest.raises(TypeError, match="before must be the name"):
        world.engine.retry_from_checkpoint(failed.execution_id, before=name)
    with pytest.raises(TypeError, match="step must be the name"):
        world.engine.resolve_step(failed.execution_id, name, happened=True)


def test_the_question_of_a_wait_may_be_named_as_well(world):
    failed = answered(world, early, True)
    fresh = world.engine.retry_from_checkpoint(failed.execution_id, before="approval: ask")
    assert settled(world, fresh).waiting_for == "approval"
    assert flows.calls == ["ask", "ask"]


def test_a_question_that_could_not_be_sent_is_not_sent_again_unless_it_is_asked_again(world):
    """The handler caught that, and went on: a retry takes the same branch."""
    waiting = start(world, caught, ValueError("no mail server"))
    assert waiting.waiting_for == "b"
    world.engine.resume(waiting.execution_id, "bad", wait="b")
    failed = settled(world, waiting)
    assert (failed.state, failed.error) == ("failed", "bad")
    seen = world.engine.preview_retry(failed.execution_id)
    assert (seen.kept, seen.asked_again) == (("a: ask", "b"), ("a",))
    seen = world.engine.preview_retry(failed.execution_id, before="b")
    assert (seen.kept, set(seen.asked_again)) == (("a: ask",), {"a", "b"})
    again = world.engine.retry_from_checkpoint(failed.execution_id, before="b")
    again = settled(world, again)
    assert again.waiting_for == "b"
    world.engine.resume(again.execution_id, "good", wait="b")
    assert settled(world, again).output_data == {"a": "not asked", "b": "good"}
    seen = world.engine.preview_retry(failed.execution_id, before="a")
    assert "a" in seen.asked_again
    assert "a: ask" not in seen.kept


def test_the_order_of_outcomes_does_not_come_from_a_workers_clock(celery_engine, workers):
    world = Stored(celery_engine, workers)
    flows.calls.clear()
    flows.troubles.clear()
    failed = run_to_the_end(world, True)
    rows = WorkflowStep.objects.order_by("position")
    for number, row in enumerate(rows):  # each worker's clock was a day behind the one before
        long_ago = row.started_at - timedelta(days=number)
        WorkflowStep.objects.filter(pk=row.pk).update(started_at=long_ago, finished_at=long_ago)
    seen = celery_engine.preview_retry(failed.execution_id, before="pay", repeat_once=True)
    assert seen.kept == ("prepare", "approval: ask", "approval")
    assert seen.runs_again == ("pay", "a day", "mail")


def test_o5_a_wrong_answer_given_in_a_continuation_is_taken_back_there(world):
    failed = answered(world, early, True)
    second = settled(
        world, world.engine.retry_from_checkpoint(failed.execution_id, before="approval")
    )
    world.engine.resume(second.execution_id, "wrong again")
    assert settled(world, second).state == "failed"
    third = settled(
        world, world.engine.retry_from_checkpoint(second.execution_id, before="approval")
    )
    world.engine.resume(third.execution_id, {"approved": 1})
    assert settled(world, third).output_data == {"approved": 1}


def test_o5_a_wrong_answer_is_taken_back_while_the_next_question_waits(world):
    waiting = answered(world, flows.ask_twice, "wrong", correlation_id="key")
    assert waiting.waiting_for == "second"
    with pytest.raises(WorkflowInvalidStateError, match="it is waiting"):
        world.engine.retry_from_checkpoint(waiting.execution_id, before="first")
    world.engine.cancel(waiting.execution_id, reason="wrong answer")
    fresh = settled(world, world.engine.retry_from_checkpoint(waiting.execution_id, before="first"))
    assert (fresh.waiting_for, fresh.correlation_id) == ("first", "key")
    assert "cancel_reason" not in fresh.metadata


def test_o5_a_wrong_answer_is_taken_back_while_the_execution_waits_for_its_next_attempt(world):
    retrying = answered(world, early, True, retry=Retry(max_attempts=9, base=3600))
    assert retrying.state == "pending"
    world.engine.cancel(retrying.execution_id)
    fresh = world.engine.retry_from_checkpoint(retrying.execution_id, before="approval")
    assert settled(world, fresh).waiting_for == "approval"


def test_o5_a_cancellation_is_taken_back(world):
    waiting = answered(world, flows.ask_twice, "yes")
    world.engine.cancel(waiting.execution_id)
    fresh = settled(world, world.engine.retry_from_checkpoint(waiting.execution_id))
    world.engine.resume(fresh.execution_id, "too", wait="second")
    assert settled(world, fresh).output_data == {"first": "yes", "second": "too"}


def test_what_completed_is_not_continued(world):
    done = start(world, flows.two_steps)
    with pytest.raises(WorkflowInvalidStateError, match="it is completed"):
        world.engine.retry_from_checkpoint(done.execution_id, before="second")
    assert "completed" in world.engine.preview_retry(done.execution_id, before="second").refusal


def in_doubt(world):
    execution = start(world, pays_twice, ValueError("line lost"))
    assert execution.state == "failed"
    return execution


def test_o5_a_wrong_result_for_a_step_in_doubt_is_corrected(world):
    doubtful = in_doubt(world)
    flows.troubles.append(RuntimeError("what receipt is that?"))
    wrong = settled(
        world,
        world.engine.resolve_step(doubtful.execution_id, "first", happened=True, result=None),
    )
    assert wrong.state == "failed"
    with pytest.raises(WorkflowInvalidStateError, match="'second' would run again"):
        world.engine.resolve_step(wrong.execution_id, "first", happened=True, result="receipt")
    right = settled(
        world,
        world.engine.resolve_step(
            wrong.execution_id, "first", happened=True, result="receipt", repeat_once=True
        ),
    )
    assert right.output_data == {"first": "receipt", "second": "second"}
    assert flows.calls == ["charge", "second", "second"]


def test_o5_it_happened_is_taken_back_when_it_had_not(world):
    doubtful = in_doubt(world)
    flows.troubles.append(RuntimeError("no such payment"))
    wrong = settled(
        world,
        world.engine.resolve_step(doubtful.execution_id, "first", happened=True, result="?"),
    )
    right = settled(
        world,
        world.engine.retry_from_checkpoint(wrong.execution_id, before="first", repeat_once=True),
    )
    assert right.output_data == {"first": "charge", "second": "second"}
    assert flows.calls == ["charge", "second", "charge", "second"]


def test_a_step_in_doubt_that_began_later_is_forgotten_with_what_it_knew(world):
    failed = answered(world, pays_what_was_approved, "wrong", ValueError("line lost"))
    assert failed.state == "failed"
    seen = world.engine.preview_retry(failed.execution_id)
    assert (seen.in_doubt, "resolve_step" in seen.refusal) == (("pay",), True)
    with pytest.raises(WorkflowInvalidStateError, match="'pay' would run again"):
        world.engine.retry_from_checkpoint(failed.execution_id, before="approval")
    fresh = world.engine.retry_from_checkpoint(
        failed.execution_id, before="approval", repeat_once=True
    )
    assert settled(world, fresh).waiting_for == "approval"


def pays_what_was_approved(input_data):
    answer = wait_for("approval")
    step("pay", flows.charge, once=True, atomic=False)
    return {"answer": answer}


def test_a_once_step_whose_failure_was_caught_runs_again_only_if_that_is_allowed(world):
    """It is not in doubt for the handler, which has seen the failure and acted on it."""
    failed = start(world, catches, ValueError("line lost"), RuntimeError("boom"))
    assert failed.state == "failed"
    assert world.engine.preview_retry(failed.execution_id).kept == ("pay", "apologize")
    assert world.engine.preview_retry(failed.execution_id, before="apologize").kept == ("pay",)
    seen = world.engine.preview_retry(failed.execution_id, before="pay")
    assert (seen.in_doubt, seen.repeats_once) == ((), ("pay",))
    with pytest.raises(WorkflowInvalidStateError, match="repeat_once"):
        world.engine.retry_from_checkpoint(failed.execution_id, before="pay")
    again = world.engine.resolve_step(failed.execution_id, "pay", happened=True, result="receipt")
    assert settled(world, again).state == "completed"
    assert flows.calls.count("charge") == 1


def test_only_a_step_that_happens_once_takes_a_result_by_hand(world):
    failed = start(world, flows.two_steps, ValueError("boom"))
    with pytest.raises(WorkflowInvalidStateError, match="'first' is not in doubt"):
        world.engine.resolve_step(failed.execution_id, "first", happened=True, result="x")


def test_a_preview_changes_nothing(world):
    failed = answered(world, early, True)
    world.engine.preview_retry(failed.execution_id, before="approval")
    assert kinds(world, failed) == ["resumed"]
    if isinstance(world, Stored):
        assert WorkflowExecutionRecord.objects.count() == 1
    with pytest.raises(WorkflowExecutionNotFoundError):
        world.engine.preview_retry("nowhere")


def test_a_wait_is_timed_out_by_hand(world):
    asked = start(world, escalates)
    with acting_as("ada"):
        world.engine.time_out(asked.execution_id, wait="approval")
    assert settled(world, asked).output_data == {"answer": None}
    assert flows.calls == ["escalate"]
    [entry] = world.engine.history(asked.execution_id)
    assert (entry.kind, entry.by, entry.step) == ("wait_ended", "ada", "approval")


def test_a_wait_without_a_time_limit_is_timed_out_by_hand_and_that_is_taken_back(world):
    asked = start(world, asks_for_good)
    world.engine.time_out(asked.execution_id)
    failed = settled(world, asked)
    assert failed.state == "failed"
    fresh = settled(
        world, world.engine.retry_from_checkpoint(failed.execution_id, before="approval")
    )
    world.engine.resume(fresh.execution_id, "yes")
    assert settled(world, fresh).output_data == {"answer": "yes"}


def test_x6_a_wait_that_was_timed_out_takes_no_answer(world):
    asked = start(world, escalates)
    world.engine.time_out(asked.execution_id)
    with pytest.raises(WorkflowInvalidStateError):
        world.engine.resume(asked.execution_id, "late")
    with pytest.raises(WorkflowInvalidStateError):
        world.engine.time_out(asked.execution_id)
    assert settled(world, asked).output_data == {"answer": None}


def test_only_the_wait_that_is_named_is_timed_out(world):
    asked = start(world, flows.ask_twice)
    with pytest.raises(WorkflowWaitMismatchError, match="'first'"):
        world.engine.time_out(asked.execution_id, wait="second")
    assert world.engine.status(asked.execution_id).waiting_for == "first"
    asleep = start(world, flows.nap)
    with pytest.raises(WorkflowInvalidStateError, match="sleeping"):
        world.engine.time_out(asleep.execution_id)
    world.engine.cancel(asleep.execution_id)
    with pytest.raises(WorkflowCancelledError):
        world.engine.time_out(asleep.execution_id)


def times_itself_out(input_data):
    from general_manager.workflow import current_execution_id, get_workflow_engine

    engine: Any = get_workflow_engine()
    try:
        wait_for("approval", ask=lambda: engine.time_out(current_execution_id()) and None)
    except WaitTimeout:
        return {"answer": "timed out"}
    return {}


def test_a_wait_is_timed_out_while_its_question_is_being_sent(world):
    from general_manager.workflow import configure_workflow_engine

    configure_workflow_engine(world.engine)
    try:
        assert start(world, times_itself_out).output_data == {"answer": "timed out"}
    finally:
        configure_workflow_engine(None)


def test_b13_the_status_says_what_is_waited_for_since_when_and_until_when(world):
    asked = start(world, approve)
    assert asked.waiting_for == "approval"
    assert asked.waiting_until - asked.waiting_since == pytest.approx(
        timedelta(days=1), abs=timedelta(seconds=30)
    )
    world.engine.resume(asked.execution_id, {"approved": True})
    asleep = settled(world, asked)
    assert (asleep.state, asleep.waiting_for) == ("waiting", None)
    assert asleep.waiting_until - asleep.waiting_since == pytest.approx(
        timedelta(days=1), abs=timedelta(seconds=30)
    )
    world.let_time_pass()
    done = settled(world, asked)
    assert done.state == "completed"
    assert (done.waiting_for, done.waiting_since, done.waiting_until) == (None, None, None)


def test_b13_a_wait_that_timed_out_is_not_waited_for_any_more(world):
    asked = start(world, times_out_and_stumbles, retry=Retry(max_attempts=5, base=3600))
    flows.troubles.append(ValueError("boom"))
    world.let_time_pass()
    retrying = settled(world, asked)
    assert (retrying.state, retrying.waiting_for) == ("pending", None)


def times_out_and_stumbles(input_data):
    try:
        wait_for("approval", timeout=timedelta(days=1))
    except WaitTimeout:
        flows.stumble()


def test_a_snapshots_fields_keep_their_places():
    assert [one.name for one in fields(WorkflowExecution)][:10] == [
        "execution_id", "workflow_id", "state", "input_data", "output_data", "correlation_id",
        "started_at", "ended_at", "error", "metadata",
    ]  # fmt: skip


def test_b9_a_finished_sleep_is_no_missing_answer(world):
    asleep = start(world, flows.nap)
    world.let_time_pass()
    assert settled(world, asleep).state == "completed"
    assert kinds(world, asleep) == []


def test_b9_a_failed_attempt_names_its_step_and_its_number(world):
    execution = start(
        world, fails_in_a_step, ValueError("boom"), ValueError("again"),
        retry=Retry(max_attempts=9, base=3600),
    )  # fmt: skip
    world.let_time_pass()
    settled(world, execution)
    told = [(one.number, one.step, one.detail) for one in world.engine.history(
        execution.execution_id)]  # fmt: skip
    assert told == [(1, "risky", "boom"), (2, "risky", "wrapped")]


def fails_in_a_step(input_data):
    try:
        step("risky", flows.stumble)
    except ValueError as error:
        if "again" in str(error):
            raise RuntimeError("wrapped") from error
        raise
    return {}


def test_b9_a_failure_between_steps_names_none(world):
    execution = start(
        world, flows.two_steps, ValueError("boom"), retry=Retry(max_attempts=9, base=3600)
    )
    [entry] = world.engine.history(execution.execution_id)
    assert (entry.number, entry.step) == (1, "")


def test_b8_executions_are_found_by_their_correlation_id(world):
    first = start(world, flows.ask, correlation_id="loan-1")
    start(world, flows.ask, correlation_id="loan-13")
    found = world.engine.executions(correlation_id="loan-1")
    assert [one.execution_id for one in found] == [first.execution_id]
    assert not world.engine.executions(correlation_id="loan")
    assert world.engine.executions(workflow="w")[:1].count() == 1
    newest = world.engine.executions(workflow="w")[0]
    assert newest.correlation_id == "loan-13"
