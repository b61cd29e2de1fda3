"""The scans that run all the time use the index on what is owed, however much is settled.

The lists of the admin walk along the index that has what is asked for, in its order: what is rare
or old is not looked for among all the latest rows.
"""

import re
from datetime import timedelta
from functools import partial

import pytest
from django.contrib.admin import site
from django.db import connection, transaction
from django.utils.timezone import now

from general_manager.workflow import WorkflowDefinition
from general_manager.workflow.admin.base import CappedPaginator
from general_manager.workflow.durable.ending import Ending
from general_manager.workflow.durable.stops import Suspended
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.executions.lookup import events_like, executions_like
from general_manager.workflow.executions.runner import run
from general_manager.workflow.executions.signals import send
from general_manager.workflow.models import (
    DeadLetter,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowSignal,
)
from general_manager.workflow.models.executions.batches import (
    begin_together,
    complete_together,
    give_back_begun,
)
from general_manager.workflow.models.executions.claims import begin, give_back, take_ready
from general_manager.workflow.models.executions.ending import request_end
from general_manager.workflow.models.executions.looks import look
from general_manager.workflow.models.queue import is_any_due
from general_manager.workflow.models.sql.due import Share
from general_manager.workflow.models.timing import Opening
from general_manager.workflow.operations.overview import read_details, read_overview
from general_manager.workflow.outbox.loading import load_held
from general_manager.workflow.scheduling.rows import active_executions
from tests.testapp import flows

pytestmark = pytest.mark.django_db(databases=["default", "archive"])
LEASE = timedelta(seconds=60)
not_in_sqlite = pytest.mark.skipif(
    connection.vendor == "sqlite",
    reason="SQLite does not see that what is dead is not completed, and prefers equality to order",
)


def refuse_other_ways():
    """Tables of a test are too small to need an index."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for way in ("seqscan", "bitmapscan", "sort"):
                cursor.execute(f"SET LOCAL enable_{way} = off")


def update_statistics(model):
    """What the server knows of an empty table depends on when it last looked."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"ANALYZE {model._meta.db_table}")


def plan(queryset):
    with transaction.atomic():
        refuse_other_ways()
        return queryset.explain()


def plans(work, *words):
    """The plans of the statements of *work* that have all *words* in them."""
    found = []

    def keep(execute, sql, parameters, many, context):
        if all(word in sql for word in words):
            found.append((sql, parameters))
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(keep):
        work()
    assert found
    how = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    with transaction.atomic(), connection.cursor() as cursor:
        refuse_other_ways()
        texts = []
        for sql, parameters in found:
            cursor.execute(f"{how} {sql}", parameters)
            # All columns: MariaDB names the index in one of them, and says in another if it sorts.
            texts.append("\n".join(" ".join(map(str, row)) for row in cursor.fetchall()))
        return texts


@pytest.fixture
def plans_of_list(rf, admin_user):
    """How a page of a list of the admin is found, and how it is counted."""

    def ask(model, query=""):
        request = rf.get(f"/?{query}")
        request.user = admin_user
        rows = site.get_model_admin(model).get_changelist_instance(request).queryset
        [counted] = plans(lambda: CappedPaginator(rows, 50).count, "COUNT(")
        return [plan(rows[:50]), counted]

    return ask


def sorts(text):
    """Whether it sorts all rows; an incremental sort is only among those that ended together."""
    return "TEMP B-TREE" in text or re.search(r"(?<!Incremental )Sort +\(", text) is not None


def test_e12_a_claim_scans_the_undelivered_entries_in_order():
    """The very statement that claims: PostgreSQL's is written by hand."""
    WorkflowOutbox.objects.bulk_create(
        WorkflowOutbox(event=WorkflowEventRecord.objects.create(event_id=str(number), payload={}))
        for number in range(3)
    )
    claim = partial(WorkflowOutbox.objects.claim, 2, lease=timedelta(seconds=60))
    for text in plans(claim, "available_at", "LIMIT"):
        assert "gm_outbox_due" in text
        assert "Seq Scan" not in text
        assert "TEMP B-TREE" not in text
        # PostgreSQL numbers the few rows that it has locked.
        assert set(re.findall(r"Sort Key: (.+)", text)) <= {"locked.available_at"}
        assert "filesort" not in text[text.index("gm_outbox_due") :]


