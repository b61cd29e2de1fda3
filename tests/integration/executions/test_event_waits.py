"""Events and waits on real connections: in any order and after any death, none is missed."""

from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import count

import pytest
from django.db import connection, connections, transaction
from django.test import override_settings
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from general_manager.workflow import WorkflowDefinition, WorkflowEvent, WorkflowInvalidStateError
from general_manager.workflow.executions.runner import run
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowEventWait,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowOutbox,
    WorkflowStep,
    WorkflowTakenEvent,
)
from general_manager.workflow.models.executions import looks
from general_manager.workflow.outbox.drain import deliver, drain
from general_manager.workflow.workers.pruning import prune
from general_manager.workflow.workers.tick import sweep
from tests.integration.conftest import data_statements
from tests.integration.executions.stepping import (
    dying_at_each_statement,
    every_interleaving,
    let_time_pass,
    run_what_is_ready,
)
from tests.integration.outbox.test_races import race
from tests.testapp import answering, plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

ONE = WorkflowDefinition("one", handler=answering.wait_once)
TWO = WorkflowDefinition("two", handler=answering.wait_twice)
FIRST = WorkflowDefinition("first", handler=answering.first_event)

HOUR = timedelta(hours=1)
two_connections = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="There, one writer excludes all others"
)
numbers = count(1)


@pytest.fixture(autouse=True)
def registry(outbox, celery_engine):
    plays.reset()
    return outbox


def publish(registry, name=answering.PAID, **payload):
    key = f"event {next(numbers)}"
    registry.publish(WorkflowEvent(key, f"shop.{name}", payload, event_name=name))
    return key


def recover():
    """Leases end; drains and sweeps go on."""
    for _ in range(5):
        let_time_pass()
        drain()
        sweep(hand_on=False)


def started(engine, definition=ONE, input_data=None):
    return engine.start(definition, input_data or {}).execution_id


def waiting(engine, definition=ONE, input_data=None):
    key = started(engine, definition, input_data)
    run(key, "default")
    return key


def status(engine, key):
    execution = engine.status(key)
    return execution.state, execution.output_data


def runs(key):
    run(key, "default")


def drains(key):
    drain("default")


@two_connections
def test_m1_an_event_and_the_wait_that_opens_do_not_miss_each_other(celery_engine, registry):
    """A publisher that looks, a run that does not, or a settlement before the look would."""

    def publishes(key):
        publish(registry, order_id=key)
        drain("default")

    def check(key, where):
        run_what_is_ready()
        drain("default")
        run_what_is_ready()
        assert status(celery_engine, key) == ("completed", {"paid": {"order_id": key}}), where

    def prepare():
        key = started(celery_engine)
        WorkflowExecutionRecord.objects.filter(execution_id=key).update(
            input_data={"match": {"order_id": key}}
        )
        return key

    every_interleaving(prepare, runs, publishes, check)


@two_connections
def test_m1_an_event_that_commits_while_the_wait_opens_is_not_missed(celery_engine, registry):
    def publishes(key):
        with transaction.atomic():
            publish(registry)
            WorkflowExecutionRecord.objects.count()  # some more of the caller's work
        drain("default")

    def check(key, where):
        run_what_is_ready()
        drain("default")
        run_what_is_ready()
        assert status(celery_engine, key) == ("completed", {"paid": {}}), where

    every_interleaving(partial(started, celery_engine), runs, publishes, check)


@two_connections
def test_m1_of_two_events_at_once_one_wins_and_the_other_is_there_for_the_next_wait(
    celery_engine, registry
):
    """Looks that lock nothing would give the first of several two winners."""

    def prepare():
        key = waiting(celery_engine, FIRST, {"again": True})
        publish(registry, amount=1)
        publish(registry, "order_cancelled", amount=2)
        return key

    def drains_one(key):
        for entry in WorkflowOutbox.objects.filter(status="pending").order_by("pk")[:1]:
            drain_entry(entry)

    def drains_all(key):
        drain("default")

    def drain_entry(entry):
        claims = WorkflowOutbox.objects.claim_events([entry.event.event_id], lease=HOUR)
        if claims[1]:
            deliver("default", *claims)

    def check(key, where):
        run_what_is_ready()
        drain("default")
        run_what_is_ready()
        state, output = status(celery_engine, key)
        assert state == "completed", where
        assert (output["which"], output["value"], output["then"]) in (
            ("paid", {"amount": 1}, {"amount": 2}),
            ("gone", {"amount": 2}, {"amount": 1}),
        ), where

    every_interleaving(prepare, drains_one, drains_all, check)


