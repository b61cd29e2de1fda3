"""Long histories: what a wake costs in statements, what it decodes, and what a run keeps."""

import json
from datetime import timedelta

import pytest
from django.db import transaction

from general_manager.workflow import WorkflowDefinition, sleep, step
from general_manager.workflow.durable import records
from general_manager.workflow.executions.runner import run
from general_manager.workflow.executions.store import DatabaseRunStore
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from tests.integration.conftest import data_statements
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def replays(data):
    found = [step(f"step {number}", flows.note, "new") for number in data["reached"]]
    sleep("a day", timedelta(days=1))
    return {"found": found}


def with_history(engine, length, reached):
    """An execution that has run once and has *length* steps behind it."""
    definition = WorkflowDefinition("w", handler=replays)
    key = engine.start(definition, {"reached": list(reached)}).execution_id
    record = WorkflowExecutionRecord.objects.get(execution_id=key)
    WorkflowStep.objects.bulk_create(
        WorkflowStep(
            execution=record, name=f"step {n}", status="done", result={"n": [n]}, position=n + 1
        )
        for n in range(length)
    )
    WorkflowExecutionRecord.objects.filter(pk=record.pk).update(runs=1)
    return key


def store_of(key):
    record = WorkflowExecutionRecord.objects.claim(key, lease=timedelta(minutes=1))
    assert record is not None
    return DatabaseRunStore(record, "default")


def test_the_statements_of_a_wake_do_not_grow_with_the_history(celery_engine):
    counts = []
    for length in (1, 10, 1_000):
        key = with_history(celery_engine, length, range(length))
        with data_statements() as statements:
            run(key, "default")
        assert celery_engine.status(key).state == "waiting"
        counts.append(len(statements))
    assert len(set(counts)) == 1
    assert flows.calls == []


def test_a_run_decodes_only_the_results_that_it_reaches(celery_engine, monkeypatch):
    decoded = []

    def count(text):
        decoded.append(json.loads(text))
        return decoded[-1]

    monkeypatch.setattr(records, "loads", count)
    key = with_history(celery_engine, 500, (3, 400))
    run(key, "default")
    assert decoded == [{"n": [3]}, {"n": [400]}]
    assert celery_engine.status(key).state == "waiting"


def test_a_replayed_result_belongs_to_the_handler_alone(celery_engine):
    key = with_history(celery_engine, 3, (0, 1, 2))
    known = store_of(key).load()["step 1"]
    known.own_result()["n"].append("spoilt")
    assert known.own_result() == {"n": [1]}


@pytest.mark.parametrize(
    "value", [None, "null", "text", 1.5, True, [], {"a": {"b": [None]}}, "é\n"]
)
def test_every_json_value_comes_back_as_it_was(celery_engine, value):
    key = with_history(celery_engine, 1, (0,))
    WorkflowStep.objects.update(result=value)
    known = store_of(key).load()["step 0"]
    found = known.own_result()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("is_inside", [True, False])
def test_what_is_committed_is_not_kept_for_a_rollback_that_cannot_come(celery_engine, is_inside):
    """A run of ten thousand steps would keep all their results otherwise."""
    key = celery_engine.start(WorkflowDefinition("w", handler=flows.echo)).execution_id
    store = store_of(key)
    if is_inside:
        with transaction.atomic():
            store.finish("large", "x" * 1_000)
            transaction.set_rollback(True)
        store.write_back()
    else:
        store.finish("large", "x" * 1_000)
        WorkflowStep.objects.all().delete()
        store.write_back()
    assert WorkflowStep.objects.count() == (1 if is_inside else 0)