@pytest.mark.skipif(
    connection.vendor != "postgresql", reason="Elsewhere the pauses are read before the UPDATE"
)
def test_a_claim_of_executions_looks_for_the_pause_of_each_once():
    """Not for each column that depends on it: each look in a plan costs time to plan it."""
    take = partial(take_ready, WorkflowExecutionRecord.objects.all(), 2, Share())
    [text] = plans(take, "workflow_id", "LIMIT")
    assert text.count("workflowpause pause") == 1


def test_e12_a_look_for_anything_due_reads_along_the_indexes_of_what_is_due():
    WorkflowExecutionRecord.objects.bulk_create(
        WorkflowExecutionRecord(execution_id=str(number), workflow_id="w", state="completed")
        for number in range(200)
    )
    WorkflowOutbox.objects.bulk_create(
        WorkflowOutbox(event=event, status="processed", available_at=None)
        for event in WorkflowEventRecord.objects.bulk_create(
            WorkflowEventRecord(event_id=str(number), payload={}) for number in range(200)
        )
    )
    for model in (WorkflowExecutionRecord, WorkflowOutbox):
        update_statistics(model)  # of empty tables every index costs the same
    for text in plans(partial(is_any_due, "default", "q"), "SELECT EXISTS"):
        assert "gm_outbox_due" in text
        # SQLite's is that of what the sweep finds, which begins with the state.
        assert "gm_execution_ready" in text or "gm_execution_due" in text
        assert "Seq Scan" not in text


def test_e12_a_chunk_is_loaded_by_its_keys_however_far_apart_they_are():
    """An old entry that is retried, and a new one: nothing between them is read."""
    WorkflowOutbox.objects.bulk_create(
        WorkflowOutbox(event=WorkflowEventRecord.objects.create(event_id=str(number), payload={}))
        for number in range(9)
    )
    first, *_, last = WorkflowOutbox.objects.order_by("pk").values_list("pk", flat=True)
    WorkflowOutbox.objects.exclude(pk__in=[first, last]).update(claim_token="other")
    WorkflowOutbox.objects.filter(pk__in=[first, last]).update(claim_token="ours")
    WorkflowOutbox.objects.update(status="claimed")
    load = partial(load_held, "default", "ours", [first, last])
    assert [one.pk for one in load().entries] == [first, last]
    found = {"postgresql": "id = ANY", "sqlite": "(rowid=?)", "mysql": "PRIMARY"}
    for text in plans(load, "claim_token", "expected_registrations"):
        assert found[connection.vendor] in text
        assert "Seq Scan" not in text


def test_e12_what_is_settled_leaves_the_index_of_undelivered_entries():
    entries = WorkflowOutbox.objects
    for status in ("processed", "dead_letter"):
        event = WorkflowEventRecord.objects.create(event_id=status, payload={})
        entry = entries.create(event=event)
        claim = entries.claim(1, lease=timedelta(seconds=60))
        done = claim.together if status == "processed" else ()
        entries.settle(claim.token, processed=done, dead=() if done else claim.together)
        entry.refresh_from_db()
        assert (entry.status, entry.available_at) == (status, None)


def test_a_sweep_finds_due_waits_and_leases_in_an_index_without_what_is_ready():
    text, *_ = plans(lambda: WorkflowExecutionRecord.objects.wake_due(200), "SELECT", "wake_at")
    assert "gm_execution_due" in text
    assert not sorts(text)


@pytest.mark.parametrize("way", ["complete", "suspend", "renew"])
def test_what_a_claim_holds_is_found_by_its_key_and_not_among_all_that_run(way):
    """Under somebody's long transaction the index of states is full of dead entries."""
    rows = WorkflowExecutionRecord.objects
    record, *_ = rows.bulk_create(
        WorkflowExecutionRecord(
            execution_id=str(number), workflow_id="w", state="running", claim_token=f"t{number}"
        )
        for number in range(1, 2000)
    )
    update_statistics(WorkflowExecutionRecord)
    stop = Suspended("go", None, answerable=True)
    work = {
        "complete": lambda: rows.complete(record, {}),
        "suspend": lambda: rows.suspend(record, stop, Opening("go", None, True, 1)),
        "renew": lambda: rows.renew(record, lease=timedelta(seconds=60)),
    }[way]
    for text in plans(work, "UPDATE", "claim_token", "workflowexecutionrecord"):
        if connection.vendor == "mysql":  # which also lists what it could have taken
            assert " PRIMARY 8 " in text
        else:
            assert "gm_execution_state" not in text
            assert "pkey" in text or "PRIMARY" in text


