"""Threads that want the same thing at the same moment."""

from contextlib import nullcontext, suppress
from threading import Barrier, Event, Thread

import pytest
from django.db import connections, transaction

from general_manager.workflow import (
    PermanentFailure,
    WorkflowDefinition,
    WorkflowEvent,
    WorkflowInvalidStateError,
)
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowOutbox,
)
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.workers.tick import sweep
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
PATIENCE = 60
ROUNDS = 20


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()


def race(*works):
    """Do all *works* at once, each in a thread of its own; raises what one of them raised."""
    together, errors = Barrier(len(works)), list[BaseException]()

    def start(work):
        try:
            together.wait(PATIENCE)
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [Thread(target=start, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("around", [transaction.atomic, nullcontext])
def test_x3_eight_concurrent_starts_give_one_execution(celery_engine, around):
    found = []

    def start():
        with around():
            definition = WorkflowDefinition("w", handler=flows.echo)
            found.append(celery_engine.start(definition, correlation_id="key").execution_id)

    race(*[start] * 8)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert WorkflowExecutionRecord.objects.count() == 1


def test_e10_a_duplicate_that_is_published_at_the_same_moment_breaks_no_transaction(
    outbox, workers
):
    outbox.register("x", handler=lambda event: Tag.objects.create(name="delivered"))

    def publish():
        with transaction.atomic():
            Tag.objects.create(name="business")
            outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
            Tag.objects.create(name="more business")

    race(*[publish] * 8)
    workers.deliver()
    assert WorkflowEventRecord.objects.count() == WorkflowOutbox.objects.count() == 1
    names = list(Tag.objects.values_list("name", flat=True))
    counts = {name: names.count(name) for name in names}
    assert counts == {"business": 8, "more business": 8, "delivered": 1}


def test_e8_of_two_workers_that_give_up_on_one_delivery_one_tells_the_hook(outbox):
    told, calls, frozen, thaw = [], [], Event(), Event()

    def give_up(event):
        calls.append(event.event_id)
        if len(calls) == 1:
            frozen.set()
            assert thaw.wait(PATIENCE)
        raise PermanentFailure(f"call {len(calls)}")

    outbox.register(
        "x", handler=give_up, atomic=False,
        dead_letter_handler=lambda event, error: told.append(str(error)),
    )  # fmt: skip
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))

    def late():
        drain("default")

    def takes_over():
        assert frozen.wait(PATIENCE)
        # The first one's process stands still, so nothing renews its lease.
        WorkflowOutbox.objects.update(available_at=WorkflowOutbox.objects.get().claimed_at)
        drain("default")
        thaw.set()

    race(late, takes_over)
    assert len(calls) == 2
    assert told == ["call 2"]
    assert WorkflowOutbox.objects.get().status == "dead_letter"
    assert WorkflowDeliveryAttempt.objects.get().error == "call 2"


def test_e13_eight_drains_over_retrying_and_fresh_entries_deliver_each_once(outbox, workers):
    failed: set[str] = set()

    def write(event):
        if event.event_id.startswith("retry") and event.event_id not in failed:
            failed.add(event.event_id)
            raise ValueError("the first time")
        Tag.objects.create(name=event.event_id)

    outbox.register("x", handler=write, registration_id="write")
    names = {kind: [f"{kind} {number}" for number in range(30)] for kind in ("retry", "fresh")}
    for kind in ("retry", "fresh"):
        outbox.publish_many(WorkflowEvent(name, "a.b", {}, event_name="x") for name in names[kind])
        if kind == "retry":
            workers.deliver()
    assert WorkflowOutbox.objects.filter(status="failed").count() == 30
    workers.let_rest_pass()
    race(*[lambda: drain("default", limit=60)] * 8)
    drain("default")
    delivered = sorted(Tag.objects.values_list("name", flat=True))
    assert delivered == sorted(names["retry"] + names["fresh"])
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}


def test_x2_of_runs_answers_cancellations_and_sweeps_that_race_one_end_stands(
    celery_engine, workers
):
    """A message that comes twice, a late worker, an answer, a cancellation, Beat: all at once."""
    ends = set()
    for _ in range(ROUNDS):
        flows.calls.clear()
        started = celery_engine.start(WorkflowDefinition("w", handler=flows.ask))
        run(started.execution_id, "default")

        def answer(name=started.execution_id):
            with suppress(WorkflowInvalidStateError):
                celery_engine.resume(name, "yes")
            run(name, "default")

        def cancel(name=started.execution_id):
            with suppress(WorkflowInvalidStateError):
                celery_engine.cancel(name)

        def come_again(name=started.execution_id):
            run(name, "default")

        race(answer, cancel, come_again, come_again, lambda: sweep(hand_on=False))
        row = WorkflowExecutionRecord.objects.get(execution_id=started.execution_id)
        assert row.state in ("completed", "cancelled")
        assert row.output_data == ({"answer": "yes"} if row.state == "completed" else None)
        assert row.claim_token is None
        assert row.wake_at is None
        ends.add(row.state)
        answer()
        cancel()
        again = WorkflowExecutionRecord.objects.get(execution_id=started.execution_id)
        assert (again.state, again.output_data, again.ended_at) == (
            row.state, row.output_data, row.ended_at,
        )  # fmt: skip
    assert ends
