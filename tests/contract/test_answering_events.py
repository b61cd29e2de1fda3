"""Events that answer waits, and the first of several: the same on every engine and registry."""

from datetime import timedelta
from itertools import count

import pytest
from django.db import connection, transaction
from django.utils import timezone

from general_manager.workflow import (
    DatabaseEventRegistry,
    InMemoryEventRegistry,
    StepUsageError,
    WorkflowDefinition,
    WorkflowEvent,
    configure_event_registry,
    connect_workflow_signal_bridge,
    get_event_registry,
    get_workflow_engine,
)
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.signal_bridge import follow_the_setting
from tests.contract.drivers import LocalDriver
from tests.testapp import answering, plays
from tests.testapp.models import Invoice

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HOUR = timedelta(hours=1)
ONE = WorkflowDefinition("one", handler=answering.wait_once)
TWO = WorkflowDefinition("two", handler=answering.wait_twice)
FIRST = WorkflowDefinition("first", handler=answering.first)
FIRST_EVENT = WorkflowDefinition("first event", handler=answering.first_event)
COUNTS = WorkflowDefinition("counts", handler=answering.count)
UNTIL = WorkflowDefinition("until", handler=answering.until)

numbers = count(1)


@pytest.fixture
def bridge():
    connect_workflow_signal_bridge()
    yield
    follow_the_setting()


@pytest.fixture(autouse=True)
def registry(driver):
    """Of the engine's kind."""
    is_local = isinstance(driver, LocalDriver)
    registry = InMemoryEventRegistry() if is_local else DatabaseEventRegistry()
    configure_event_registry(registry)
    yield registry
    configure_event_registry(None)


def event(name=answering.PAID, event_id=None, **payload):
    key = event_id or f"event {next(numbers)}"
    return WorkflowEvent(key, f"shop.{name}", payload, event_name=name)


@pytest.fixture
def publish(registry):
    def send(name=answering.PAID, **payload):
        one = event(name, **payload)
        registry.publish(one)
        return one.event_id

    return send


def settle(driver):
    """Deliver the events too."""
    if not isinstance(driver, LocalDriver):
        with driver.in_force():
            drain()
    driver.settle()


def later(driver, definition=ONE, input_data=None):
    """An execution that has not run yet."""
    at = driver.now() + HOUR
    return driver.engine.start(definition, input_data or {}, at=at).execution_id


def go_on(driver, key):
    driver.pass_time(HOUR)
    settle(driver)
    return driver.engine.status(key)


def output(driver, key):
    settle(driver)
    return driver.engine.status(key).output_data


def test_m1_an_event_that_comes_before_its_wait_answers_it(driver, publish):
    key = later(driver)
    publish(amount=3)
    settle(driver)  # claimed and settled before the wait is opened
    assert go_on(driver, key).output_data == {"paid": {"amount": 3}}


@pytest.mark.skipif(connection.vendor == "mysql", reason="There they follow their ids")
def test_m1_events_that_are_published_together_are_taken_in_that_order(driver, registry):
    key = later(driver, WorkflowDefinition("in turn", handler=answering.take_amounts))
    registry.publish_many(event(event_id=f"{one} {key}", amount=one) for one in (3, 1, 2))
    settle(driver)
    assert go_on(driver, key).output_data == {"amounts": [3, 1, 2]}


def test_m1_an_event_answers_the_wait_that_is_open(driver, engine, started, publish):
    key = started(ONE).execution_id
    assert engine.status(key).waiting_for == "payment"
    publish(amount=5)
    assert output(driver, key) == {"paid": {"amount": 5}}
    [entry] = engine.history(key)
    assert (entry.kind, entry.step) == ("event_received", "payment")


def test_m1_an_event_with_other_values_or_another_key_answers_nothing(driver, started, publish):
    match = {"order_id": 7, "customer.name": "Ada", "paid": True}
    key = started(ONE, {"match": match}).execution_id
    publish(order_id=8, customer={"name": "Ada"}, paid=True)
    publish(order_id=7, customer={"name": "Bob"}, paid=True)
    publish(order_id=7, customer={"name": "Ada"}, paid=1)
    publish(order_id=7, customer="Ada", paid=True)
    publish(order_id="7", customer={"name": "Ada"}, paid=True)
    publish(order_id=7)
    publish("refunded", order_id=7, customer={"name": "Ada"}, paid=True)
    assert output(driver, key) is None
    publish(order_id=7.0, customer={"name": "Ada", "age": 36}, paid=True, more=[1])
    assert output(driver, key)["paid"]["more"] == [1]


