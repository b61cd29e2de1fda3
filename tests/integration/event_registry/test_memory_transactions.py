"""In-memory publishing belongs to the publisher's transaction, as stored publishing does."""

import pytest
from django.db import transaction
from django.test import TestCase

from general_manager.workflow import InMemoryEventRegistry, WorkflowEvent
from general_manager.workflow.signals import event_published
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

EVENT = WorkflowEvent("1", "a.b", {}, event_name="x")


class Undone(Exception):
    pass


@pytest.fixture
def handled(event_registry):
    handled = []
    event_registry.register("x", handler=lambda event: handled.append(event.event_id))
    return handled


def test_a5_inside_a_transaction_publishing_waits_for_the_commit(event_registry, handled):
    with transaction.atomic():
        assert event_registry.publish(EVENT) is False
        assert handled == []
    assert handled == ["1"]
    assert event_registry.publish(EVENT) is False


@pytest.mark.parametrize("way", ["publish", "publish_sync", "publish_many"])
def test_a5_after_a_rollback_the_event_never_was_and_its_id_is_free(event_registry, handled, way):
    argument = [EVENT] if way == "publish_many" else EVENT
    with pytest.raises(Undone), transaction.atomic():
        getattr(event_registry, way)(argument)
        raise Undone
    handled.clear()
    assert event_registry.publish(EVENT) is True
    assert handled == ["1"]


@pytest.mark.parametrize("way", ["publish", "publish_sync"])
def test_a5_a_savepoint_that_is_undone_takes_its_event_along(event_registry, handled, way):
    with transaction.atomic():
        with pytest.raises(Undone), transaction.atomic():
            getattr(event_registry, way)(EVENT)
            raise Undone
        handled.clear()
        event_registry.publish(EVENT)
    assert handled == ["1"]


def test_a5_an_id_is_known_as_long_as_its_transaction_may_commit(event_registry, handled):
    with transaction.atomic():
        assert event_registry.publish_sync(EVENT) is True
        assert event_registry.publish_sync(EVENT) is False
        event_registry.publish(EVENT)
    assert handled == ["1"]
    assert event_registry.publish(EVENT) is False


def test_a5_an_event_published_twice_in_one_transaction_is_delivered_once(event_registry, handled):
    with transaction.atomic():
        event_registry.publish(EVENT)
        event_registry.publish(EVENT)
    assert handled == ["1"]


def test_a5_an_event_belongs_to_the_transaction_on_the_database_that_is_named(
    event_registry, handled
):
    with transaction.atomic(using="archive"):
        assert event_registry.publish(WorkflowEvent("2", "a.b", {}, event_name="x")) is True
        assert event_registry.publish(EVENT, using="archive") is False
        assert handled == ["2"]
    assert handled == ["2", "1"]


def test_a5_what_is_published_in_a_transaction_is_announced_with_its_commit(event_registry):
    heard = []

    def hear(event, **_):
        heard.append(event)

    event_published.connect(hear)
    try:
        with transaction.atomic():
            event_registry.publish(EVENT)
            assert heard == []
    finally:
        event_published.disconnect(hear)
    assert heard == [EVENT]


def test_a5_a_handler_that_fails_after_the_commit_undoes_nothing(event_registry):
    def fail(event):
        raise ValueError

    event_registry.register("x", handler=fail)
    with transaction.atomic():
        Tag.objects.create(name="business")
        event_registry.publish(EVENT)
    assert Tag.objects.count() == 1


class TestInATestCase(TestCase):
    databases = "__all__"

    def setUp(self):
        self.handled = []
        self.registry = InMemoryEventRegistry()
        self.registry.register("x", handler=lambda event: self.handled.append(event.event_id))

    def test_a5_the_test_cases_own_transaction_does_not_count(self):
        assert self.registry.publish(EVENT) is True
        assert self.handled == ["1"]

    def test_a5_one_inside_it_does(self):
        with self.captureOnCommitCallbacks(execute=True):
            with transaction.atomic():
                assert self.registry.publish(EVENT) is False
            assert self.handled == []
        assert self.handled == ["1"]


@pytest.mark.parametrize("way", ["outside", "after the commit", "inside", "inside, not atomic"])
def test_in_local_mode_a_failing_event_handler_keeps_what_it_wrote_outside_of_a_transaction(
    event_registry, way
):
    found = []

    def write_and_fail(event):
        found.append(Tag.objects.count())
        Tag.objects.create(name=f"attempt {len(found)}")
        raise ValueError

    is_atomic = way != "inside, not atomic"
    event_registry.register("x", handler=write_and_fail, retries=1, atomic=is_atomic)
    if way == "outside":
        event_registry.publish(EVENT)
    else:
        with transaction.atomic():
            verb = "publish" if way == "after the commit" else "publish_sync"
            getattr(event_registry, verb)(EVENT)
    is_undone = way == "inside"
    kept = Tag.objects.order_by("name").values_list("name", flat=True)
    assert list(kept) == ([] if is_undone else ["attempt 1", "attempt 2"])
    assert found == ([0, 0] if is_undone else [0, 1])
