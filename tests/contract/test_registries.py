"""Registering, publishing and what becomes of a handler's failure, on every registry."""

import pytest
from django.test import override_settings

from general_manager.workflow import (
    EncodingError,
    PermanentFailure,
    RetryAfter,
    WorkflowEvent,
)
from general_manager.workflow.signals import event_dead, event_delivered, event_failed
from tests.testapp import plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def event(event_id="1", event_type="billing.paid", event_name="paid", payload=None, **more):
    return WorkflowEvent(event_id, event_type, payload or {}, event_name=event_name, **more)


@pytest.fixture
def heard():
    return []


@pytest.fixture
def registry(post):
    return post.registry


@pytest.fixture
def publish(post):
    def publish(*events):
        post.registry.publish_many(events)
        post.settle()

    return publish


def hear(heard, name):
    return lambda event: heard.append(name)


def fail_with(heard, *errors):
    coming = list(errors)

    def handler(event):
        heard.append("attempt")
        error = coming.pop(0) if coming else None
        if error is not None:
            raise error

    return handler


def test_registrations_for_the_type_come_before_those_for_the_name(registry, publish, heard):
    registry.register("paid", handler=hear(heard, "name 1"))
    registry.register("billing.paid", handler=hear(heard, "type 1"))
    registry.register("paid", handler=hear(heard, "name 2"))
    registry.register("billing.paid", handler=hear(heard, "type 2"))
    publish(event())
    assert heard == ["type 1", "type 2", "name 1", "name 2"]


@pytest.mark.parametrize("key", ["billing", "billing.paid.late", "Paid", "pai", "billing.Paid"])
def test_keys_match_exactly(registry, publish, heard, key):
    registry.register(key, handler=hear(heard, "wrong"))
    publish(event())
    assert heard == []


def test_a_known_event_id_changes_nothing(post, registry, heard):
    registry.register("paid", handler=hear(heard, "x"))
    registry.publish(event())
    assert registry.publish(event(payload={"other": 1})) is False
    post.settle()
    assert (heard, post.published) == (["x"], ["1"])


def test_publish_sync_says_whether_a_handler_completed(registry, heard):
    registry.register("paid", handler=hear(heard, "x"), when=lambda event: event.event_id != "2")
    registry.register("broken", handler=lambda event: 1 / 0)
    assert registry.publish_sync(event("1")) is True
    assert registry.publish_sync(event("1")) is False
    assert registry.publish_sync(event("2")) is False
    assert registry.publish_sync(event("3", event_name="broken")) is False
    assert registry.publish_sync(event("4", event_name=None, event_type="a.b")) is False
    assert heard == ["x"]


def test_an_event_that_is_not_wanted_leaves_no_trace(registry, publish, heard):
    registry.register(
        "paid", handler=hear(heard, "x"), when=lambda event: False,
        validator=hear(heard, "validator"), dead_letter_handler=lambda *a: heard.append("dead"),
    )  # fmt: skip
    publish(event())
    assert heard == []


def test_a_handler_that_raises_stops_no_other(registry, publish, heard):
    registry.register("paid", handler=hear(heard, "first"))
    registry.register("paid", handler=lambda event: 1 / 0)
    registry.register("paid", handler=hear(heard, "third"))
    publish(event())
    assert heard == ["first", "third"]


def test_each_handler_has_a_payload_of_its_own(registry, publish, heard):
    def spoil(event):
        heard.append(event.payload["list"][:])
        event.payload["list"].append("spoilt")

    registry.register("paid", handler=spoil, registration_id="one")
    registry.register("paid", handler=spoil, registration_id="two")
    given = {"list": ["x"]}
    publish(event(payload=given))
    assert heard == [["x"], ["x"]]
    assert given == {"list": ["x"]}


def test_retries_are_more_tries_and_the_hook_hears_once_of_the_last_error(
    post, registry, publish, heard
):
    dead = []
    tries = post.passes * 3
    registry.register(
        "paid", handler=fail_with(heard, *[ValueError(n) for n in range(tries)]), retries=2,
        dead_letter_handler=lambda event, error: dead.append((event.event_id, repr(error))),
    )  # fmt: skip
    publish(event())
    assert len(heard) == tries
    assert dead == [("1", f"ValueError({tries - 1})")]


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (PermanentFailure("never"), {}),
        (ValueError("no"), {"retry_on": lambda error: not isinstance(error, ValueError)}),
    ],
)
def test_a_verdict_against_another_try_is_the_end(registry, publish, heard, error, options):
    dead = []
    registry.register(
        "paid", handler=fail_with(heard, *[error] * 9), retries=5,
        dead_letter_handler=lambda event, error: dead.append(error), **options,
    )  # fmt: skip
    publish(event())
    assert heard == ["attempt"]
    assert dead == [error]


def test_a_verdict_for_another_try_counts_as_one(registry, publish, heard):
    registry.register("paid", handler=fail_with(heard, RetryAfter(0.01)), retries=1)
    publish(event())
    assert heard == ["attempt", "attempt"]


