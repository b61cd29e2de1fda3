"""Pauses of registrations, on every registry: events are kept for them, others get theirs."""

import pytest

from general_manager.workflow import (
    PauseKind,
    WorkflowEvent,
    acting_as,
    get_workflow_engine,
)
from general_manager.workflow.event_registry import Registration

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def event(event_id):
    return WorkflowEvent(event_id, "billing.paid", {}, event_name="paid", ordering_key="order 7")


@pytest.fixture
def heard():
    return []


@pytest.fixture
def listen(post, heard):
    def listen(name, *errors, **options):
        coming = list(errors)

        def handler(event):
            if coming and (error := coming.pop(0)) is not None:
                heard.append(f"{name} failed")
                raise error
            heard.append(f"{name} {event.event_id}")

        return post.registry.register("paid", handler=handler, registration_id=name, **options)

    return listen


@pytest.fixture
def publish(post):
    def publish(*keys):
        post.registry.publish_many(map(event, keys))
        post.settle()

    return publish


@pytest.fixture
def engine(post):
    return get_workflow_engine()


def test_a_paused_registration_gets_its_events_in_order_when_it_is_unpaused(
    engine, post, listen, publish, heard
):
    listen("a")
    engine.pause(registration="a", reason="its service is down")
    publish("1", "2", "3")
    assert heard == []
    assert engine.unpause(registration="a") is True
    post.settle()
    # Several threads deliver at once: only `in_order=True` promises an order among workers.
    assert (sorted(heard) if hasattr(post, "transport") else heard) == ["a 1", "a 2", "a 3"]
    assert engine.unpause(registration="a") is False


def test_the_other_registrations_of_an_event_get_it_at_once(engine, post, listen, publish, heard):
    a = listen("a")
    listen("b")
    engine.pause(registration=a)
    publish("1")
    assert heard == ["b 1"]
    engine.unpause(registration=a)
    post.settle()
    assert heard == ["b 1", "a 1"]


def test_one_of_two_paused_registrations_goes_on_alone(engine, post, listen, publish, heard):
    listen("a"), listen("b")
    engine.pause(registration="a")
    engine.pause(registration="b")
    publish("1")
    engine.unpause(registration="b")
    post.settle()
    assert heard == ["b 1"]
    engine.unpause(registration="a")
    post.settle()
    assert heard == ["b 1", "a 1"]


def test_a_failing_one_beside_it_is_retried_until_it_succeeds(engine, post, listen, publish, heard):
    listen("a")
    listen("b", ValueError("once"), retries=1)
    engine.pause(registration="a")
    publish("1")
    assert heard == ["b failed", "b 1"]
    engine.unpause(registration="a")
    post.settle()
    assert heard == ["b failed", "b 1", "a 1"]


def test_a_dead_letter_beside_it_stays_one(engine, post, listen, publish, heard):
    dead = []
    listen("a")
    listen("b", *[ValueError(n) for n in range(9)],
           dead_letter_handler=lambda event, error: dead.append(event.event_id))  # fmt: skip
    engine.pause(registration="a")
    publish("1")
    assert dead == ["1"]
    engine.unpause(registration="a")
    post.settle()
    assert dead == ["1"]
    assert heard[-1] == "a 1"


def test_an_event_published_for_now_is_kept_for_it_too(engine, post, listen, heard):
    listen("a")
    engine.pause(registration="a")
    assert post.registry.publish_sync(event("1")) is False
    engine.unpause(registration="a")
    post.settle()
    assert heard == ["a 1"]


def test_what_does_not_match_leaves_no_trace_when_it_is_unpaused(engine, post, listen, heard):
    listen("a", when=lambda event: False)
    engine.pause(registration="a")
    post.registry.publish(event("1"))
    post.settle()
    engine.unpause(registration="a")
    post.settle()
    assert heard == []


def test_a_pause_shows_how_many_events_it_holds(engine, post, listen, publish):
    listen("a")
    with acting_as("ada"):
        engine.pause(registration="a", reason="down")
    publish("1", "2")
    [pause] = engine.pauses()
    assert (pause.kind, pause.name, pause.by, pause.reason) == (
        PauseKind.REGISTRATION, "a", "ada", "down",
    )  # fmt: skip
    assert (pause.parked, pause.running) == (2, 0)
    engine.unpause(registration="a")
    post.settle()
    assert engine.pauses() == []


def test_it_can_be_paused_again_before_it_has_got_everything(engine, post, listen, publish, heard):
    a = listen("a")
    engine.pause(registration=a)
    publish("1")
    engine.unpause(registration=a)
    engine.pause(registration=a)
    publish("2")
    before = list(heard)
    engine.unpause(registration=a)
    post.settle()
    assert sorted(heard) == ["a 1", "a 2"]
    assert before in ([], ["a 1"])


def test_a_duplicate_of_a_parked_event_changes_nothing(engine, post, listen, publish, heard):
    listen("a")
    engine.pause(registration="a")
    publish("1")
    publish("1")
    engine.unpause(registration="a")
    post.settle()
    assert heard == ["a 1"]


def test_its_id_names_it_too(post, listen):
    registration = listen("a")
    assert isinstance(registration, Registration)
    assert post.registry.pause("a").name == registration.id


def test_what_is_delivered_in_order_waits_and_comes_in_order(engine, post, listen, publish, heard):
    listen("a", in_order=True)
    listen("b")
    engine.pause(registration="a")
    publish("1", "2")
    publish("3")
    assert sorted(heard) == ["b 1", "b 2", "b 3"]
    [pause] = engine.pauses()
    assert pause.parked == 3
    heard.clear()
    engine.unpause(registration="a")
    publish("4")
    assert [one for one in heard if one.startswith("a")] == ["a 1", "a 2", "a 3", "a 4"]
    assert engine.pauses() == []