@two_connections
def test_m1_drains_that_answer_the_same_executions_do_not_deadlock(celery_engine, registry):
    """Each execution in a transaction of its own, in whatever order."""
    for _ in range(5):
        keys = [waiting(celery_engine, TWO) for _ in range(4)]
        for amount in (1, 2, 3, 4):
            publish(registry, amount=amount)
        race(*[partial(drain, "default")] * 4, *[partial(runs, key) for key in keys])
        for _ in range(3):
            drain("default")
            run_what_is_ready()
        for key in keys:
            state, output = status(celery_engine, key)
            assert (state, len({one["amount"] for one in output["paid"]})) == ("completed", 2)


@two_connections
def test_m1_a_timeout_and_an_event_give_one_outcome_and_the_loser_leaves_the_event(
    celery_engine, registry
):
    def due():
        key = waiting(celery_engine, ONE, {"timeout": 3600})
        past = timezone.now() - timedelta(seconds=1)
        WorkflowStep.objects.filter(name="payment").update(until=past)
        WorkflowExecutionRecord.objects.filter(execution_id=key).update(wake_at=past)
        return key

    def publishes(key):
        publish(registry, amount=1)
        drain("default")

    def check(key, where):
        run_what_is_ready()
        sweep(hand_on=False)
        won = WorkflowTakenEvent.objects.filter(chain=key).exists()
        paid = {"amount": 1} if won else "nobody"
        assert status(celery_engine, key) == ("completed", {"paid": paid}), where

    every_interleaving(due, runs, publishes, check)


def test_m1_an_event_that_is_stored_in_time_wins_though_nobody_has_drained_it(
    celery_engine, registry
):
    """A timeout that is written without a look would lose a payment."""
    key = waiting(celery_engine, ONE, {"timeout": 3600})
    publish(registry, amount=1)
    let_time_pass()
    run(key, "default")
    assert status(celery_engine, key) == ("completed", {"paid": {"amount": 1}})
    drain()
    assert WorkflowTakenEvent.objects.count() == 1


@two_connections
def test_m1_a_cancellation_and_an_event_leave_one_end(celery_engine, registry):
    def prepare():
        key = waiting(celery_engine)
        publish(registry, amount=1)
        return key

    def cancels(key):
        with suppress(WorkflowInvalidStateError):
            celery_engine.cancel(key)

    def check(key, where):
        run_what_is_ready()
        assert status(celery_engine, key)[0] in ("cancelled", "completed"), where
        assert not WorkflowOutbox.objects.exclude(status="processed").exists(), where

    every_interleaving(prepare, cancels, drains, check)


def test_m1_a_drain_that_dies_anywhere_has_looked_or_another_looks(celery_engine, registry):
    """An entry that is settled before the look would lose the wake-up."""

    def prepare():
        key = waiting(celery_engine)
        publish(registry, amount=1)
        return key

    for key, at in dying_at_each_statement(prepare, drains):
        recover()
        assert status(celery_engine, key) == ("completed", {"paid": {"amount": 1}}), at
        assert not WorkflowOutbox.objects.exclude(status="processed").exists(), at


def test_m1_a_run_that_dies_anywhere_finds_what_came_before_its_wait(celery_engine, registry):
    """A look of the run that opens the wait, and of no other, would be lost with it."""

    def prepare():
        key = started(celery_engine)
        publish(registry, amount=1)
        drain()
        return key

    for key, at in dying_at_each_statement(prepare, runs):
        recover()
        assert status(celery_engine, key) == ("completed", {"paid": {"amount": 1}}), at


@two_connections
def test_m1_an_event_with_a_lower_id_that_commits_late_is_not_missed(celery_engine, registry):
    """A cursor over ids would pass over it."""
    key = waiting(celery_engine, TWO)
    other = connections.create_connection("default")
    default = connections["default"]
    try:
        connections["default"] = other
        with transaction.atomic():
            publish(registry, amount=1)
            connections["default"] = default
            publish(registry, amount=2)
            drain("default")
            run_what_is_ready()
            assert WorkflowExecutionRecord.objects.get(execution_id=key).waiting_for == "payment 2"
            connections["default"] = other
    finally:
        connections["default"] = default
        other.close()
    drain("default")
    run_what_is_ready()
    assert status(celery_engine, key) == ("completed", {"paid": [{"amount": 2}, {"amount": 1}]})


