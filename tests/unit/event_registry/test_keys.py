"""What can never match is said, once, with what to write instead."""

import logging

import pytest

from general_manager.workflow import InMemoryEventRegistry, WorkflowEvent
from general_manager.workflow.event_registry import keys


@pytest.fixture(autouse=True)
def logged(monkeypatch, caplog):
    monkeypatch.setattr(keys, "_logged", set())
    caplog.set_level(logging.WARNING, keys.__name__)
    return caplog


def publish(event_type, event_name=None, event_id="1"):
    return InMemoryEventRegistry().publish(
        WorkflowEvent(event_id, event_type, {}, event_name=event_name)
    )


def test_a_type_without_a_dot_is_published_and_named_with_what_to_write(logged):
    assert publish("submitted") is False
    (message,) = logged.messages
    assert "'submitted' has no dot" in message
    assert "such as 'shop.submitted'" in message
    assert "event_name='submitted'" in message


def test_a_name_with_a_dot_is_named_with_what_to_write(logged):
    publish("shop.order", "order.paid")
    (message,) = logged.messages
    assert "'order.paid' has a dot" in message
    assert "such as 'order_paid'" in message


def test_an_event_as_it_should_be_leaves_the_log_alone(logged):
    publish("shop.order.paid", "order_paid")
    publish("shop.order.paid")
    assert logged.messages == []


def test_each_type_is_named_once_and_not_without_end(logged, monkeypatch):
    monkeypatch.setattr(keys, "MOST_REMEMBERED", 3)
    for kind in ("one", "one", "two", "three", "four", "five"):
        publish(kind)
    assert len(logged.messages) == 3


def test_many_events_published_at_once_are_looked_at_too(logged):
    events = [WorkflowEvent(str(number), "submitted", {}) for number in range(3)]
    InMemoryEventRegistry().publish_many(events)
    assert len(logged.messages) == 1


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("general_manager.manager.update", "did you mean 'general_manager.manager.updated'"),
        ("general_manager.project.activated", "no such event is ever published"),
        (" manager_updated", "Write 'manager_updated'"),
        ("manager_updated ", "keys match exactly"),
    ],
)
def test_a_key_that_nothing_can_publish_is_named(logged, key, said):
    InMemoryEventRegistry().register(key, handler=print)
    (message,) = logged.messages
    assert said in message


@pytest.mark.parametrize("key", ["general_manager.manager.updated", "manager_updated", "shop.paid"])
def test_a_key_that_can_be_published_leaves_the_log_alone(logged, key):
    InMemoryEventRegistry().register(key, handler=print)
    assert logged.messages == []
