"""Publishing in a transaction and outside of one, for later and here and now."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from celery import Celery, current_app
from django.db import IntegrityError, connection, transaction

from general_manager.workflow import WorkflowEvent, publish_sync
from general_manager.workflow.models import WorkflowEventRecord, WorkflowOutbox
from general_manager.workflow.models.sql.addresses import EVENT_FIELDS
from general_manager.workflow.models.sql.inserts import insert_new
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.signals import event_published
from tests.integration.conftest import data_statements
from tests.integration.outbox.test_races import race

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def make_event(event_id="1", **payload):
    return WorkflowEvent(event_id, "a.b", payload, event_name="x")


def stumbling_at(word):
    """A database that is away when it is to insert into the table with *word* in its name."""

    def stumble(execute, sql, *rest):
        if re.search(rf"INSERT INTO \S*{word}", sql):
            raise ConnectionError("gone")
        return execute(sql, *rest)

    return connection.execute_wrapper(stumble)


@pytest.mark.parametrize("way", ["publish", "publish_many", "publish_sync"])
def test_e2_outside_of_a_transaction_an_event_is_stored_with_its_entry_or_not_at_all(outbox, way):
    argument = [make_event()] if way == "publish_many" else make_event()
    with stumbling_at("workflowoutbox"), pytest.raises(ConnectionError):
        getattr(outbox, way)(argument)
    assert not WorkflowEventRecord.objects.exists()
    getattr(outbox, way)(argument)
    assert WorkflowOutbox.objects.count() == 1


def test_publishing_in_a_callers_transaction_opens_no_savepoint_and_breaks_nothing(outbox):
    with transaction.atomic(), data_statements() as statements:
        outbox.publish(make_event())
    is_one = connection.vendor == "postgresql"
    assert [one.split()[0] for one in statements] == (["WITH"] if is_one else ["INSERT", "INSERT"])


def test_publish_sync_has_the_entry_before_a_worker_can_take_it(outbox):
    outbox.register("x", handler=lambda event: None, registration_id="r")
    app = Celery("tests", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    before = current_app._get_current_object()  # type: ignore[attr-defined]
    app.set_current()
    try:
        assert publish_sync(make_event())
    finally:
        before.set_current()


def test_publish_sync_says_what_this_call_delivered(outbox):
    trouble = [ValueError("once")]

    def fail_once(event):
        if trouble:
            raise trouble.pop()

    outbox.register("x", handler=lambda event: None, registration_id="good")
    outbox.register("x", handler=fail_once, registration_id="bad")
    assert publish_sync(make_event())
    assert WorkflowOutbox.objects.get().status == "failed"
    # The good one had it before, and the bad one rests.
    assert not publish_sync(make_event())


def test_each_call_of_a_handler_has_a_payload_of_its_own(outbox, workers):
    seen, told = [], []

    def spoil(event):
        seen.append(dict(event.payload["order"]))
        event.payload["order"].clear()
        event.payload["spoilt"] = True
        raise ValueError("boom")

    def is_wanted(event):
        event.payload["order"].clear()
        return True

    outbox.register(
        "x", handler=spoil, when=is_wanted, retries=1, registration_id="spoils",
        dead_letter_handler=lambda event, error: told.append(event.payload),
    )  # fmt: skip
    outbox.register("x", handler=lambda event: seen.append(event.payload), registration_id="r")
    outbox.publish(make_event(order={"n": 1}))
    for _ in range(3):
        workers.deliver()
        workers.let_rest_pass()
    assert seen[:3] == [{"n": 1}, {"n": 1}, {"order": {"n": 1}}]
    assert seen[3:] == [{"n": 1}] * 4
    assert told == [{"order": {"n": 1}}]


def test_e10_the_same_events_in_another_order_at_the_same_moment_break_no_transaction(outbox):
    events = [make_event(str(number)) for number in range(40)]

    def publish(some):
        def work():
            with transaction.atomic():
                outbox.publish_many(some)

        return work

    for _ in range(5):
        WorkflowEventRecord.objects.all().delete()
        race(publish(events), publish(events[::-1]))
        assert WorkflowOutbox.objects.count() == 40


def test_the_events_of_a_chunk_are_delivered_in_the_order_in_which_they_were_published(outbox):
    seen = []
    outbox.register("x", handler=lambda event: seen.append(event.event_id), registration_id="r")
    ids = [str((number * 7) % 40) for number in range(40)]
    outbox.publish_many(make_event(one) for one in ids)
    drain("default")
    assert seen == ids


def test_of_several_with_one_id_the_first_is_stored_and_reported(outbox):
    told = []

    def hear(event, **_):
        told.append(event.payload)

    event_published.connect(hear)
    try:
        outbox.publish_many([make_event(n=1), make_event(n=2)])
    finally:
        event_published.disconnect(hear)
    assert told == [WorkflowEventRecord.objects.get().payload] == [{"n": 1}]


@pytest.mark.parametrize(
    "moment",
    [
        datetime(9999, 12, 31, 23, 59, tzinfo=timezone(-timedelta(hours=12))),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    ],
)
def test_e14_a_time_that_no_database_could_give_back_is_refused(moment):
    with pytest.raises(ValueError, match="occurred_at"):
        WorkflowEvent("1", "a.b", {}, occurred_at=moment)
    assert WorkflowEvent("1", "a.b", {}, occurred_at=moment.replace(tzinfo=UTC))


@pytest.mark.parametrize("missing", ["event_type", "payload"])
def test_a12_only_a_known_id_is_skipped_and_another_fault_is_an_error(outbox, missing):
    """As in tables of the same names that another package made."""
    row = dict.fromkeys(EVENT_FIELDS, "x") | {"payload": {}, "metadata": {}, "occurred_at": None}
    fields = tuple(name for name in EVENT_FIELDS if name != missing)
    with pytest.raises(IntegrityError), transaction.atomic():
        insert_new(
            WorkflowEventRecord, fields, [[row[name] for name in fields]], "default",
            unless=("event_id",),
        )  # fmt: skip
    assert not WorkflowEventRecord.objects.exists()


def test_a12_among_new_rows_a_known_one_is_skipped(outbox):
    outbox.publish_many([make_event("1"), make_event("2")])
    outbox.publish_many([make_event("3"), make_event("1"), make_event("4")])
    assert set(WorkflowEventRecord.objects.values_list("event_id", flat=True)) == set("1234")
    assert WorkflowOutbox.objects.count() == 4