def test_m1_an_event_counts_though_it_was_stored_long_before_the_start_and_claimed_after_it(
    celery_engine, registry
):
    """A search by the time of storage, or from the start's place among ids, would miss it."""
    publish(registry, amount=1)
    long_ago = timezone.now() - timedelta(days=3)
    WorkflowEventRecord.objects.update(published_at=long_ago)
    WorkflowOutbox.objects.update(undelivered_since=long_ago)
    key = started(celery_engine)
    drain()
    assert WorkflowOutbox.objects.get().seen_late_at is not None
    publish(registry, amount=2)
    drain()
    run(key, "default")
    assert status(celery_engine, key) == ("completed", {"paid": {"amount": 1}})


def test_m1_of_two_events_with_one_time_the_one_that_was_stored_first_wins(celery_engine, registry):
    """SQLite's clock has milliseconds."""
    key = waiting(celery_engine, FIRST)
    publish(registry, "order_cancelled", order_id=7)
    publish(registry, order_id=7)
    WorkflowEventRecord.objects.update(published_at=timezone.now())
    drain()
    run(key, "default")
    assert status(celery_engine, key)[1]["which"] == "gone"


def test_m1_the_first_claim_is_the_one_that_counts(celery_engine, registry):
    """A time of settlement would move with each requeue, and let an old event answer."""
    publish(registry, amount=1)
    drain()
    seen = WorkflowOutbox.objects.get().seen_at
    assert seen is not None
    key = started(celery_engine)
    WorkflowOutbox.objects.requeue()
    drain()
    assert WorkflowOutbox.objects.get().seen_at == seen
    run(key, "default")
    assert celery_engine.status(key).state == "waiting"


def test_m1_prune_leaves_what_was_taken_as_long_as_the_event_is_there(celery_engine, registry):
    key = waiting(celery_engine, TWO)
    publish(registry, amount=1)
    drain()
    run_what_is_ready()
    WorkflowTakenEvent.objects.update(taken_at=timezone.now() - timedelta(days=60))
    list(prune(timedelta(days=30)))
    assert WorkflowTakenEvent.objects.count() == 1
    WorkflowOutbox.objects.update(settled_at=timezone.now() - timedelta(days=60))
    list(prune(timedelta(days=30)))
    assert not WorkflowEventRecord.objects.exists()
    assert not WorkflowTakenEvent.objects.exists()
    publish(registry, amount=2)
    drain()
    run_what_is_ready()
    assert status(celery_engine, key)[1] == {"paid": [{"amount": 1}, {"amount": 2}]}
    WorkflowExecutionRecord.objects.update(ended_at=timezone.now() - timedelta(days=60))
    list(prune(timedelta(days=30)))
    assert not WorkflowTakenEvent.objects.exists()


def test_m1_a_wait_that_looks_back_beyond_retention_says_so(celery_engine, registry):
    key = started(celery_engine)
    WorkflowExecutionRecord.objects.update(created_at=timezone.now() - timedelta(days=60))
    mode = {"WORKFLOW_MODE": "production", "WORKFLOW_RETENTION_DAYS": 30}
    with override_settings(GENERAL_MANAGER=mode):
        run(key, "default")
    assert WorkflowHistory.objects.get().kind == HistoryKind.LOOK_BACK_CUT
    assert WorkflowEventWait.objects.get().is_cut


def test_m1_a_look_that_fails_keeps_the_entry_and_touches_no_handler(
    celery_engine, registry, monkeypatch
):
    calls = []
    registry.register(answering.PAID, handler=calls.append)
    key = waiting(celery_engine)
    publish(registry, amount=1)

    def fail(*_):
        raise RuntimeError("no lock")

    with monkeypatch.context() as patched:
        patched.setattr(looks, "settle", fail)
        drain()
    assert WorkflowOutbox.objects.get().status == "failed"
    assert WorkflowDeliveryAttempt.objects.get().status == "completed"
    recover()
    assert status(celery_engine, key) == ("completed", {"paid": {"amount": 1}})
    assert len(calls) == 1