@pytest.mark.parametrize(
    ("value", "other"),
    [
        ("ü", "u"),
        (None, 0),
        ([1, {"a": 2}], [1, {"a": 3}]),
        ({"a": [1]}, {"a": 1}),
        (1.5, 1),
        (True, 1),
        (False, 0),
        (0, False),
        ("", None),
        (2**60, 2**60 + 1),
    ],
)
def test_m1_a_value_matches_itself_and_no_other_before_and_after_the_wait_is_opened(
    driver, started, publish, value, other
):
    before = later(driver, ONE, {"match": {"is.it": value}})
    after = started(ONE, {"match": {"is.it": value}}).execution_id
    publish(**{"is": {"it": other}})
    publish(**{"is": {}})
    settle(driver)
    assert driver.engine.status(after).state == "waiting"
    publish(**{"is": {"it": value}})
    assert output(driver, after) == {"paid": {"is": {"it": value}}}
    assert go_on(driver, before).output_data == {"paid": {"is": {"it": value}}}


def test_a_path_may_have_the_name_of_a_lookup(driver, publish):
    key = later(driver, ONE, {"match": {"contains.year": 1, "0": "x", "it's \"": 2}})
    publish(**{"contains": {"year": 2}, "0": "x", "it's \"": 2})
    publish(**{"contains": {"year": 1}, "0": "x", "it's \"": 2})
    settle(driver)
    assert go_on(driver, key).output_data["paid"]["contains"] == {"year": 1}


def test_a_key_with_a_dot_is_a_type(driver, started, publish):
    key = started(ONE, {"key": "shop.payment_received"}).execution_id
    early = later(driver, ONE, {"key": "shop.payment_received"})
    publish(amount=1)
    assert output(driver, key) == {"paid": {"amount": 1}}
    assert go_on(driver, early).output_data == {"paid": {"amount": 1}}


def test_m1_the_event_whose_handler_started_an_execution_is_not_its_answer(
    driver, registry, publish
):
    started = []

    def start(event):
        started.append(get_workflow_engine().start(ONE).execution_id)

    registration = registry.register(answering.PAID, handler=start)
    publish(amount=1)
    settle(driver)
    [key] = started
    assert driver.engine.status(key).state == "waiting"
    registry.unregister(registration)
    publish(amount=2)
    assert output(driver, key) == {"paid": {"amount": 2}}


def test_m1_an_event_of_the_transaction_that_starts_the_execution_counts(driver, publish, engine):
    with transaction.atomic():
        publish(amount=1)
        key = engine.start(ONE).execution_id
    assert output(driver, key) == {"paid": {"amount": 1}}


def test_m1_an_event_that_was_delivered_before_the_start_does_not_count(
    driver, registry, started, publish
):
    publish(amount=1)
    settle(driver)
    key = started(ONE).execution_id
    assert driver.engine.status(key).state == "waiting"
    publish(amount=2)
    assert output(driver, key) == {"paid": {"amount": 2}}


def test_since_looks_back_further_than_the_start(driver, publish, started):
    publish(amount=1)
    settle(driver)
    plays.stage.seen.append(timezone.now() - HOUR)
    key = started(WorkflowDefinition("since", handler=answering.since_seen)).execution_id
    assert output(driver, key) == {"paid": {"amount": 1}}


def test_since_looks_back_less_than_to_the_start(driver, publish):
    key = later(driver, WorkflowDefinition("since", handler=answering.since_seen))
    publish(amount=1)
    settle(driver)
    plays.stage.seen.append(timezone.now() + timedelta(milliseconds=5))
    assert go_on(driver, key).state == "waiting"


def test_m1_two_executions_get_the_same_event(driver, started, publish):
    keys = [started(ONE, {"match": {"order_id": 7}}).execution_id for _ in range(3)]
    publish(order_id=7)
    assert [output(driver, key) for key in keys] == [{"paid": {"order_id": 7}}] * 3


def test_m1_the_same_match_in_one_execution_takes_the_next_event(driver, started, publish):
    key = started(TWO).execution_id
    publish(amount=1)
    settle(driver)
    assert driver.engine.status(key).waiting_for == "payment 2"
    publish(amount=2)
    assert output(driver, key) == {"paid": [{"amount": 1}, {"amount": 2}]}


