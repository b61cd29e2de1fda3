"""Signals and waits on real connections: whatever the order, and whoever dies, none is missed."""

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from general_manager.workflow import WorkflowDefinition, WorkflowInvalidStateError, wait_for
from general_manager.workflow.core.ids import new_id
from general_manager.workflow.executions.runner import run
from general_manager.workflow.executions.signals import send
from general_manager.workflow.models import (
    WorkflowExecutionRecord,
    WorkflowSignal,
    WorkflowStep,
)
from general_manager.workflow.models.executions.looks import look
from general_manager.workflow.models.executions.renewal import continue_as_new
from general_manager.workflow.workers.tick import sweep
from tests.integration.executions.stepping import (
    dying_at_each_statement,
    every_interleaving,
    let_time_pass,
    run_what_is_ready,
)
from tests.integration.outbox.test_races import race
from tests.testapp import flows, plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

TWO = WorkflowDefinition("two", handler=plays.ask_for_payments)
ONE = WorkflowDefinition("one", handler=flows.wait_once)
RENEWS = WorkflowDefinition("renews", handler=plays.count_payments)
ASKS = WorkflowDefinition("asks", handler=plays.ask_for_one)

two_connections = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="There, one writer excludes all others"
)


@pytest.fixture(autouse=True)
def _fresh_stage():
    plays.reset()
    yield
    plays.reset()


def recover():
    for _ in range(5):
        let_time_pass()
        sweep(hand_on=False)


def started(engine, definition=ONE, **options):
    return engine.start(definition, {}, **options).execution_id


def status(engine, key):
    execution = engine.status(key)
    return execution.state, execution.output_data


@two_connections
@pytest.mark.parametrize("definition", [ONE, ASKS], ids=["without a question", "with one"])
def test_m1_a_signal_and_the_wait_that_opens_do_not_miss_each_other(celery_engine, definition):
    """A sender that looks before its commit, or a run that does not look, would lose it."""
    name = "approval" if definition is ONE else "paid"

    def runs(key):
        run(key, "default")

    def signals(key):
        celery_engine.signal(key, name, 1)

    def check(key, where):
        run_what_is_ready()
        state, output = status(celery_engine, key)
        assert (state, list((output or {}).values())) == ("completed", [1]), where
        [signal] = WorkflowSignal.objects.filter(chain=key)
        assert (signal.status, signal.available_at) == ("taken", None), where

    every_interleaving(lambda: started(celery_engine, definition), runs, signals, check)


@two_connections
def test_m1_a_signal_of_a_transaction_does_not_miss_a_wait_that_opens_before_its_commit(
    celery_engine,
):
    def runs(key):
        run(key, "default")

    def signals(key):
        with transaction.atomic():
            celery_engine.signal(key, "approval", 1)
            WorkflowExecutionRecord.objects.count()  # some more of the caller's work

    def check(key, where):
        run_what_is_ready()
        assert status(celery_engine, key) == ("completed", {"answer": 1}), where

    every_interleaving(lambda: started(celery_engine), runs, signals, check)


@two_connections
def test_m1_of_two_looks_at_once_each_gives_its_signal_once(celery_engine):
    """Looks that lock nothing would both give the same signal, or out of order."""

    def waiting():
        key = started(celery_engine, TWO)
        run(key, "default")
        return key

    def sends_one(key):
        celery_engine.signal(key, "paid", 1)
        run_what_is_ready()

    def sends_two(key):
        celery_engine.signal(key, "paid", 2)

    def check(key, where):
        run_what_is_ready()
        state, output = status(celery_engine, key)
        assert state == "completed", where
        in_order = list(WorkflowSignal.objects.filter(chain=key).order_by("pk"))
        taken_as = {one.taken_as: one.value for one in in_order}
        assert output == {"paid": [taken_as["payment 1"], taken_as["payment 2"]]}, where
        assert sorted(output["paid"]) == [1, 2], where

    every_interleaving(waiting, sends_one, sends_two, check)