def test_m1_an_event_published_now_in_a_transaction_is_seen_by_the_commit(celery_engine, registry):
    waiting(celery_engine)
    with transaction.atomic():
        event = WorkflowEvent("now", "shop.payment", {"amount": 1}, event_name=answering.PAID)
        registry.publish_sync(event)
        entry = WorkflowOutbox.objects.get()
        assert (entry.status, entry.seen_at) == ("pending", None)
        assert WorkflowExecutionRecord.objects.get().state == "waiting"
    drain()
    assert WorkflowOutbox.objects.get().seen_at is not None
    assert WorkflowExecutionRecord.objects.get().state == "pending"


@pytest.mark.parametrize("held_by", ["a failed handler", "a pause", "another queue"])
def test_m1_an_event_published_now_is_seen_after_the_commit_whatever_holds_it_back(
    celery_engine, registry, held_by
):
    def fail(event):
        raise ValueError("not now")

    registry.register(answering.PAID, handler=fail, registration_id="held", queue="slow")
    if held_by == "a pause":
        celery_engine.pause(registration="held")
    elif held_by == "another queue":
        registry.register(answering.PAID, handler=lambda event: None, registration_id="other")
    waiting(celery_engine)
    with transaction.atomic():
        event = WorkflowEvent("now", "shop.payment", {"amount": 1}, event_name=answering.PAID)
        registry.publish_sync(event)
        assert WorkflowOutbox.objects.get().seen_at is None
    drain()
    assert WorkflowExecutionRecord.objects.get().state == "pending"
    assert WorkflowOutbox.objects.get().seen_at is not None


def test_m1_a_look_that_fails_is_repeated_though_a_pause_holds_the_event_back(
    celery_engine, registry, monkeypatch
):
    registry.register(answering.PAID, handler=lambda event: None, registration_id="held")
    celery_engine.pause(registration="held")
    key = waiting(celery_engine)
    publish(registry, amount=1)

    def fail(*_):
        raise RuntimeError("no lock")

    with monkeypatch.context() as patched:
        patched.setattr(looks, "settle", fail)
        drain()
    recover()
    assert status(celery_engine, key) == ("completed", {"paid": {"amount": 1}})
    assert WorkflowOutbox.objects.get().status == "paused"


def test_an_event_that_nobody_waits_for_costs_a_batch_one_statement(celery_engine, registry):
    for amount in range(5):
        publish(registry, amount=amount)
    with data_statements() as statements:
        drain()
    asking = [one for one in statements if "workfloweventwait" in one]
    assert len(asking) == 1
    waiting(celery_engine, ONE, {"match": {"amount": 99}})
    publish(registry, amount=1)
    with data_statements() as statements:
        drain()
    assert len([one for one in statements if "workfloweventwait" in one]) == 2


def test_a_wait_that_is_over_is_found_by_one_more_event_and_then_by_none(celery_engine, registry):
    key = waiting(celery_engine)
    celery_engine.cancel(key)
    assert WorkflowEventWait.objects.count() == 1
    publish(registry)
    drain()
    assert WorkflowEventWait.objects.count() == 0


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    published=st.lists(st.sampled_from(["a", "b"]), min_size=2, max_size=6),
    opened_after=st.integers(0, 6),
    swapped=st.booleans(),
)
def test_m1_two_waits_with_swapped_matches_never_take_each_others(
    celery_engine, registry, published, opened_after, swapped
):
    """Of executions that wait for a then b, and for b then a, each gets the first of each."""
    order = ["b", "a"] if swapped else ["a", "b"]
    pairs = (order, order[::-1])
    keys = [
        started(celery_engine, TWO, {"matches": [{"kind": one} for one in pair]}) for pair in pairs
    ]
    first = {}
    for number, kind in enumerate(published):
        if number == opened_after:
            run_what_is_ready()
        publish(registry, kind=kind, number=number)
        first.setdefault(kind, number)
        if number % 2:
            drain()
            run_what_is_ready()
    for _ in range(3):
        drain()
        run_what_is_ready()
    for key, pair in zip(keys, pairs, strict=True):
        execution = celery_engine.status(key)
        if set(pair) <= set(published):
            taken = [{"kind": one, "number": first[one]} for one in pair]
            assert execution.output_data == {"paid": taken}
        else:
            assert execution.state == "waiting"
        if execution.state == "waiting":
            celery_engine.cancel(key)