COMPLETED = """INSERT INTO general_manager_workflowexecutionrecord
    (execution_id, workflow_id, version, state, input_data, metadata, ended_at)
    SELECT 'e' || n, 'w', '1', 'completed', '{}', '{}', now() FROM generate_series(1, 2000) n"""
CANCELLED = Ending(WorkflowState.CANCELLED, "")
RARE = {
    "begin": ("pending", lambda rows, one: begin(rows, one.pk, "t", lease=LEASE)),
    "begin together": (
        "pending", lambda rows, one: begin_together(rows, [one.pk], "t", lease=LEASE)
    ),
    "complete together": ("running", lambda rows, one: complete_together(rows, {one.pk: {}}, "t")),
    "give back": ("pending", lambda rows, one: give_back(rows, "t", [one.pk])),
    "give back what has begun": ("running", lambda rows, one: give_back_begun(rows, "t", [one.pk])),
    "claim by id": ("pending", lambda rows, one: rows.claim(one.execution_id, lease=LEASE)),
    "fail": ("running", lambda rows, one: rows.held(one).end(WorkflowState.FAILED, error="no")),
    "cancel": ("waiting", lambda rows, one: rows.cancel(one, {}, "")),
    "wake": ("waiting", lambda rows, one: rows.wake_now(one)),
    "wake what is due": ("waiting", lambda rows, one: rows.wake_due(1)),
    "ask to end": ("waiting", lambda rows, one: request_end(rows, one, CANCELLED)),
}  # fmt: skip


@pytest.mark.skipif(connection.vendor != "postgresql", reason="others prefer the primary key")
@pytest.mark.parametrize("way", RARE)
def test_what_has_a_key_is_found_by_it_though_few_executions_are_in_its_state(way):
    """Its state is rare by the server's statistics, and full of the dead entries of thousands."""
    rows = WorkflowExecutionRecord.objects
    with connection.cursor() as cursor:
        cursor.execute(COMPLETED)
    update_statistics(WorkflowExecutionRecord)
    state, work = RARE[way]
    one = rows.create(
        execution_id="one", workflow_id="w", state=state, claim_token="t", runs=1,
        wake_at=now() - timedelta(minutes=1), waiting_since=now(),
    )  # fmt: skip
    texts = plans(
        lambda: work(rows, one), "UPDATE", '"general_manager_workflowexecutionrecord" SET'
    )
    for text in texts:
        assert not re.search("gm_execution_(state|ready|due)", text), text


@pytest.mark.parametrize(
    "query",
    [
        "state=waiting", "state=completed", "state=failed", "state=cancelled",
        "state=failed&ended=day", "state=failed&workflow=trip", "state=completed&ended=hour",
    ],
)  # fmt: skip
def test_a_list_of_one_state_and_its_count_walk_the_index_of_states(plans_of_list, query):
    for text in plans_of_list(WorkflowExecutionRecord, query):
        assert "gm_execution_state" in text
        assert not sorts(text)


@pytest.mark.parametrize(
    ("model", "query", "index"),
    [
        (WorkflowExecutionRecord, "workflow=trip", "gm_execution_workflow"),
        (WorkflowEventRecord, "type=a.b", "gm_event_type"),
        pytest.param(
            WorkflowExecutionRecord, "workflow=trip&state=completed", "gm_execution_workflow",
            marks=not_in_sqlite,
        ),
        pytest.param(DeadLetter, "", "gm_delivery_status", marks=not_in_sqlite),
    ],
)  # fmt: skip
def test_a_list_of_one_kind_and_its_count_walk_the_index_of_kinds(
    plans_of_list, model, query, index
):
    for text in plans_of_list(model, query):
        assert index in text
        assert not sorts(text)


