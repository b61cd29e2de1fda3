"""Events of one key, one after the other, on every registry."""

from threading import Event, Thread
from typing import Any

import pytest
from django.db import connections, transaction
from django.test import override_settings

from general_manager.workflow import (
    WorkflowEvent,
    manager_created_event,
    manager_deleted_event,
    manager_updated_event,
)

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def event(event_id, key="a", **more):
    return WorkflowEvent(event_id, "shop.changed", {}, "changed", ordering_key=key, **more)


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


def hear(heard, *failing):
    """A handler that notes each call, and fails the first time for each of *failing*."""
    coming = set(failing)

    def handler(event):
        heard.append(event.event_id)
        if event.event_id in coming:
            coming.discard(event.event_id)
            raise ValueError(event.event_id)

    return handler


def of_key(heard, key):
    return [one for one in heard if one.startswith(key)]


def test_q1_events_of_one_key_come_in_the_order_in_which_they_were_published(
    registry, publish, heard
):
    registry.register("changed", handler=hear(heard), in_order=True)
    publish(*(event(f"{key}{n}", key) for n in range(5) for key in "abc"))
    for key in "abc":
        assert of_key(heard, key) == [f"{key}{n}" for n in range(5)]


def test_q1_a_failing_event_is_retried_before_the_later_ones_of_its_key(registry, publish, heard):
    registry.register("changed", handler=hear(heard, "a0"), in_order=True, retries=1)
    publish(event("a0"), event("a1"), event("b0", "b"))
    assert of_key(heard, "a") == ["a0", "a0", "a1"]
    assert of_key(heard, "b") == ["b0"]


def test_q1_with_skip_a_dead_letter_lets_its_key_go_on(registry, publish, heard, post):
    def fail(event):
        heard.append(event.event_id)
        if event.event_id == "a0":
            raise ValueError

    buried = []
    registry.register(
        "changed",
        handler=fail,
        in_order=True,
        on_dead="skip",
        dead_letter_handler=lambda event, error: buried.append(event.event_id),
    )
    publish(event("a0"), event("a1"))
    assert heard == ["a0"] * post.passes + ["a1"]
    assert buried == ["a0"]


def test_an_event_without_a_key_is_delivered_as_ever(registry, publish, heard):
    registry.register("changed", handler=hear(heard), in_order=True)
    publish(event("1", None))
    assert heard == ["1"]


def test_an_event_that_is_not_wanted_holds_nothing_up(registry, publish, heard):
    registry.register(
        "changed", handler=hear(heard), in_order=True, when=lambda event: event.event_id != "a0"
    )
    publish(event("a0"), event("a1"))
    assert heard == ["a1"]


def test_two_ordered_handlers_do_not_wait_for_each_other(registry, publish, heard, post):
    def never(event):
        raise ValueError

    registry.register("changed", handler=never, in_order=True, on_dead="block")
    registry.register("shop.changed", handler=hear(heard), in_order=True)
    publish(event("a0"), event("a1"))
    assert heard == ["a0", "a1"]


def test_an_unordered_handler_gets_the_event_too(registry, publish, heard):
    registry.register("changed", handler=hear(heard), in_order=True)
    registry.register("changed", handler=lambda event: heard.append(f"too {event.event_id}"))
    publish(event("a0"))
    assert sorted(heard) == ["a0", "too a0"]


def test_a_managers_identification_is_the_key_of_its_events(registry, publish, heard):
    registry.register("changed", handler=hear(heard), in_order=True)
    about: Any = {"manager": "Order", "identification": {"id": 7}, "event_name": "changed"}
    publish(
        manager_created_event(values={}, event_id="a0", **about),
        manager_updated_event(changes={"x": 1}, event_id="a1", **about),
        manager_deleted_event(event_id="a2", **about),
    )
    assert heard == ["a0", "a1", "a2"]


def test_what_a_handler_publishes_for_its_own_key_comes_after_it(registry, publish, heard, post):
    def handler(event_):
        if event_.event_id == "a0":
            registry.publish(event("a1"))
        heard.append(event_.event_id)

    registry.register("changed", handler=handler, in_order=True)
    publish(event("a0"))
    post.settle()
    assert heard == ["a0", "a1"]