def test_m1_events_that_came_first_are_taken_in_their_order(driver, publish):
    key = later(driver, TWO)
    for amount in (1, 2, 3):
        publish(amount=amount)
    settle(driver)
    assert go_on(driver, key).output_data == {"paid": [{"amount": 1}, {"amount": 2}]}


def test_m1_two_matches_in_one_execution_are_two_mailboxes(driver, publish):
    key = later(driver, TWO, {"matches": [{"order_id": 7}, {"customer": 1}]})
    publish(order_id=7, customer=1)
    settle(driver)
    both = {"order_id": 7, "customer": 1}
    assert go_on(driver, key).output_data == {"paid": [both, both]}


def test_m1_the_mailbox_goes_on_when_the_execution_continues_as_new(driver, engine, publish):
    key = later(driver, COUNTS)
    publish(amount=1)
    publish(amount=2)
    settle(driver)
    assert go_on(driver, key).output_data == {"amounts": [1, 2]}


def test_m1_an_event_in_time_wins_over_the_timeout(driver, publish):
    key = later(driver, ONE, {"timeout": 0})
    publish(amount=1)
    assert go_on(driver, key).output_data == {"paid": {"amount": 1}}


def test_a_timeout_without_an_event_is_one_and_an_event_that_comes_later_is_left(
    driver, engine, started, publish
):
    key = started(ONE, {"timeout": 60}).execution_id
    assert go_on(driver, key).output_data == {"paid": "nobody"}
    publish(amount=1)
    assert output(driver, key) == {"paid": "nobody"}
    [entry] = engine.history(key)
    assert (entry.kind, entry.step) == ("wait_timed_out", "payment")


def test_resume_answers_a_wait_for_an_event_too(driver, engine, started, publish):
    key = started(TWO).execution_id
    engine.resume(key, "by hand", wait="payment 1")
    settle(driver)
    publish(amount=1)
    assert output(driver, key) == {"paid": ["by hand", {"amount": 1}]}


def test_an_execution_that_is_over_takes_no_event(driver, engine, started, publish):
    key = started(ONE).execution_id
    engine.cancel(key)
    publish(amount=1)
    settle(driver)
    assert engine.status(key).state == "cancelled"


def test_first_of_several_gives_the_name_of_the_source_and_its_value(
    driver, engine, started, publish
):
    by_event, by_signal, by_hand, by_time = (
        started(FIRST, {"timeout": 60}).execution_id for _ in range(4)
    )
    assert plays.stage.calls == ["asked"] * 4
    assert engine.status(by_event).waiting_for == "boss"
    engine.signal(by_signal, "hurry", 1)
    engine.resume(by_hand, "yes", wait="boss")
    settle(driver)
    engine.cancel(by_time)
    publish("order_cancelled", order_id=7)
    assert output(driver, by_event) == {"which": "gone", "value": {"order_id": 7}}
    assert output(driver, by_signal) == {"which": "hurry", "value": 1}
    assert output(driver, by_hand) == {"which": "said", "value": "yes"}


def test_first_of_several_times_out(driver, started):
    key = started(FIRST, {"timeout": 60}).execution_id
    assert go_on(driver, key).output_data == {"which": "nobody"}


def test_m1_of_several_the_first_stored_wins_and_the_others_stay_untaken(driver, publish):
    key = later(driver, FIRST_EVENT, {"again": True})
    publish("order_cancelled", order_id=7)
    publish(order_id=7)
    settle(driver)
    assert go_on(driver, key).output_data == {
        "which": "gone",
        "value": {"order_id": 7},
        "then": {"order_id": 7},
    }


def test_m1_a_signal_that_came_first_wins_over_an_event_and_nothing_is_asked(
    driver, engine, publish
):
    key = later(driver, FIRST)
    engine.signal(key, "hurry", 1)
    publish(order_id=7)
    settle(driver)
    assert go_on(driver, key).output_data == {"which": "hurry", "value": 1}
    assert plays.stage.calls == []


def test_an_answer_by_hand_where_none_is_asked_for_comes_as_resumed(driver, engine, started):
    key = started(FIRST_EVENT).execution_id
    engine.resume(key, "by hand", wait="outcome")
    assert output(driver, key) == {"which": "resumed", "value": "by hand"}


