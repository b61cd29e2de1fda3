"""An event finds its waits, and a wait its event, by an index, however many there are."""

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from general_manager.workflow import WorkflowDefinition, WorkflowEvent, on_event
from general_manager.workflow.core.matching import mailbox_of, shape_of
from general_manager.workflow.durable.answers.sources import Source, SourceKind
from general_manager.workflow.events import subject_of
from general_manager.workflow.models import (
    WorkflowEventRecord,
    WorkflowEventWait,
    WorkflowExecutionRecord,
    WorkflowOutbox,
)
from general_manager.workflow.models.answers import earliest
from general_manager.workflow.models.answers.wait import _SHAPES
from tests.integration.models.test_query_plans import refuse_other_ways, update_statistics
from tests.testapp import answering

pytestmark = pytest.mark.django_db(databases=["default", "archive"])

KEY = "payment_received"
MANY = 5_000


def explained(sql, parameters):
    word = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    with transaction.atomic():
        refuse_other_ways()
        with connection.cursor() as cursor:
            cursor.execute(f"{word} {sql}", parameters)
            return "\n".join(str(row) for row in cursor.fetchall())


def plan(queryset):
    return explained(*queryset.query.sql_with_params())


@pytest.fixture
def waits(celery_engine):
    definition = WorkflowDefinition("w", handler=answering.wait_once)
    execution = WorkflowExecutionRecord.objects.get(
        execution_id=celery_engine.start(definition).execution_id
    )
    rows = [
        WorkflowEventWait(
            execution=execution,
            step="payment",
            event_key=KEY,
            shape=shape_of({"order_id": number}),
            mailbox=mailbox_of(KEY, {"order_id": number}),
        )
        for number in range(MANY)
    ]
    WorkflowEventWait.objects.bulk_create(rows)
    update_statistics(WorkflowEventWait)
    return WorkflowEventWait.objects.all()


def test_m1_an_event_finds_its_wait_among_5000_of_its_key_by_an_index(waits):
    wanted = [mailbox_of(KEY, {"order_id": 4711})]
    assert "gm_event_wait_mailbox" in plan(waits.filter(mailbox__in=wanted))
    assert [mailbox for mailbox, _ in waits.of_mailboxes(wanted)] == wanted


def test_m1_the_shapes_of_5000_waits_of_a_key_are_one_step_along_an_index(waits):
    keys = [KEY, "nothing"]
    if connection.vendor == "postgresql":
        shown = explained(_SHAPES.format(table=waits.model._meta.db_table), [keys])
    else:
        rows = waits.filter(event_key__in=keys).values_list("event_key", "shape").distinct()
        shown = plan(rows)
    assert "gm_event_wait_shape" in shown
    assert waits.shapes(keys) == {KEY: ['["order_id"]']}
    assert waits.shapes([]) == waits.shapes(["nothing"]) == {}


@pytest.mark.parametrize("key", [KEY, "shop.payment.received"])
def test_m1_a_wait_finds_its_event_among_those_of_its_key_since_the_start(outbox, key):
    events = [
        WorkflowEvent(
            str(number),
            "shop.payment.received" if number % 2 else "shop.other",
            {"order_id": number},
            event_name=KEY if number % 2 else "other",
        )
        for number in range(2_000)
    ]
    outbox.publish_many(events)
    for model in (WorkflowEventRecord, WorkflowOutbox):
        update_statistics(model)
    source = on_event(key, match={"order_id": 1501})
    since = timezone.now() - timedelta(minutes=1)
    shown = plan(earliest._candidates("default", source, since)[:50])
    assert ("gm_event_type" if "." in key else "gm_event_name") in shown
    if connection.vendor == "postgresql":
        assert "gm_outbox_late" in shown
    found = earliest.earliest("default", source, chain="x", since=since, cause=None)
    assert found.event_id == "1501"


def test_m1_a_wait_for_an_object_finds_its_events_by_an_index(outbox):
    update_statistics(WorkflowEventRecord)
    assert "gm_event_subject" in plan(earliest._candidates("default", INVOICE, timezone.now())[:50])


INVOICE = Source(
    SourceKind.STATE, "testapp.Invoice", {"status": "paid"},
    about={"manager": "Invoice", "identification.id": 7},
)  # fmt: skip


@pytest.mark.parametrize("source", [on_event(KEY), INVOICE], ids=["event", "object"])
def test_m1_the_search_begins_an_hour_before_the_start_or_at_what_was_claimed_late(outbox, source):
    subject = subject_of({"manager": "Invoice", "identification": {"id": 7}})
    rows = [
        WorkflowEventRecord(
            event_id=str(one), event_type="a.b", event_name=KEY, payload={}, subject=subject
        )
        for one in range(4)
    ]
    WorkflowEventRecord.objects.bulk_create(rows)
    first, second, third, _ = WorkflowEventRecord.objects.order_by("pk")
    now = timezone.now()
    old = WorkflowEventRecord.objects.filter(pk__in=[first.pk, second.pk, third.pk])
    old.update(published_at=now - timedelta(days=1))
    for event in WorkflowEventRecord.objects.order_by("pk"):
        WorkflowOutbox.objects.create(event=event, seen_at=now)
    since = now - timedelta(seconds=10)

    def ids():
        return [one.event_id for one in earliest._candidates("default", source, since)]

    assert ids() == ["3"]
    WorkflowOutbox.objects.filter(event=second).update(seen_late_at=now)
    assert sorted(ids()) == ["1", "2", "3"]
