"""The test kit, used as a project's tests would use it."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.test import TestCase

from general_manager.workflow import (
    Retry,
    StepUsageError,
    WaitTimeout,
    WorkflowDefinition,
    WorkflowEvent,
    continue_as_new,
    get_event_registry,
    sleep,
    step,
    wait_for,
)
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.testing import (
    TIMEOUT,
    assert_crash_safe,
    assert_published,
    drain,
    run,
)
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(databases=["default", "archive"])

EVENT = WorkflowEvent("e1", "shop.paid", {"order": {"id": 7, "total": 5}}, event_name="paid")


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()


def trip(data):
    held = step("hold", flows.write, f"held {data['seat']}")
    sleep("overnight", timedelta(days=1))
    approved = wait_for("approval", timeout=timedelta(days=3))
    return {"held": held, "bought": step("buy", flows.write, f"bought for {approved}")}


def test_a_workflow_is_run_to_its_end_in_one_call():
    execution = run(trip, {"seat": 3}, answers={"approval": "ada"})
    assert execution.output_data == {"held": "held 3", "bought": "bought for ada"}


def test_a_wait_without_an_answer_times_out_at_once():
    assert run(flows.ask).output_data == {"answer": "nobody"}
    assert run(flows.ask, answers={"approval": TIMEOUT}).output_data == {"answer": "nobody"}


def test_a_wait_without_answer_or_timeout_is_left_waiting():
    assert run(flows.ask_twice, answers={"first": 1}).state == "waiting"


def test_an_answer_may_be_made_when_the_question_comes():
    answers = {"first": lambda: flows.note("asked"), "second": 2}
    assert run(flows.ask_twice, answers=answers).output_data == {"first": "asked", "second": 2}


def boss_is_asked_and_then_it_fails(data):
    wait_for("boss", timeout=timedelta(days=1), ask=lambda: None)
    raise ValueError("boom")


@pytest.mark.parametrize(
    ("workflow", "answers", "said"),
    [
        (flows.echo, {"aproval": True}, r"'aproval'\. Asked: none\. .* completed"),
        (flows.ask, {"aproval": True}, r"'aproval' \(did you mean 'approval'\?\)"),
        (flows.ask, {"aproval": TIMEOUT}, r"did you mean 'approval'"),
        (flows.ask_twice, {"frist": 1}, r"did you mean 'first'\?\).* waits for .* 'first'"),
        (flows.ask_twice, {"first": 1, "secnd": 2}, r"did you mean 'second'.*for .* 'second'"),
        (boss_is_asked_and_then_it_fails, {"bos": 1}, r"did you mean 'boss'.* failed: Wait"),
        (flows.fail, {"boss": 1}, r"'boss'\. Asked: none\. The execution failed: boom"),
    ],
)
def test_an_answer_to_a_question_that_is_never_asked_is_an_error_however_it_ends(
    workflow, answers, said
):
    with pytest.raises(AssertionError, match=said):
        run(workflow, answers=answers)


def test_rests_between_attempts_pass_at_once():
    flows.troubles += [ValueError("one"), ValueError("two")]
    definition = WorkflowDefinition("w", handler=flows.two_steps, retry=Retry(base=3600))
    assert run(definition).state == "completed"


def test_drain_delivers_and_runs_all_that_is_due_inside_a_test_case(outbox, celery_engine):
    outbox.register("paid", handler=flows.start_from_event)
    outbox.publish(EVENT)
    assert drain() == 2
    assert WorkflowExecutionRecord.objects.get().state == "completed"
    assert drain() == 0


def test_drain_leaves_alone_what_waits(celery_engine):
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.ask))
    assert drain() == 1
    assert celery_engine.status(execution.execution_id).state == "waiting"
    celery_engine.resume(execution.execution_id, "yes")
    assert drain() == 1
    assert celery_engine.status(execution.execution_id).output_data == {"answer": "yes"}


def test_drain_fires_the_timers_of_the_local_engine(engine, clock):
    execution = engine.start(WorkflowDefinition("w", handler=flows.nap))
    assert drain() == 0
    clock.advance(days=2)
    assert drain() == 1
    assert engine.status(execution.execution_id).state == "completed"


def test_what_is_published_can_be_asserted(outbox):
    with assert_published("paid", count=1, payload={"order": {"id": 7}}) as events:
        outbox.publish(EVENT)
    assert events == [EVENT]


@pytest.mark.parametrize(
    ("name", "options"),
    [("refunded", {}), ("paid", {"count": 2}), ("paid", {"payload": {"order": {"id": 8}}})],
)
def test_what_was_not_published_is_an_error_that_lists_what_was(outbox, name, options):
    complaint = pytest.raises(AssertionError, match=r"Published were:\n  paid: ")
    with complaint, assert_published(name, **options):
        outbox.publish(EVENT)


def test_the_fixtures_are_there_without_being_imported(published_events, drain_workflows):
    get_event_registry().publish(EVENT)
    assert [one.event_id for one in published_events] == ["e1"]
    assert drain_workflows() == 0


class TestInDjangosTestCase(TestCase):
    databases = "__all__"

    def test_a_workflow_is_run_inside_a_test_case(self):
        assert run(trip, {"seat": 1}, answers={"approval": 1}).state == "completed"


def test_a_workflow_that_keeps_to_the_rules_is_crash_safe():
    output = assert_crash_safe(trip, {"seat": 3}, answers={"approval": "ada"})
    assert output["bought"] == "bought for ada"
    assert not Tag.objects.exists()


def write_between_steps(data):
    step("first", flows.note, "first")
    Tag.objects.create(name="between")
    step("second", flows.note, "second")


def test_a_write_between_steps_is_found_to_be_unsafe():
    with pytest.raises(AssertionError, match="a crash before step 'second'"):
        assert_crash_safe(write_between_steps)


def write_outside_of_the_transaction(data):
    step("outside", flows.write, "outside", atomic=False)


def test_a_write_that_does_not_commit_with_its_step_is_found_to_be_unsafe():
    with pytest.raises(AssertionError, match="a crash in step 'outside'"):
        assert_crash_safe(write_outside_of_the_transaction)


def count_calls(data):
    step("first", flows.note, "first")
    flows.note("between")
    step("second", flows.note, "second")
    return {"calls": len(flows.calls)}


def test_an_output_that_depends_on_what_ran_twice_is_found_to_be_unsafe():
    with pytest.raises(AssertionError, match="it returns"):
        assert_crash_safe(count_calls)


def test_a_step_that_must_run_once_may_end_in_doubt():
    assert assert_crash_safe(flows.charge_once) == {}


def test_a_workflow_that_waits_indefinitely_has_no_end_to_compare():
    with pytest.raises(AssertionError, match="'first' has neither an answer nor a timeout"):
        assert_crash_safe(flows.ask_twice)


@transaction.atomic
def ask_in_a_transaction(data):
    return {"answer": wait_for("answer")}


@transaction.atomic
def note_in_a_transaction(data):
    step("note", flows.note, "noted", atomic=False)


@pytest.mark.parametrize("handler", [ask_in_a_transaction, note_in_a_transaction])
def test_the_kit_refuses_what_would_be_undone_with_the_handlers_transaction(handler):
    """The test case's own transaction, in which all of this runs, does not count."""
    failed = run(handler)
    assert failed.state == "failed"
    assert failed.error is not None
    assert "inside a transaction that the handler opened" in failed.error
    with pytest.raises(StepUsageError, match="inside a transaction that the handler opened"):
        assert_crash_safe(handler, answers={"answer": "yes"})
    assert flows.calls == []