@pytest.mark.parametrize(
    ("term", "indexes"),
    [
        # exact: by id, by correlation id, by cause, and by the events about a business object
        ("Project 42", ["gm_execution_id", "gm_execution_correlation", "gm_execution_cause"]),
        ("01a227f6-7860-72ee-97d8-a4aaaca90e2b", ["gm_execution_id", "gm_execution_correlation"]),
        # by how an id begins, and at last by how a correlation id does
        ("01a227f6-7860-72ee", ["gm_execution_id"]),
        ("loan-", ["gm_execution_correlation"]),
    ],
)
def test_b8_every_look_up_of_executions_has_an_index(term, indexes):
    rows = WorkflowExecutionRecord.objects.all()
    texts = plans(
        lambda: list(executions_like(rows, term)[0]), "FROM", "general_manager_workflowexecution"
    )
    for text in texts:
        assert is_indexed(text), text
    for index in indexes:
        if index == "gm_execution_id" and connection.vendor != "postgresql":
            continue  # SQLite gives it a name of its own, MariaDB looks it up before it plans
        assert any(index in text for text in texts), (index, texts)


@pytest.mark.parametrize(
    ("term", "index"), [("Project 42", "gm_event_subject"), ("0d9", "gm_event_id")]
)
def test_b8_every_look_up_of_events_has_an_index(term, index):
    rows = WorkflowEventRecord.objects.all()
    texts = plans(lambda: list(events_like(rows, term)[0]), "FROM", "general_manager_workflowevent")
    for text in texts:
        assert is_indexed(text), text
    assert connection.vendor == "sqlite" or any(index in text for text in texts)


def is_indexed(text):
    """No table is gone through from end to end."""
    if connection.vendor == "postgresql":
        return "Index" in text and "Seq Scan" not in text
    if connection.vendor == "sqlite":
        return "SEARCH" in text and not re.search(r"SCAN (?!CONSTANT)", text)
    return not re.search(r"\bALL\b", text)  # MariaDB's word for it; "index" is the whole index


def test_what_waits_longest_is_found_among_what_waits():
    [text] = plans(read_details, "waiting_for", "IS NOT NULL")
    assert "gm_execution_state" in text
    assert not sorts(text)


@pytest.mark.parametrize("work", [read_overview, read_details])
def test_the_overview_counts_in_indexes(work):
    [text] = plans(work, "COUNT(")
    looks_like_a_scan = r"(?i)(scan|search|primary|subquery|derived).* general_"
    scans = [line for line in text.splitlines() if re.search(looks_like_a_scan, line)]
    # It has a row a schedule, a few dozen, and no index but that of the names.
    scans = [line for line in scans if "workflowschedule" not in line]
    assert len(scans) > 10
    without = [line for line in scans if not re.search("(?i)index| gm_", line)]
    if connection.vendor == "sqlite":  # which does not see that what is dead is not completed
        without = [line for line in without if "deliveryattempt" not in line]
    assert without == []


def test_the_active_executions_of_a_schedule_are_found_by_an_index():
    """It is asked under the lock of the schedule's row."""
    text = plan(active_executions("default", "report"))
    assert "gm_execution_correlation" in text or "gm_execution_state" in text
    assert "Seq Scan" not in text


def test_a_look_finds_its_execution_and_its_signal_by_indexes(celery_engine):
    definition = WorkflowDefinition("w", handler=flows.wait_once)
    key = celery_engine.start(definition).execution_id
    run(key, "default")
    record = WorkflowExecutionRecord.objects.get()
    send(WorkflowExecutionRecord.objects.all(), record, "approval", 1)
    executions = WorkflowExecutionRecord.objects.all()

    def look_once():
        look(executions, key, [])

    found = plans(look_once, "SELECT", "workflowsignal", "LIMIT 1")
    assert found
    assert all("gm_signal_mailbox" in how for how in found), found
    chains = plans(look_once, "SELECT", "chain", "DESC")
    assert all("gm_execution_chain" in how for how in chains), chains


def test_the_sweep_finds_looks_whose_senders_died_by_an_index():
    [how] = plans(lambda: WorkflowSignal.objects.due(10), "workflowsignal", "available_at")
    assert "gm_signal_due" in how
