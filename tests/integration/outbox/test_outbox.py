"""From publish to the settled entry, on real tables."""

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test import override_settings

from general_manager.workflow import (
    PermanentFailure,
    RetryAfter,
    WorkflowEvent,
    configure_event_registry,
)
from general_manager.workflow.exceptions import EncodingError, WorkerDied
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowOutbox,
)
from general_manager.workflow.models.sql.claims import OutboxStatus
from general_manager.workflow.outbox.drain import deliver, drain
from general_manager.workflow.outbox.registry import DatabaseEventRegistry
from tests.integration.conftest import data_statements
from tests.testapp.models import ArchivedProject, Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def make_event(event_id="1", **changes):
    arguments = {"event_type": "shop.order.paid", "event_name": "order_paid", "payload": {"n": 1}}
    return WorkflowEvent(event_id, **{**arguments, **changes})


class Failing:
    """Raises the given errors one after the other, then succeeds; writes a row each time."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, event):
        self.calls += 1
        Tag.objects.create(name=event.event_id)
        if self.errors:
            raise self.errors.pop(0)


def statuses():
    return list(WorkflowOutbox.objects.order_by("pk").values_list("status", flat=True))


def deliveries():
    rows = WorkflowDeliveryAttempt.objects.order_by("pk")
    return [(row.registration_id, row.status, row.attempts) for row in rows]


# Publishing


def test_e1_an_event_and_its_change_commit_or_roll_back_together(outbox):
    with pytest.raises(RuntimeError), transaction.atomic():
        Tag.objects.create(name="change")
        outbox.publish(make_event())
        raise RuntimeError
    assert not WorkflowEventRecord.objects.exists()
    with transaction.atomic():
        outbox.publish(make_event())
    record = WorkflowEventRecord.objects.get()
    assert record.to_event() == make_event()
    assert statuses() == ["pending"]


def test_e1_a_managers_event_is_part_of_its_change_on_its_own_database(outbox, workers):
    seen = []
    outbox.register("manager_created", handler=seen.append)
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_SIGNAL_BRIDGE": True}
    ):
        with pytest.raises(RuntimeError), transaction.atomic(using="archive"):
            ArchivedProject.create(name="undone")
            raise RuntimeError
        ArchivedProject.create(name="Gemini")
    assert not WorkflowEventRecord.objects.using("default").exists()
    assert WorkflowEventRecord.objects.using("archive").count() == 1
    assert workers.deliver() == 1
    assert [event.payload["values"]["name"] for event in seen] == ["Gemini"]


def test_a_new_event_takes_one_statement_where_it_can_and_no_savepoint(
    outbox, django_assert_num_queries
):
    outbox.register("order_paid", handler=Failing())
    few = 1 if connection.vendor == "postgresql" else 2
    with transaction.atomic(), django_assert_num_queries(few):
        assert outbox.publish(make_event()) is False
    entry = WorkflowOutbox.objects.get()
    assert entry.event.event_id == make_event().event_id
    assert entry.expected_registrations == [one.id for one in outbox.registrations()]
    with transaction.atomic(), django_assert_num_queries(1):  # known: there is nothing to owe
        assert outbox.publish(make_event(payload={"other": True})) is False
    assert WorkflowOutbox.objects.get() == entry


def test_many_events_take_few_statements(outbox, django_assert_max_num_queries):
    events = [make_event(str(number)) for number in range(1000)]
    with transaction.atomic(), django_assert_max_num_queries(30):
        outbox.publish_many(events)
    assert WorkflowOutbox.objects.count() == 1000
    with transaction.atomic(), django_assert_max_num_queries(15):
        outbox.publish_many(events)
    assert WorkflowOutbox.objects.count() == 1000


def test_e10_a_duplicate_changes_nothing_and_breaks_no_transaction(outbox, workers):
    handler = Failing()
    outbox.register("order_paid", handler=handler)
    with transaction.atomic():
        Tag.objects.create(name="business")
        outbox.publish(make_event())
        outbox.publish(make_event(payload={"other": True}))
        outbox.publish_many([make_event(payload={"n": 2}), make_event(payload={"n": 3})])
        Tag.objects.create(name="more business")
    assert Tag.objects.count() == 2
    assert WorkflowEventRecord.objects.get().payload == {"n": 1}
    workers.deliver()
    outbox.publish(make_event(payload={"late": True}))
    workers.deliver()
    assert handler.calls == 1
    assert WorkflowEventRecord.objects.get().payload == {"n": 1}


def test_e10_ids_that_differ_in_case_or_in_spaces_are_two(outbox):
    outbox.publish_many([make_event("a"), make_event("A"), make_event("a "), make_event("ä")])
    assert WorkflowEventRecord.objects.count() == 4


CYCLE: list[object] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize("value", [float("nan"), "\x00", b"", object(), CYCLE])
def test_e14_a_bad_payload_is_refused_before_any_sql(outbox, value, django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(EncodingError, match=r"payload\.x\.y"):
        outbox.publish(make_event(payload={"x": {"y": value}}))


def test_e14_one_bad_payload_among_many_stores_none(outbox, django_assert_num_queries):
    events = [make_event("1"), make_event("2", payload={"x": b""})]
    with django_assert_num_queries(0), pytest.raises(EncodingError, match=r"payload\.x"):
        outbox.publish_many(events)


@pytest.mark.parametrize("name", ["event_id", "event_type", "event_name", "source"])
def test_e14_an_id_of_300_characters_is_refused_where_it_is_made(name):
    with pytest.raises(ValueError, match=f"{name} has 300 characters"):
        make_event(**{"event_id": "1", name: "x" * 300})


def test_e14_five_megabytes_are_stored_whole(outbox, workers):
    text, seen = "x" * 4_400_000 + "\u00e4\U0001f600" * 100_000, []
    outbox.register("order_paid", handler=lambda event: seen.append(event.payload["text"] == text))
    outbox.publish(make_event(payload={"text": text}))
    workers.deliver()
    assert seen == [True]


# Delivering


def test_an_event_is_delivered_to_every_handler_that_matches_in_order(outbox, workers):
    seen = []
    outbox.register("order_paid", handler=lambda event: seen.append("name"))
    outbox.register("shop.order.paid", handler=lambda event: seen.append("type"))
    outbox.register("order_paid", handler=lambda event: seen.append("no"), when=lambda event: False)
    outbox.publish(make_event())
    assert workers.deliver() == 1
    assert seen == ["type", "name"]
    assert statuses() == ["processed"]
    assert [status for _, status, _ in deliveries()] == ["completed", "completed"]
    assert workers.deliver() == 0
    assert seen == ["type", "name"]


def test_an_idle_drain_is_one_statement(outbox):
    with data_statements() as statements:
        drain("default")
    assert len(statements) == 1


def test_e4_a_failing_handlers_writes_are_undone_and_a_completed_ones_stay(outbox, workers):
    outbox.register("order_paid", handler=Failing(ValueError("boom")))
    outbox.register("order_paid", handler=Failing())
    outbox.publish(make_event())
    workers.deliver()
    assert Tag.objects.count() == 1
    workers.let_rest_pass()
    workers.deliver()
    assert Tag.objects.count() == 2
    assert statuses() == ["processed"]


def test_a_handler_that_is_not_atomic_keeps_its_writes(outbox, workers):
    outbox.register("order_paid", handler=Failing(ValueError("boom")), atomic=False)
    outbox.publish(make_event())
    workers.deliver()
    assert Tag.objects.count() == 1


def test_e7_a_failed_handler_is_retried_alone_though_another_succeeded(outbox, workers):
    good, bad = Failing(), Failing(ValueError("1"))
    outbox.register("order_paid", handler=good)
    outbox.register("order_paid", handler=bad)
    outbox.publish(make_event())
    workers.deliver()
    assert statuses() == ["failed"]
    assert workers.deliver() == 0  # it rests
    workers.let_rest_pass()
    workers.deliver()
    assert (good.calls, bad.calls) == (1, 2)
    assert statuses() == ["processed"]


def test_e8_after_the_last_pass_the_hook_is_called_once_with_the_real_error(outbox, workers):
    dead = []
    handler = Failing(*(ValueError(str(number)) for number in range(20)))
    outbox.register(
        "order_paid",
        handler=handler,
        retries=1,
        dead_letter_handler=lambda event, error: dead.append((event.event_id, repr(error))),
    )
    outbox.publish(make_event())
    for number in range(4):
        workers.deliver()
        assert len(dead) == (number >= 2)
        workers.let_rest_pass()
    assert handler.calls == 6
    assert dead == [("1", "ValueError('5')")]
    assert statuses() == ["dead_letter"]
    row = WorkflowDeliveryAttempt.objects.get()
    assert (row.status, row.attempts, row.error, row.error_class) == (
        "dead_letter", 3, "5", "builtins.ValueError",
    )  # fmt: skip
    assert "ValueError: 5" in row.traceback


def test_e8_a_requeue_delivers_only_what_is_dead(outbox, workers):
    good, bad = Failing(), Failing(PermanentFailure("never"))
    outbox.register("order_paid", handler=good)
    outbox.register("order_paid", handler=bad)
    outbox.publish(make_event())
    workers.deliver()
    assert statuses() == ["dead_letter"]
    assert WorkflowDeliveryAttempt.objects.all().requeue_dead() == (1, 1)
    workers.deliver()
    assert (good.calls, bad.calls) == (1, 2)
    assert statuses() == ["processed"]


def test_e7_a_delayed_delivery_is_retried_though_another_handler_is_dead(outbox, workers):
    dead, resting = Failing(PermanentFailure("never")), Failing(ValueError("once"))
    outbox.register("order_paid", handler=dead)
    outbox.register("order_paid", handler=resting)
    outbox.publish(make_event())
    for _ in range(3):
        workers.deliver()
        workers.let_rest_pass()
    assert (dead.calls, resting.calls) == (1, 2)
    assert statuses() == ["dead_letter"]


def test_e7_the_shorter_of_two_delays_decides_and_the_longer_is_kept(outbox, workers):
    patient, hasty = Failing(RetryAfter(10_000)), Failing(RetryAfter(100))
    outbox.register("order_paid", handler=patient)
    outbox.register("order_paid", handler=hasty)
    outbox.publish(make_event())
    workers.deliver()
    entry = WorkflowOutbox.objects.get()
    assert entry.available_at is not None
    assert entry.claimed_at is not None
    assert 90 < (entry.available_at - entry.claimed_at).total_seconds() < 110
    WorkflowOutbox.objects.update(available_at=entry.claimed_at)
    WorkflowDeliveryAttempt.objects.filter(
        available_at__lt=entry.claimed_at + timedelta(seconds=1000)
    ).update(available_at=entry.claimed_at)
    workers.deliver()
    assert (patient.calls, hasty.calls) == (1, 2)


def test_e8_the_hook_gets_a_validators_refusal_as_it_was_raised(outbox, workers):
    told = []

    def refuse(event):
        raise KeyError("amount")

    outbox.register(
        "order_paid",
        handler=Failing(),
        validator=refuse,
        dead_letter_handler=lambda event, error: told.append(type(error)),
    )
    outbox.publish(make_event())
    workers.deliver()
    assert told == [KeyError]


def test_a_permanent_failure_and_a_refusing_validator_are_dead_at_once(outbox, workers):
    dead = []

    def refuse(event):
        raise ValueError("no amount")

    def hook(event, error):
        dead.append(str(error))

    outbox.register("order_paid", handler=Failing(PermanentFailure("x")), dead_letter_handler=hook)
    outbox.register("order_paid", handler=Failing(), validator=refuse, dead_letter_handler=hook)
    outbox.publish(make_event())
    workers.deliver()
    assert dead == ["x", "no amount"]
    assert statuses() == ["dead_letter"]


def test_retry_after_sets_the_rest(outbox, workers):
    outbox.register("order_paid", handler=Failing(RetryAfter(1000)))
    outbox.publish(make_event())
    workers.deliver()
    entry = WorkflowOutbox.objects.get()
    assert entry.available_at is not None
    assert entry.claimed_at is not None
    rest = entry.available_at - entry.claimed_at
    assert 990 < rest.total_seconds() < 1010


def test_without_dead_letters_a_failure_is_tried_indefinitely(outbox, workers):
    handler = Failing(*[ValueError()] * 7)
    outbox.register("order_paid", handler=handler)
    outbox.publish(make_event())
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_DEAD_LETTER_ENABLED": False}
    ):
        for _ in range(8):
            workers.deliver()
            workers.let_rest_pass()
    assert handler.calls == 8
    assert statuses() == ["processed"]


def raising(*arguments):
    raise RuntimeError("a bug")


@pytest.mark.parametrize(
    "options",
    [
        {"when": raising},
        {"validator": raising},
        {"handler": Failing(*[ValueError("x")] * 99), "retry_on": raising},
        {"handler": Failing(PermanentFailure("x")), "dead_letter_handler": raising},
    ],
)
def test_e11_whatever_raises_touches_nobody_else(outbox, workers, options):
    good = Failing()
    outbox.register("order_paid", **{"handler": Failing(), **options})
    outbox.register("order_paid", handler=good)
    outbox.publish(make_event())
    for _ in range(4):
        workers.deliver()
        workers.let_rest_pass()
    assert good.calls == 1
    assert statuses() == ["dead_letter"]


# Claims, leases, crashes


def claim(limit=100):
    return WorkflowOutbox.objects.claim(limit, lease=timedelta(seconds=300))


def test_e13_what_is_claimed_nobody_else_claims(outbox):
    outbox.publish_many([make_event(str(number)) for number in range(10)])
    first, second, third = claim(6), claim(6), claim(6)
    assert (first.size, second.size, third.size) == (6, 4, 0)
    assert not set(first.together) & set(second.together)


def test_e5_a_worker_that_lost_its_claim_writes_nothing(outbox, workers):
    handler = Failing()

    def freeze_and_let_another_finish(event):
        Tag.objects.create(name="by the frozen one")
        if handler.calls == 0:
            handler.calls += 1
            # Time passes beyond the lease; another worker takes over while this one sleeps.
            WorkflowOutbox.objects.update(claim_token="somebody else's")

    outbox.register("order_paid", handler=freeze_and_let_another_finish)
    outbox.publish(make_event())
    held = claim()
    deliver("default", held.token, held.together)
    assert not Tag.objects.exists()
    assert deliveries() == []
    assert statuses() == ["claimed"]


def test_e5_nor_does_one_whose_delivery_was_tried_before(outbox, workers):
    def lose_the_claim_the_second_time(event):
        Tag.objects.create(name="by the frozen one")
        if WorkflowDeliveryAttempt.objects.exists():
            WorkflowOutbox.objects.update(claim_token="somebody else's")
            return
        raise ValueError("the first time")

    outbox.register("order_paid", handler=lose_the_claim_the_second_time)
    outbox.publish(make_event())
    workers.deliver()
    workers.let_rest_pass()
    held = claim()
    deliver("default", held.token, held.together)
    assert not Tag.objects.exists()
    assert [status for _, status, _ in deliveries()] == ["failed"]


def test_what_a_dead_worker_had_begun_comes_back_alone(outbox, workers):
    outbox.publish_many([make_event(str(number)) for number in range(3)])
    held = claim()
    WorkflowOutbox.objects.begin(held.token, held.together[:2], lease=timedelta(seconds=300))
    workers.let_rest_pass()
    again = claim()
    assert sorted(again.alone) == sorted(held.together[:2])
    assert again.together == held.together[2:]


def test_a_message_that_comes_after_its_claim_is_over_does_nothing(outbox, workers):
    handler = Failing()
    outbox.register("order_paid", handler=handler)
    outbox.publish(make_event())
    held = claim()
    workers.let_rest_pass()
    workers.deliver()
    deliver("default", held.token, held.together)
    assert handler.calls == 1


def test_a_lost_message_is_no_crash(outbox, workers):
    outbox.register("order_paid", handler=Failing())
    outbox.publish(make_event())
    for _ in range(5):
        assert claim().together
        workers.let_rest_pass()
    workers.deliver()
    assert statuses() == ["processed"]


class Killed(SystemExit):
    """Ends the worker here as `os._exit` would: nothing after it runs."""


def test_e9_only_the_handler_that_kills_its_worker_is_charged_and_stopped(outbox, workers):
    dead, seen = [], []

    def kill(event):
        if event.event_id == "7":
            raise Killed
        seen.append(event.event_id)

    outbox.register(
        "order_paid", handler=kill, dead_letter_handler=lambda event, error: dead.append(error)
    )
    bystander = Failing()
    outbox.register("order_paid", handler=bystander)
    outbox.publish_many([make_event(str(number)) for number in range(50)])
    for _ in range(60):
        try:
            workers.deliver()
        except Killed:
            workers.let_rest_pass()
    assert sorted(seen, key=int) == [str(number) for number in range(50) if number != 7]
    assert statuses().count("processed") == 49
    assert bystander.calls == 50
    (error,) = dead
    assert isinstance(error, WorkerDied)
    assert "3 times" in str(error)
    charged = WorkflowDeliveryAttempt.objects.exclude(crashes=0).get()
    assert (charged.status, charged.crashes) == ("dead_letter", 3)
    others = WorkflowDeliveryAttempt.objects.exclude(pk=charged.pk)
    assert set(others.values_list("status", "crashes")) == {("completed", 0)}


def test_a_registration_that_this_process_does_not_know_is_left_to_another(outbox, workers):
    here, there = Failing(), Failing()
    outbox.register("order_paid", handler=here, registration_id="here")
    elsewhere = outbox.register("order_paid", handler=there, registration_id="elsewhere")
    outbox.publish(make_event())
    outbox.unregister(elsewhere)
    workers.deliver()
    assert statuses() == ["failed"]
    assert deliveries() == [("here", "completed", 1)]
    newer = DatabaseEventRegistry()
    newer.register("order_paid", handler=there, registration_id="elsewhere")
    configure_event_registry(newer)
    workers.let_rest_pass()
    workers.deliver()
    assert statuses() == ["processed"]
    assert (here.calls, there.calls) == (1, 1)


def test_a_delivery_is_one_statement_and_a_chunk_adds_seven(outbox, workers):
    outbox.register("order_paid", handler=lambda event: None)
    outbox.publish_many([make_event(str(number)) for number in range(50)])
    with data_statements() as statements:
        workers.deliver()
    assert statuses() == [OutboxStatus.PROCESSED] * 50
    # One a delivery; for all fifty: claim 2, begin, load 2, settle, and the idle claim at the end.
    assert len(statements) <= 50 + 7


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Only there keys have a sequence")
def test_a_role_that_may_only_insert_publishes_many(outbox):
    outbox.register("x", handler=lambda event: None)
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE only_inserts")
        cursor.execute(
            "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO only_inserts"
        )
        cursor.execute("SET ROLE only_inserts")
    try:
        with transaction.atomic():
            outbox.publish_many(
                WorkflowEvent(one, "a.b", {}, event_name="x") for one in ("b", "a", "c")
            )
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET ROLE")
            cursor.execute("DROP OWNED BY only_inserts")
            cursor.execute("DROP ROLE only_inserts")
    assert WorkflowOutbox.objects.count() == 3
