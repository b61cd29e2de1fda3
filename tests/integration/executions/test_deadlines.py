"""Deadlines in the tables: the sweep ends what is late, and what runs loses its claim."""

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from general_manager.workflow import WorkflowDefinition, step
from general_manager.workflow.executions.deadlines import end_late_executions
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.testing import advance
from general_manager.workflow.workers.tick import sweep
from tests.integration.conftest import data_statements
from tests.integration.models.test_query_plans import plans
from tests.integration.outbox.test_races import race
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HOUR = timedelta(hours=1)


def define(handler):
    return WorkflowDefinition("w", handler=handler, deadline=HOUR)


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()


def let_deadlines_pass():
    past = timezone.now() - timedelta(seconds=1)
    WorkflowExecutionRecord.objects.filter(deadline__isnull=False).update(deadline=past)


def is_ended_in_the_middle(data):
    step("first", flows.write, "first")
    let_deadlines_pass()
    assert end_late_executions("default") == 1
    step("second", flows.write, "second")
    return {"never": "seen"}


def test_a_run_whose_deadline_passes_loses_its_claim_and_writes_nothing_more(celery_engine):
    key = celery_engine.start(define(is_ended_in_the_middle)).execution_id
    run(key, "default")
    execution = celery_engine.status(key)
    assert (execution.state, execution.output_data) == ("failed", None)
    assert "deadline" in execution.error
    assert "DeadlinePassed" in execution.traceback
    assert list(Tag.objects.values_list("name", flat=True)) == ["first"]
    assert list(WorkflowStep.objects.values_list("name", flat=True)) == ["first"]
    assert WorkflowExecutionRecord.objects.get().claim_token is None


def completes_too_late(data):
    let_deadlines_pass()
    return {"too": "late"}


def test_what_returns_after_its_deadline_has_not_completed_although_no_sweep_came(celery_engine):
    key = celery_engine.start(define(completes_too_late)).execution_id
    run(key, "default")
    assert celery_engine.status(key).state == "running"
    assert sweep(hand_on=False) == 1
    assert celery_engine.status(key).state == "failed"


@pytest.mark.parametrize("ready", [True, False])
def test_a_late_execution_that_is_pending_is_not_run_but_ended(celery_engine, ready):
    key = celery_engine.start(define(flows.echo)).execution_id
    WorkflowExecutionRecord.objects.update(ready=ready, wake_at=timezone.now() + 5 * HOUR)
    let_deadlines_pass()
    assert not run(key, "default")
    assert sweep(hand_on=False) == 1
    assert celery_engine.status(key).state == "failed"
    assert flows.calls == []


def test_its_correlation_id_is_free(celery_engine):
    first = celery_engine.start(define(flows.ask), correlation_id="c").execution_id
    let_deadlines_pass()
    sweep(hand_on=False)
    assert celery_engine.start(define(flows.ask), correlation_id="c").execution_id != first


def test_a_row_that_somebody_holds_is_left_to_the_next_sweep(celery_engine):
    if connection.vendor == "sqlite":
        pytest.skip("There, one writer excludes all others")
    key = celery_engine.start(define(flows.ask)).execution_id
    let_deadlines_pass()
    with transaction.atomic():
        WorkflowExecutionRecord.objects.select_for_update().get(execution_id=key)
        ended = []
        race(lambda: ended.append(end_late_executions("default")))
    assert ended == [0]
    assert end_late_executions("default") == 1


def test_two_sweeps_end_it_once(celery_engine):
    key = celery_engine.start(define(flows.ask)).execution_id
    let_deadlines_pass()
    ended = []
    race(*[lambda: ended.append(end_late_executions("default"))] * 2)
    assert sorted(ended) in ([0, 1], [0, 0])
    end_late_executions("default")
    entries = celery_engine.history(key)
    assert [one.kind for one in entries] == ["deadline_passed"]


def test_a_deadline_costs_no_statement_of_an_execution(celery_engine):
    counts = []
    for definition in (WorkflowDefinition("w", handler=flows.wait_once), define(flows.wait_once)):
        with data_statements() as statements:
            key = celery_engine.start(definition).execution_id
            run(key, "default")
            celery_engine.resume(key, 1)
            run(key, "default")
        counts.append(len([one for one in statements if "workflowqueue" not in one]))
    assert counts[0] == counts[1]


def test_late_executions_are_found_by_an_index(celery_engine):
    celery_engine.start(define(flows.ask))
    [how] = plans(lambda: end_late_executions("default"), "ORDER BY", "lifetime")
    assert "gm_execution_deadline" in how


def test_the_test_kit_lets_deadlines_pass(celery_engine):
    key = celery_engine.start(define(flows.nap)).execution_id
    advance(HOUR / 2)
    assert celery_engine.status(key).state == "waiting"
    advance(HOUR)
    assert celery_engine.status(key).state == "failed"