def test_m1_a_retry_before_a_later_wait_gives_its_events_back(driver, engine, started, publish):
    key = later(driver, WorkflowDefinition("fails", handler=answering.wait_and_fail))
    ids = [publish(amount=amount) for amount in (1, 2, 3)]
    settle(driver)
    assert go_on(driver, key).state == "failed"
    preview = engine.preview_retry(key, before="payment 1")
    assert preview.events_returned == (answering.PAID,)
    assert preview.events_withdrawn == (answering.PAID,)
    second = engine.retry_from_checkpoint(key, before="payment 1").execution_id
    settle(driver)
    assert plays.stage.seen == [[1, 2], [2, 3]]
    kinds = [(one.kind, one.detail) for one in engine.history(second)]
    assert ("events_returned", answering.PAID) in kinds
    assert ("event_withdrawn", answering.PAID) in kinds
    assert len(ids) == 3


def test_a_wait_until_an_object_has_a_state_ends_by_its_change(driver, started, bridge):
    invoice = Invoice.objects.create(number="1", status="draft")
    other = Invoice.objects.create(number="2", status="draft")
    key = started(UNTIL, {"pk": invoice.pk}).execution_id
    other.status = "paid"
    other.save()
    invoice.status = "sent"
    invoice.save()
    assert output(driver, key) is None
    invoice.status = "paid"
    invoice.save()
    assert output(driver, key) == {"state": {"status": "paid"}}
    assert output(driver, started(UNTIL, {"pk": invoice.pk}).execution_id) == {
        "state": {"status": "paid"}
    }


def test_a_wait_until_is_answered_by_a_change_that_was_taken_back(driver, started, bridge):
    invoice = Invoice.objects.create(number="1", status="draft")
    key = started(UNTIL, {"pk": invoice.pk}).execution_id
    with transaction.atomic():
        invoice.status = "paid"
        invoice.save()
        invoice.status = "draft"
        invoice.save()
    assert output(driver, key) == {"state": {"status": "paid"}}


def test_a_wait_until_for_a_row_that_is_not_there_yet_ends_by_its_creation(driver, started, bridge):
    key = started(UNTIL, {"pk": 4711}).execution_id
    Invoice.objects.create(pk=4711, number="1", status="paid")
    assert output(driver, key) == {"state": {"status": "paid"}}


def test_a_wait_until_is_refused_for_changes_that_emit_no_events(driver, started):
    assert "emit no events" in started(UNTIL, {"pk": 1}).error
    connect_workflow_signal_bridge()
    untracked = WorkflowDefinition("untracked", handler=answering.until_tag)
    assert "track_changes" in started(untracked).error
    follow_the_setting()


def test_m1_events_of_another_kind_of_registry_are_refused(driver, started):
    is_local = isinstance(driver, LocalDriver)
    configure_event_registry(DatabaseEventRegistry() if is_local else InMemoryEventRegistry())
    failed = started(ONE)
    assert failed.state == "failed"
    assert "WORKFLOW_EVENT_REGISTRY" in failed.error


def test_m1_an_event_published_now_in_a_transaction_answers_by_the_commit_alone(
    driver, registry, started
):
    key = started(ONE).execution_id
    with pytest.raises(RuntimeError), transaction.atomic():
        registry.publish_sync(event(amount=1))
        raise RuntimeError
    assert output(driver, key) is None
    with transaction.atomic():
        registry.publish_sync(event(amount=2))
        assert driver.engine.status(key).state == "waiting"
    assert output(driver, key) == {"paid": {"amount": 2}}


def test_an_event_published_now_answers_at_once(driver, registry, started):
    key = started(ONE).execution_id
    registry.publish_sync(event(amount=2))
    assert output(driver, key) == {"paid": {"amount": 2}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"match": {"a..b": 1}}, "separated by dots"),
        ({"match": {"a": object()}}, "match.a"),
        ({"match": [1]}, "must be a mapping"),
        ({"match": {"x" * 300: 1}}, "255 characters"),
        ({"match": {"x": "y" * 5000}}, "4,000 bytes"),
        ({"key": ""}, "must not be empty"),
        ({"key": "execution_completed"}, "Register a handler"),
        ({"timeout": "soon"}, "timedelta"),
    ],
)
def test_a_wrong_argument_is_named(driver, started, arguments, message):
    plays.stage.seen.append(arguments)
    wrong = started(WorkflowDefinition("wrong", handler=answering.wait_wrongly))
    assert message in wrong.error


def test_outside_an_execution_nothing_waits():
    with pytest.raises(StepUsageError, match="outside a workflow"):
        answering.wait_once({})
    assert get_event_registry() is not None
