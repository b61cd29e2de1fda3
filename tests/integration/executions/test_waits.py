"""Waiting costs a row, and its outcome is written once."""

from datetime import timedelta
from threading import Barrier, Thread, active_count

import pytest
from django.db import connections
from django.utils import timezone

from general_manager.workflow import WorkflowDefinition
from general_manager.workflow.core import limits
from general_manager.workflow.core.ids import new_id
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.workers.tick import sweep
from tests.integration.conftest import data_statements
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def all_at_once(*calls):
    """Call each in a thread of its own, at one moment; returns who got through."""
    start, winners = Barrier(len(calls)), []

    def take_part(call):
        try:
            start.wait()
            call()
            winners.append(call)
        except Exception:
            pass
        finally:
            connections.close_all()

    threads = [Thread(target=take_part, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return winners


@pytest.mark.parametrize("round_number", range(5))
def test_x6_of_answers_a_cancellation_and_a_timeout_that_race_one_wins(
    celery_engine, workers, round_number
):
    flows.calls.clear()
    asked = celery_engine.start(WorkflowDefinition("w", handler=flows.ask))
    workers.run()
    WorkflowStep.objects.filter(name="approval").update(
        until=timezone.now() + timedelta(milliseconds=20)
    )
    past = timezone.now() - timedelta(seconds=1)
    WorkflowExecutionRecord.objects.update(wake_at=past)
    key = asked.execution_id
    winners = all_at_once(
        lambda: celery_engine.resume(key, "one"),
        lambda: celery_engine.resume(key, "two"),
        lambda: celery_engine.cancel(key),
        lambda: sweep(hand_on=False),
    )
    workers.let_rest_pass()
    workers.run()
    told = celery_engine.status(key)
    step = WorkflowStep.objects.get(name="approval")
    if told.state == "cancelled":
        assert told.output_data is None
    else:
        assert told.state == "completed"
        answer = {"done": step.result, "timed_out": "nobody"}[step.status]
        assert told.output_data == {"answer": answer}
        assert answer in ("one", "two", "nobody")
    answered = [entry for entry in celery_engine.history(key) if entry.kind == "resumed"]
    assert len(answered) <= 1
    assert len(winners) >= 1


def test_x6_thousands_of_waits_cost_no_thread_no_claim_and_no_statement_of_their_own(
    celery_engine, monkeypatch
):
    monkeypatch.setattr(limits, "_declared", {})  # those of other tests, whose lines are looked for
    later = timezone.now() + timedelta(days=1)
    rows = WorkflowExecutionRecord.objects.bulk_create(
        WorkflowExecutionRecord(
            execution_id=new_id(), workflow_id="w", state="waiting", waiting_for="go", wake_at=later
        )
        for _ in range(5_000)
    )
    assert len(rows) == 5_000
    threads = active_count()
    with data_statements() as statements:
        assert sweep(hand_on=False) == 0
    # Whose deadline has passed, who has ended and is waited for, what is due, and what may run.
    assert len([one for one in statements if "workflowexecution" in one]) == 4
    assert active_count() == threads
    assert not WorkflowExecutionRecord.objects.exclude(claim_token=None).exists()