@pytest.mark.parametrize("way", ["one transaction", "savepoints", "many", "many at once"])
@pytest.mark.parametrize("in_order", [True, False])
def test_q1_what_a_handler_publishes_comes_after_all_that_was_published_with_its_event(
    registry, heard, post, way, in_order
):
    """By the ordered handler, or by another one that runs before it."""

    def handler(event_):
        if event_.event_id == "a1":
            registry.publish(event("inner"))
        if in_order:
            heard.append(event_.event_id)

    registry.register("changed", handler=handler, in_order=in_order)
    if not in_order:
        registry.register("changed", handler=hear(heard), in_order=True)
    if way == "many at once":
        registry.publish_many([event("a1"), event("a2"), event("a3")])
    else:
        with transaction.atomic():
            if way == "many":
                registry.publish_many([event("a1"), event("a2"), event("a3")])
            else:
                _publish_each(registry, way)
    post.settle()
    assert heard == ["a1", "a2", "a3", "inner"]


def _publish_each(registry, way):
    for event_id in ("a1", "gone", "a2", "a3", "gone too"):
        is_gone = event_id.startswith("gone")
        if way == "savepoints" or is_gone:
            try:
                with transaction.atomic():
                    registry.publish(event(event_id))
                    if is_gone:
                        raise LookupError
            except LookupError:
                continue
        else:
            registry.publish(event(event_id))


def test_publish_says_whether_a_handler_in_order_completed(registry, post, heard):
    registry.register("changed", handler=hear(heard), in_order=True)
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    ):
        assert registry.publish(event("a0"))
        assert registry.publish_sync(event("a1"))
        assert not registry.publish(event("a1"))
    assert registry.publish_sync(event("a2"))
    assert heard == ["a0", "a1", "a2"]


def test_q1_publish_sync_inside_a_transaction_leaves_deliveries_in_order_to_its_commit(
    registry, post, heard
):
    registry.register("changed", handler=hear(heard), in_order=True)
    registry.register("changed", handler=lambda event: heard.append("at once"))
    with transaction.atomic():
        assert registry.publish_sync(event("a0"))
        assert heard == ["at once"]
    post.settle()
    assert heard == ["at once", "a0"]


def test_q1_no_two_events_of_a_key_are_with_a_handler_at_once(registry, post, heard):
    """One thread is inside the handler while another publishes and delivers."""
    inside, go_on = Event(), Event()

    def handler(event):
        heard.append(f"begin {event.event_id}")
        if event.event_id == "a0":
            inside.set()
            assert go_on.wait(30)
        heard.append(f"end {event.event_id}")

    registry.register("changed", handler=handler, in_order=True)

    def first():
        try:
            registry.publish_sync(event("a0"))
        finally:
            connections.close_all()

    thread = Thread(target=first)
    thread.start()
    try:
        assert inside.wait(30)
        if connections["default"].vendor != "sqlite" or post.passes == 1:  # else it is locked
            assert not registry.publish_sync(event("a1"))
            assert registry.publish_sync(event("b0", "b"))
    finally:
        go_on.set()
        thread.join(30)
    registry.publish_sync(event("a1"))
    post.settle()
    assert [one for one in heard if "a" in one.split()[1]] == [
        "begin a0", "end a0", "begin a1", "end a1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"in_order": "yes"}, "in_order must be True or False, not 'yes'"),
        ({"in_order": True, "on_dead": "stop"}, "on_dead must be 'block' or 'skip', not 'stop'"),
        ({"on_dead": "skip"}, "on_dead needs in_order=True"),
    ],
)
def test_wrong_options_are_refused(registry, options, error):
    with pytest.raises((TypeError, ValueError), match=error):
        registry.register("changed", handler=print, **options)
    assert registry.registrations() == []


def test_an_ordering_key_is_checked_like_other_ids():
    with pytest.raises(ValueError, match="ordering_key must not be empty"):
        event("1", " ")
    with pytest.raises(TypeError, match="ordering_key must be text, not 7"):
        event("1", 7)