@two_connections
def test_m1_a_timeout_and_a_signal_give_one_outcome_and_the_loser_leaves_the_signal(celery_engine):
    def due():
        key = started(celery_engine, ASKS)
        WorkflowExecutionRecord.objects.filter(execution_id=key).update(
            input_data={"timeout": 3600}
        )
        run(key, "default")
        past = timezone.now() - timedelta(seconds=1)
        WorkflowStep.objects.filter(name="paid").update(until=past)
        WorkflowExecutionRecord.objects.filter(execution_id=key).update(wake_at=past)
        return key

    def times_out(key):
        run(key, "default")

    def signals(key):
        try:
            celery_engine.signal(key, "paid", 1)
        except WorkflowInvalidStateError:
            WorkflowSignal.objects.create(chain=key, sent_to=key, name="refused", value=0)

    def check(key, where):
        run_what_is_ready()
        state, output = status(celery_engine, key)
        [signal] = WorkflowSignal.objects.filter(chain=key)
        won = signal.status == "taken"
        assert (state, output) == ("completed", {"paid": 1 if won else "nobody"}), where

    every_interleaving(due, times_out, signals, check)


@two_connections
def test_m1_an_answer_and_a_signal_give_one_outcome_and_the_signal_stays_if_it_lost(celery_engine):
    def waiting():
        key = started(celery_engine, TWO)
        run(key, "default")
        return key

    def answers(key):
        celery_engine.resume(key, "by hand", wait="payment 1")

    def signals(key):
        celery_engine.signal(key, "paid", "by a signal")

    def check(key, where):
        run_what_is_ready()
        found = celery_engine.status(key)
        first = WorkflowStep.objects.get(execution__execution_id=key, name="payment 1")
        if first.result == "by hand":  # then the signal answers the second
            assert found.output_data == {"paid": ["by hand", "by a signal"]}, where
        else:
            assert (first.result, found.waiting_for) == ("by a signal", "payment 2"), where

    def answers_if_it_can(key):
        try:
            answers(key)
        except WorkflowInvalidStateError:
            return

    every_interleaving(waiting, answers_if_it_can, signals, check)


@two_connections
def test_m1_atomic_steps_that_signal_each_other_do_not_deadlock(celery_engine):
    """An INSERT that locked the other execution, as a foreign key does, would."""
    definition = WorkflowDefinition("w", handler=plays.signal_the_other)

    def both():
        keys = [started(celery_engine, definition) for _ in range(2)]
        for key, other in (keys, keys[::-1]):
            rows = WorkflowExecutionRecord.objects.filter(execution_id=key)
            rows.update(input_data={"to": other, "value": key})
        return keys

    def first(keys):
        run(keys[0], "default")

    def second(keys):
        run(keys[1], "default")

    def check(keys, where):
        found = [celery_engine.status(key) for key in keys]
        assert "completed" in {str(one.state) for one in found}, where
        assert {one.error for one in found if one.state == "failed"} <= {
            f"Cannot signal workflow execution {key}: it is completed. "
            "Only pending, running or waiting executions can be signalled."
            for key in keys
        }, where

    every_interleaving(both, first, second, check)


@two_connections
def test_m1_a_signal_and_the_execution_that_continues_as_new_do_not_miss_each_other(
    celery_engine,
):
    """A signal that named the old id, or a move of those that it saw, would lose one."""

    def about_to_go_on():
        key = started(celery_engine, RENEWS)
        celery_engine.signal(key, "paid", 1)
        return key

    def goes_on(key):
        run(key, "default")
        run_what_is_ready()

    def signals(key):
        celery_engine.signal(key, "paid", 2)

    def check(key, where):
        run_what_is_ready()
        found = celery_engine.status(key)
        assert (found.state, found.input_data["total"]) == ("waiting", 3), where
        sent = WorkflowSignal.objects.filter(chain=key)
        assert [(one.value, one.status) for one in sent.order_by("pk")] == [
            (1, "taken"),
            (2, "taken"),
        ], where

    every_interleaving(about_to_go_on, goes_on, signals, check)


def test_m1_an_execution_that_dies_anywhere_while_it_continues_as_new_goes_on_once(celery_engine):
    def about_to_go_on():
        key = started(celery_engine, RENEWS, correlation_id=new_id())
        celery_engine.signal(key, "paid", 1)
        return key

    for key, at in dying_at_each_statement(about_to_go_on, lambda key: run(key, "default")):
        recover()
        found = celery_engine.status(key)
        assert (found.state, found.input_data["total"]) == ("waiting", 1), at
        chain = WorkflowExecutionRecord.objects.filter(chain=key)
        assert chain.count() == 1, at
        again = celery_engine.start(RENEWS, {}, correlation_id=found.correlation_id)
        assert again.execution_id == found.execution_id, at