def test_in_a_test_cases_transaction_a_wait_is_a_wait(celery_engine):
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.ask))
    drain()
    assert celery_engine.status(execution.execution_id).state == "waiting"


def pay_twice(data):
    return {"paid": [wait_for(f"payment {n}", signal="paid") for n in (1, 2)]}


def test_signals_are_sent_in_order_before_the_handler_runs():
    assert run(pay_twice, signals=[("paid", 1), ("paid", 2)]).output_data == {"paid": [1, 2]}
    both = run(pay_twice, signals={"paid": 1}, answers={"payment 2": 2})
    assert both.output_data == {"paid": [1, 2]}


@pytest.mark.parametrize("handler", [pay_twice, lambda data: {}])
def test_a_signal_that_no_wait_takes_is_an_error(handler):
    with pytest.raises(AssertionError, match=r"taken by no wait: 'payed'\. The execution "):
        run(handler, signals=[("payed", 1)])


def test_drain_looks_for_signals_of_a_transaction_that_a_test_case_never_commits(celery_engine):
    key = celery_engine.start(WorkflowDefinition("w", handler=flows.wait_once)).execution_id
    drain()
    with transaction.atomic():
        celery_engine.signal(key, "approval", 1)
    assert celery_engine.status(key).state == "waiting"
    drain()
    assert celery_engine.status(key).output_data == {"answer": 1}


def adds_up(data):
    total = data["total"] + wait_for("payment", signal="paid")
    if total < 6:
        continue_as_new({"total": total})
    return {"total": total}


def test_a_workflow_that_continues_as_new_is_run_to_the_end_of_its_chain():
    found = run(adds_up, {"total": 0}, signals=[("paid", 1), ("paid", 2), ("paid", 3)])
    assert found.output_data == {"total": 6}


def sum_of_orders(data):
    try:
        order = wait_for("order", timeout=timedelta(days=1))
    except WaitTimeout:
        order = None
    if order is not None:
        continue_as_new({"total": data["total"] + order})
    return data


def test_an_answer_that_is_made_is_made_for_each_execution_of_a_chain():
    orders = iter([1, 2, 3])
    answers = {"order": lambda: next(orders, TIMEOUT)}
    assert run(sum_of_orders, {"total": 0}, answers=answers).output_data == {"total": 6}
    assert run(sum_of_orders, {"total": 0}, answers={"order": 5}).output_data == {"total": 5}


def test_a_workflow_is_crash_safe_up_to_where_it_continues_as_new():
    def renews(data):
        continue_as_new({"total": data["total"] + step("one", lambda: 1)})

    assert assert_crash_safe(renews, {"total": 2}) == {"total": 3}
    values = iter(range(100))

    def forgets(data):
        step("one", lambda: 1)
        continue_as_new({"value": next(values) % 7})

    with pytest.raises(AssertionError, match="returns"):
        assert_crash_safe(forgets)
