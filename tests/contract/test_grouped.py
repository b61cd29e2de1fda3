"""Handlers that are registered with `grouped=True`, on every registry: nobody sees a difference."""

import pytest

from general_manager.workflow import PermanentFailure, WorkflowEvent
from general_manager.workflow.signals import event_dead, event_delivered, event_failed
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture
def publish(post):
    def publish(count):
        post.registry.publish_many(
            WorkflowEvent(str(n), "a.b", {}, event_name="x") for n in range(count)
        )
        post.settle()

    return publish


def tags():
    return sorted(map(int, Tag.objects.values_list("name", flat=True)))


def write(event):
    Tag.objects.create(name=event.event_id)


def test_each_event_is_delivered_once(post, publish):
    calls, delivered = [], []

    def handle(event):
        calls.append(int(event.event_id))
        write(event)

    def hear(event, **_):
        delivered.append(int(event.event_id))

    post.registry.register("x", handler=handle, grouped=True, registration_id="r")
    event_delivered.connect(hear)
    try:
        publish(45)
    finally:
        event_delivered.disconnect(hear)
    assert sorted(calls) == sorted(delivered) == tags() == list(range(45))


def test_handlers_that_fail_among_good_ones_fail_alone(post, publish):
    """They alone are retried, and their hooks are called once each."""
    calls, hooks, heard = [], [], []

    def handle(event):
        calls.append(int(event.event_id))
        if event.event_id in ("3", "7"):
            raise PermanentFailure("never") if event.event_id == "7" else ValueError("once more")
        write(event)

    def hear(event, signal, **_):
        heard.append((event.event_id, signal is event_dead))

    post.registry.register(
        "x", handler=handle, grouped=True, registration_id="r", retries=1,
        dead_letter_handler=lambda event, error: hooks.append((event.event_id, str(error))),
    )  # fmt: skip
    for signal in (event_failed, event_dead):
        signal.connect(hear)
    try:
        publish(12)
    finally:
        for signal in (event_failed, event_dead):
            signal.disconnect(hear)
    assert tags() == [n for n in range(12) if n not in (3, 7)]
    assert {n: calls.count(n) for n in calls} == {
        **dict.fromkeys(range(12), 1), 3: 2 * post.passes, 7: 1,
    }  # fmt: skip
    assert sorted(hooks) == [("3", "once more"), ("7", "never")]
    assert heard.count(("3", False)) == 2 * post.passes - 1
    assert sorted(one for one in heard if one[1]) == [("3", True), ("7", True)]


def test_what_does_not_match_is_left_out(post, publish):
    post.registry.register(
        "x", handler=write, grouped=True, when=lambda event: int(event.event_id) % 2,
        registration_id="r",
    )  # fmt: skip
    publish(6)
    assert tags() == [1, 3, 5]


def test_two_grouped_handlers_of_one_event_are_two_deliveries(post, publish):
    def fail(event):
        raise PermanentFailure

    post.registry.register("x", handler=fail, grouped=True, registration_id="one")
    post.registry.register("x", handler=write, grouped=True, registration_id="two")
    publish(4)
    assert tags() == [0, 1, 2, 3]


def test_a_group_needs_handlers_whose_writes_can_be_rolled_back(post):
    with pytest.raises(ValueError, match="grouped=True needs atomic=True"):
        post.registry.register("x", handler=write, grouped=True, atomic=False)
    with pytest.raises(ValueError, match="grouped=True excludes in_order=True"):
        post.registry.register("x", handler=write, grouped=True, in_order=True)
    with pytest.raises(TypeError, match="grouped must be True or False"):
        post.registry.register("x", handler=write, grouped=1)
    assert post.registry.registrations() == []


def test_the_option_makes_another_registration_and_keeps_the_id(post):
    alone = post.registry.register("x", handler=write, registration_id=None)
    assert post.registry.register("x", handler=write) is alone
    assert not alone.grouped
    post.registry.unregister(alone)
    grouped = post.registry.register("x", handler=write, grouped=True)
    assert grouped.grouped
    assert grouped.id == alone.id