def test_a_renewal_that_is_repeated_after_a_lost_answer_says_what_it_has_written(celery_engine):
    key = started(celery_engine, RENEWS)
    executions = WorkflowExecutionRecord.objects.all()
    record = executions.claim(key, lease=timedelta(minutes=5))
    first = continue_as_new(executions, record, {"n": 1})
    assert continue_as_new(executions, record, {"n": 1}) == first
    assert executions.filter(chain=key).count() == 1
    executions.filter(execution_id=first).update(execution_id=new_id())
    assert continue_as_new(executions, record, {"n": 1}) is None


def test_m1_a_sender_that_dies_anywhere_has_sent_all_or_nothing(celery_engine):
    """Without the look that the row is due for, a wait would be parked for good."""

    def waiting():
        key = started(celery_engine)
        run(key, "default")
        return key

    def signals(key):
        celery_engine.signal(key, "approval", 1)

    outcomes = []
    for key, at in dying_at_each_statement(waiting, signals):
        was_sent = WorkflowSignal.objects.filter(chain=key).exists()
        recover()
        expected = ("completed", {"answer": 1}) if was_sent else ("waiting", None)
        assert status(celery_engine, key) == expected, at
        assert not WorkflowSignal.objects.filter(available_at__isnull=False).exists()
        outcomes.append(was_sent)
    assert set(outcomes) == {True, False}


def test_m1_a_run_that_dies_anywhere_while_signals_are_kept_loses_none(celery_engine):
    def signalled():
        key = started(celery_engine, TWO)
        for amount in (1, 2):
            celery_engine.signal(key, "paid", amount)
        return key

    for key, at in dying_at_each_statement(signalled, lambda key: run(key, "default")):
        recover()
        assert status(celery_engine, key) == ("completed", {"paid": [1, 2]}), at
        kept = WorkflowSignal.objects.filter(chain=key).order_by("pk")
        assert [(one.value, one.status, one.taken_as) for one in kept] == [
            (1, "taken", "payment 1"),
            (2, "taken", "payment 2"),
        ], at


def test_m1_a_signal_whose_sender_died_before_its_look_still_wins_over_the_timeout(celery_engine):
    key = celery_engine.start(ASKS, {"timeout": 3600}).execution_id
    run(key, "default")
    executions = WorkflowExecutionRecord.objects.all()
    send(executions, executions.get(execution_id=key), "paid", 1)  # and no look
    let_time_pass()
    run(key, "default")
    assert status(celery_engine, key) == ("completed", {"paid": 1})


def test_m1_an_operators_timeout_loses_against_such_a_signal_too(celery_engine):
    key = celery_engine.start(ASKS, {"timeout": 3600}).execution_id
    run(key, "default")
    executions = WorkflowExecutionRecord.objects.all()
    send(executions, executions.get(execution_id=key), "paid", 1)
    with pytest.raises(WorkflowInvalidStateError, match="has ended"):
        celery_engine.time_out(key)
    run_what_is_ready()
    assert status(celery_engine, key) == ("completed", {"paid": 1})


def test_a_signal_inside_a_transaction_locks_no_execution(celery_engine):
    key = started(celery_engine)
    statements = []

    def keep(execute, sql, *arguments):
        statements.append(sql)
        return execute(sql, *arguments)

    with transaction.atomic(), connection.execute_wrapper(keep):
        celery_engine.signal(key, "approval", 1)
        transaction.set_rollback(True)
    writes = [one for one in statements if not one.startswith("SELECT")]
    assert [one.split()[0] for one in writes] == ["INSERT"]
    assert not any("FOR UPDATE" in one for one in statements)


def test_a_look_is_idempotent(celery_engine):
    key = started(celery_engine, TWO)
    run(key, "default")
    for amount in (1, 2):
        celery_engine.signal(key, "paid", amount)
    before = list(WorkflowSignal.objects.values_list("taken_as", "taken_at"))
    for _ in range(3):
        look(WorkflowExecutionRecord.objects.all(), key, [])
    assert list(WorkflowSignal.objects.values_list("taken_as", "taken_at")) == before


def test_m1_eight_senders_at_once_fill_eight_waits(celery_engine):
    definition = WorkflowDefinition("w", handler=wait_for_eight)
    key = started(celery_engine, definition)
    run(key, "default")
    race(*[lambda n=n: celery_engine.signal(key, "n", n) for n in range(8)])
    recover()
    state, output = status(celery_engine, key)
    assert state == "completed"
    sent = WorkflowSignal.objects.order_by("pk").values_list("value", flat=True)
    assert output == {"seen": list(sent)}
    assert sorted(output["seen"]) == list(range(8))


def wait_for_eight(data):
    return {"seen": [wait_for(f"n {number}", signal="n") for number in range(8)]}
