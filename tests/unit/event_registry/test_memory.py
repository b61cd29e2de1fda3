"""Events delivered at once, in this process."""

import threading

import pytest

from general_manager.workflow.durable import current_execution_id
from general_manager.workflow.engine import WorkflowDefinition
from general_manager.workflow.event_registry import InMemoryEventRegistry, publish_sync
from general_manager.workflow.event_registry import memory as memory_module
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.exceptions import EncodingError, PermanentFailure, RetryAfter
from general_manager.workflow.signals import event_dead, event_delivered, event_published


def make_event(event_id="1", **changes):
    arguments = {"event_type": "shop.order.paid", "event_name": "order_paid", "payload": {}}
    return WorkflowEvent(event_id, **{**arguments, **changes})


class Failing:
    """Raises the given errors one after the other, then succeeds."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, event):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def registry():
    return InMemoryEventRegistry()


@pytest.fixture
def dead():
    return []


def test_an_event_reaches_handlers_of_its_type_and_then_of_its_name(registry):
    seen = []
    registry.register("order_paid", handler=lambda event: seen.append("name 1"))
    registry.register("shop.order.paid", handler=lambda event: seen.append("type 1"))
    registry.register("order_paid", handler=lambda event: seen.append("name 2"))
    registry.register("shop.order.paid", handler=lambda event: seen.append("type 2"))
    assert registry.publish(make_event())
    assert seen == ["type 1", "type 2", "name 1", "name 2"]


@pytest.mark.parametrize("key", ["shop.order", "shop.order.paid.late", "order", "Order_paid"])
def test_keys_match_exactly(registry, key):
    registry.register(key, handler=lambda event: pytest.fail("not wanted"))
    assert not registry.publish(make_event())


def test_a_key_with_a_dot_is_never_a_name_and_one_without_never_a_type(registry):
    registry.register("odd.name", handler=lambda event: pytest.fail("a name has no dot"))
    registry.register("oddtype", handler=lambda event: pytest.fail("a type has a dot"))
    assert not registry.publish(make_event(event_type="oddtype", event_name="odd.name"))


def test_an_event_that_is_not_wanted_leaves_no_trace(registry, dead):
    registry.register(
        "order_paid",
        handler=lambda event: pytest.fail("not wanted"),
        when=lambda event: False,
        validator=lambda event: pytest.fail("not even looked at"),
        dead_letter_handler=lambda event, error: dead.append(error),
    )
    assert not registry.publish(make_event())
    assert dead == []


def test_publishing_an_event_twice_does_nothing_the_second_time(registry):
    handler = Failing()
    registry.register("order_paid", handler=handler)
    assert registry.publish(make_event())
    assert not registry.publish(make_event())
    assert handler.calls == 1


def test_only_the_latest_ids_are_remembered():
    registry = InMemoryEventRegistry(max_seen_event_ids=2)
    handler = Failing()
    registry.register("order_paid", handler=handler)
    for event_id in ("1", "2", "3", "3", "2", "1"):
        registry.publish(make_event(event_id))
    assert handler.calls == 4


def test_a_failing_handler_stops_neither_the_others_nor_the_publisher(registry, caplog):
    good = Failing()
    registry.register("order_paid", handler=Failing(ValueError("boom")))
    registry.register("order_paid", handler=good)
    assert registry.publish(make_event())
    assert good.calls == 1
    assert "boom" in caplog.text


def test_a_failing_handler_is_tried_again_as_often_as_allowed(registry, dead):
    handler = Failing(ValueError("1"), ValueError("2"))
    registry.register(
        "order_paid",
        handler=handler,
        retries=2,
        dead_letter_handler=lambda event, error: dead.append(error),
    )
    assert registry.publish(make_event())
    assert handler.calls == 3
    assert dead == []


def test_the_hook_gets_the_event_and_the_last_error_once(registry, dead):
    handler = Failing(*(ValueError(str(number)) for number in range(9)))
    registry.register(
        "order_paid",
        handler=handler,
        retries=2,
        dead_letter_handler=lambda event, error: dead.append((event.event_id, str(error))),
    )
    assert not registry.publish(make_event())
    assert handler.calls == 3
    assert dead == [("1", "2")]


def test_retry_on_ends_the_retries_early(registry, dead):
    handler = Failing(ValueError(), KeyError(), ValueError())
    registry.register(
        "order_paid",
        handler=handler,
        retries=9,
        retry_on=lambda error: isinstance(error, ValueError),
        dead_letter_handler=lambda event, error: dead.append(type(error)),
    )
    registry.publish(make_event())
    assert handler.calls == 2
    assert dead == [KeyError]


def test_a_permanent_failure_is_not_retried(registry, dead):
    handler = Failing(PermanentFailure("never"))
    registry.register(
        "order_paid",
        handler=handler,
        retries=9,
        dead_letter_handler=lambda event, error: dead.append(str(error)),
    )
    registry.publish(make_event())
    assert (handler.calls, dead) == (1, ["never"])


def test_retry_after_waits_before_the_next_try_and_not_for_long(registry, monkeypatch):
    rests: list[float] = []
    monkeypatch.setattr(memory_module, "sleep", rests.append)
    handler = Failing(RetryAfter(0.25), RetryAfter(3600))
    registry.register("order_paid", handler=handler, retries=2, retry_on=lambda error: False)
    assert registry.publish(make_event())
    assert handler.calls == 3
    assert rests == [0.25, memory_module.LONGEST_PAUSE_SECONDS]


def test_what_the_validator_refuses_is_dead_at_once(registry, dead):
    handler = Failing()

    def validate(event):
        raise ValueError("no amount")

    registry.register(
        "order_paid",
        handler=handler,
        retries=9,
        validator=validate,
        dead_letter_handler=lambda event, error: dead.append(error),
    )
    assert not registry.publish(make_event())
    assert handler.calls == 0
    (error,) = dead
    assert type(error) is ValueError
    assert str(error) == "no amount"


def raising(*arguments):
    raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"when": raising}, "a bug"),
        ({"validator": raising}, "a bug"),
        ({"handler": Failing(*[ValueError("x")] * 9), "retry_on": raising, "retries": 1}, "x"),
    ],
)
def test_whatever_raises_touches_nobody_else_and_is_not_lost(registry, dead, options, reason):
    good = Failing()
    options = {"handler": Failing(), **options}
    registry.register(
        "order_paid", dead_letter_handler=lambda event, error: dead.append(str(error)), **options
    )
    registry.register("order_paid", handler=good)
    assert registry.publish(make_event())
    assert good.calls == 1
    assert dead == [reason]


def test_a_raising_hook_is_logged_and_harms_nobody(registry, caplog):
    good = Failing()
    registry.register(
        "order_paid", handler=Failing(ValueError("first")), dead_letter_handler=raising
    )
    registry.register("order_paid", handler=good)
    assert registry.publish(make_event())
    assert "a bug" in caplog.text
    assert "first" in caplog.text


def test_a_registrations_own_hook_wins_over_the_registrys():
    told = []
    registry = InMemoryEventRegistry(dead_letter_handler=lambda *_: told.append("registry"))
    registry.register("order_paid", handler=Failing(ValueError()))
    registry.register(
        "order_paid",
        handler=Failing(ValueError()),
        dead_letter_handler=lambda *_: told.append("own"),
    )
    registry.publish(make_event())
    assert told == ["registry", "own"]


def test_what_one_handler_does_to_the_payload_no_other_sees(registry):
    seen = []

    def spoil(event):
        event.payload["lines"].append("spoiled")
        event.metadata["spoiled"] = True

    registry.register("order_paid", handler=spoil)
    registry.register("order_paid", handler=seen.append)
    event = make_event(payload={"lines": []})
    registry.publish(event)
    assert event.payload == {"lines": []}
    assert seen[0] == event


def test_a_payload_that_is_not_json_is_refused_with_its_path_and_may_come_again(registry):
    handler = Failing()
    registry.register("order_paid", handler=handler)
    with pytest.raises(EncodingError, match=r"payload\.changes\.owner\.new"):
        registry.publish(make_event(payload={"changes": {"owner": {"new": object()}}}))
    with pytest.raises(EncodingError, match=r"metadata\.x"):
        registry.publish(make_event(metadata={"x": b""}))
    assert registry.publish(make_event())
    assert handler.calls == 1


def test_only_an_event_can_be_published(registry):
    with pytest.raises(TypeError, match="Only a WorkflowEvent"):
        registry.publish({"event_id": "1"})


def test_many_events_are_published_in_order_or_not_at_all(registry):
    seen = []
    registry.register("order_paid", handler=lambda event: seen.append(event.event_id))
    assert registry.publish_many(make_event(str(number)) for number in (1, 2, 2, 3)) == 3
    assert seen == ["1", "2", "3"]
    with pytest.raises(EncodingError):
        registry.publish_many([make_event("4"), make_event("5", payload={"x": b""})])
    assert seen == ["1", "2", "3"]


def test_publish_sync_uses_the_current_registry(event_registry):
    handler = Failing()
    event_registry.register("order_paid", handler=handler)
    assert publish_sync(make_event())
    assert handler.calls == 1


def test_a_handler_may_publish_and_register(registry):
    seen = []

    def publish_more(event):
        registry.register("later", handler=lambda event: seen.append(event.event_id))
        registry.publish(make_event("2", event_name="later"))

    registry.register("order_paid", handler=publish_more)
    assert registry.publish(make_event())
    assert seen == ["2"]


def test_one_of_many_threads_with_one_event_delivers_it(registry):
    handler = Failing()
    registry.register("order_paid", handler=handler)
    together = threading.Barrier(8)
    results = []

    def publish():
        together.wait()
        results.append(registry.publish(make_event()))

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(True) == 1
    assert handler.calls == 1


def test_a_handler_called_from_a_workflow_is_not_inside_it(registry, engine):
    ids = []
    registry.register("order_paid", handler=lambda event: ids.append(current_execution_id()))

    def workflow(input_data):
        registry.publish(make_event())
        ids.append(current_execution_id())

    execution = engine.start(WorkflowDefinition("w", handler=workflow))
    assert ids == [None, execution.execution_id]


@pytest.mark.parametrize(
    "options",
    [
        {"dead_letter_handler": "print"},
        {"max_seen_event_ids": 0},
        {"max_seen_event_ids": "9"},
        {"max_seen_event_ids": True},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        InMemoryEventRegistry(**options)


def test_observers_are_notified_and_a_raising_one_harms_nothing(registry):
    told = []

    def observe(sender, signal, **arguments):
        told.append((signal, sorted(arguments)))
        raise RuntimeError("an observer's bug")

    registry.register("order_paid", handler=Failing())
    registry.register("order_paid", handler=Failing(ValueError()))
    signals = (event_published, event_delivered, event_dead)
    for signal in signals:
        signal.connect(observe)
    try:
        assert registry.publish(make_event())
    finally:
        for signal in signals:
            signal.disconnect(observe)
    assert told == [
        (event_published, ["event"]),
        (event_delivered, ["event", "published_at", "registration"]),
        (event_dead, ["event", "exception", "registration"]),
    ]


def test_whether_an_event_is_wanted_is_asked_once(registry, dead):
    wanted = [True]

    def handler(event):
        wanted[0] = False
        raise ValueError("boom")

    registry.register(
        "order_paid",
        handler=handler,
        when=lambda event: wanted[0],
        retries=2,
        dead_letter_handler=lambda event, error: dead.append(str(error)),
    )
    registry.publish(make_event())
    assert dead == ["boom"]


def test_each_attempt_and_the_hook_see_the_event_as_it_was_published(registry):
    seen = []

    def handler(event):
        seen.append(event.payload.pop("amount"))
        raise ValueError("boom")

    registry.register(
        "order_paid",
        handler=handler,
        retries=1,
        dead_letter_handler=lambda event, error: seen.append((event.payload, str(error))),
    )
    registry.publish(make_event(payload={"amount": 5}))
    assert seen == [5, 5, ({"amount": 5}, "boom")]
