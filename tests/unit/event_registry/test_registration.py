"""What makes two registrations one, what names them, and what is refused."""

from functools import partial

import pytest

from general_manager.workflow.event_registry import InMemoryEventRegistry
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.exceptions import PermanentFailure, RetryAfter


def handler(event):
    """Does nothing."""


def other_handler(event):
    """Does nothing else."""


def is_project(event):
    return True


class Desk:
    def handle_event(self, event):
        """Bound to an instance."""


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, event):
        """Equal to nothing but itself."""


@pytest.fixture
def registry():
    return InMemoryEventRegistry()


def test_identical_registrations_are_one(registry):
    desk, odd = Desk(), Unhashable()
    for one in (handler, desk.handle_event, odd):
        first = registry.register("x", handler=one, when=is_project, retries=2)
        assert registry.register("x", handler=one, when=is_project, retries=2) is first
    assert len(registry.registrations()) == 3


@pytest.mark.parametrize(
    "difference",
    [
        {"when": is_project},
        {"validator": is_project},
        {"retries": 1},
        {"retry_on": is_project},
        {"dead_letter_handler": print},
        {"registration_id": "mine"},
        {"atomic": False},
    ],
)
def test_any_difference_makes_another_registration(registry, difference):
    registry.register("x", handler=handler)
    registry.register("x", handler=handler, **difference)
    assert len(registry.registrations()) == 2


def test_two_lambdas_from_one_line_are_two(registry):
    for _ in range(2):
        registry.register("x", handler=handler, when=lambda event: True)
    assert len(registry.registrations()) == 2


def test_methods_of_two_objects_are_two(registry):
    for _ in range(2):
        registry.register("x", handler=Desk().handle_event)
    assert len(registry.registrations()) == 2


def test_ids_are_the_same_in_every_process_and_do_not_depend_on_retries(registry):
    def register_all(into, retries):
        for key in ("x", "a.b"):
            into.register(key, handler=handler, retries=retries)
            into.register(key, handler=handler, when=lambda event: True)
            into.register(key, handler=handler, when=lambda event: False)
        return [one.id for one in into.registrations()]

    ids = register_all(registry, 0)
    assert len(set(ids)) == 6
    assert register_all(InMemoryEventRegistry(), 5) == ids
    assert all(len(one) <= 255 for one in ids)


def test_an_explicit_id_is_kept_and_cannot_be_given_twice(registry):
    first = registry.register("x", handler=handler, registration_id="mails")
    assert first.id == "mails"
    assert registry.find_registration("mails") is first
    with pytest.raises(ValueError, match=r"'mails' belongs to .*handler for 'x'"):
        registry.register("x", handler=other_handler, registration_id="mails")
    assert registry.registrations() == [first]


def test_an_id_fits_its_column_however_long_the_key(registry):
    registration = registry.register("x" * 255, handler=handler)
    assert len(registration.id) <= 255


def test_a_registration_can_be_taken_back(registry):
    first = registry.register("x", handler=handler)
    assert registry.unregister(first)
    assert not registry.unregister(first)
    assert registry.registrations() == []
    assert registry.find_registration(first.id) is None
    assert not registry.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event": 3}, "event must be text"),
        ({"event": ""}, "event must not be empty"),
        ({"event": "x" * 256}, "event has 256 characters"),
        ({"handler": None}, "handler must be callable"),
        ({"handler": "app.handlers.start"}, "handler must be callable"),
        ({"when": True}, "when must be callable"),
        ({"validator": {}}, "validator must be callable"),
        ({"retry_on": ValueError()}, "retry_on must be callable"),
        ({"dead_letter_handler": []}, "dead_letter_handler must be callable"),
        ({"retries": "2"}, "retries must be a whole number"),
        ({"retries": True}, "retries must be a whole number"),
        ({"retries": -1}, "retries must be zero or more"),
        ({"registration_id": ""}, "registration_id must not be empty"),
        ({"registration_id": 5}, "registration_id must be text"),
        ({"atomic": 1}, "atomic must be True or False"),
    ],
)
def test_a_wrong_argument_is_refused_with_nothing_registered(registry, arguments, message):
    arguments = {"event": "x", "handler": handler, **arguments}
    with pytest.raises((TypeError, ValueError), match=message):
        registry.register(arguments.pop("event"), **arguments)
    assert registry.registrations() == []


def test_a_partial_is_accepted_and_described(registry):
    registration = registry.register("x", handler=partial(print, "got"))
    assert "partial" in str(registration)


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (ValueError(), True),
        (KeyError(), False),
        (PermanentFailure("no"), False),
        (RetryAfter(1), True),
    ],
)
def test_the_verdict_of_the_handler_comes_before_retry_on(registry, error, answer):
    registration = registry.register(
        "x", handler=handler, retry_on=lambda error: isinstance(error, ValueError)
    )
    assert registration.may_retry(error) is answer


def test_an_explicit_id_has_no_part_in_the_order_of_others(registry):
    plain = InMemoryEventRegistry().register("x", handler=handler)
    registry.register("x", handler=handler, registration_id="mine", retries=1)
    assert registry.register("x", handler=handler).id == plain.id


def test_registering_again_gives_the_same_id(registry):
    first = registry.register("x", handler=handler)
    registry.unregister(first)
    assert registry.register("x", handler=handler).id == first.id


def test_only_a_registration_can_be_taken_back(registry):
    with pytest.raises(TypeError, match="takes a Registration"):
        registry.unregister(5)