def test_what_a_validator_refuses_is_a_dead_letter_at_once(registry, publish, heard):
    refusal = ValueError("no total")
    dead = []

    def validate(event):
        heard.append("validator")
        raise refusal

    registry.register(
        "paid", handler=hear(heard, "handler"), validator=validate, retries=5,
        dead_letter_handler=lambda event, error: dead.append(error),
    )  # fmt: skip
    publish(event())
    assert heard == ["validator"]
    assert dead == [refusal]


@pytest.mark.parametrize("option", ["when", "validator", "retry_on", "dead_letter_handler"])
def test_an_option_that_raises_touches_no_other_registration(registry, publish, heard, option):
    def broken(*arguments):
        raise RuntimeError("a bug")

    registry.register("paid", handler=fail_with([], ValueError("x")), **{option: broken})
    registry.register("paid", handler=hear(heard, "other"))
    publish(event())
    assert heard == ["other"]


def test_observers_hear_the_same_of_a_success_and_of_a_final_failure(registry, publish, post):
    told = []

    def receive(signal, sender, event, registration, **details):
        told.append((signal, sender, registration.id))

    signals = {event_delivered: "delivered", event_failed: "failed", event_dead: "dead"}
    registry.register("paid", handler=lambda event: None, registration_id="good")
    registry.register(
        "paid", handler=lambda event: 1 / 0, registration_id="bad", retry_on=lambda error: False
    )
    for signal in signals:
        signal.connect(receive)
    try:
        publish(event())
    finally:
        for signal in signals:
            signal.disconnect(receive)
    assert told == [
        (event_delivered, type(registry), "good"), (event_dead, type(registry), "bad"),
    ]  # fmt: skip


WRONG = [
    (lambda registry: registry.register(5, handler=print), TypeError, "event"),
    (lambda registry: registry.register("", handler=print), ValueError, "event"),
    (lambda registry: registry.register("a\x00", handler=print), ValueError, "event"),
    (lambda registry: registry.register("a", handler="print"), TypeError, "handler"),
    (lambda registry: registry.register("a", handler=print, when=5), TypeError, "when"),
    (lambda registry: registry.register("a", handler=print, validator=5), TypeError, "validator"),
    (lambda registry: registry.register("a", handler=print, retry_on=5), TypeError, "retry_on"),
    (
        lambda registry: registry.register("a", handler=print, dead_letter_handler=5),
        TypeError, "dead_letter_handler",
    ),
    (lambda registry: registry.register("a", handler=print, retries="1"), TypeError, "retries"),
    (lambda registry: registry.register("a", handler=print, retries=True), TypeError, "retries"),
    (lambda registry: registry.register("a", handler=print, retries=-1), ValueError, "retries"),
    (lambda registry: registry.register("a", handler=print, atomic=1), TypeError, "atomic"),
    (
        lambda registry: registry.register("a", handler=print, registration_id=5),
        TypeError, "registration_id",
    ),
    (
        lambda registry: registry.register("a", handler=print, registration_id="x" * 256),
        ValueError, "registration_id",
    ),
    (lambda registry: registry.unregister("a"), TypeError, "Registration"),
    (lambda registry: registry.publish(None), TypeError, "WorkflowEvent"),
    (lambda registry: registry.publish({"event_id": "1"}), TypeError, "WorkflowEvent"),
    (lambda registry: registry.publish_sync(5), TypeError, "WorkflowEvent"),
    (lambda registry: registry.publish_many([event("1"), 5]), TypeError, "WorkflowEvent"),
    (
        lambda registry: registry.publish(event(payload={"changes": {"a": {"new": b""}}})),
        EncodingError, "payload.changes.a.new",
    ),
    (
        lambda registry: registry.publish_sync(event(metadata={"a": ["\x00"]})),
        EncodingError, "metadata.a[0]",
    ),
    (
        lambda registry: registry.publish_many([event("1"), event("2", payload={"a": object()})]),
        EncodingError, "payload.a",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "fact"), WRONG)
def test_a_wrong_argument_is_named_and_nothing_is_registered_or_published(
    post, registry, call, error, fact
):
    with pytest.raises(error) as caught:
        call(registry)
    assert fact in str(caught.value)
    assert registry.registrations() == []
    assert post.published == []


def test_a_registration_is_found_by_its_id_until_it_is_taken_back(registry, publish, heard):
    one = registry.register("paid", handler=hear(heard, "x"), registration_id="mine")
    assert registry.find_registration("mine") is one
    assert registry.find_registration("other") is None
    assert registry.unregister(one) is True
    assert registry.unregister(one) is False
    publish(event())
    assert heard == []


def test_events_are_delivered_by_the_registry_that_published_them(post, heard):
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}):
        mine = type(post.registry)()
        mine.register("paid", handler=hear(heard, "mine"))
        post.registry.register("paid", handler=hear(heard, "in force"))
        mine.publish_sync(event())
    assert heard == ["mine"]
    assert plays.stage.calls == []
