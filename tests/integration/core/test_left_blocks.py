"""Blocks that a handler enters and does not leave, and connections that it closes inside ours."""

from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.test import override_settings

from general_manager.workflow import (
    InMemoryEventRegistry,
    WorkflowEvent,
    publish_sync,
)
from general_manager.workflow.models import WorkflowDeliveryAttempt, WorkflowOutbox
from general_manager.workflow.outbox.drain import drain
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
calls: list[str] = []


@pytest.fixture(autouse=True)
def _sound():
    calls.clear()
    yield
    for one in connections.all(initialized_only=True):
        one.in_atomic_block = False
        one.close()


def make_event(number, name):
    return WorkflowEvent(str(number), "a.b", {}, event_name=name)


def good(event: WorkflowEvent) -> None:
    calls.append(f"good {event.event_id}")
    Tag.objects.create(name=f"good {event.event_id}")


def leave_a_block(event: WorkflowEvent) -> None:
    Tag.objects.create(name="before the block")
    transaction.atomic().__enter__()
    Tag.objects.create(name="in the block")


def leave_a_block_and_raise(event: WorkflowEvent) -> None:
    leave_a_block(event)
    raise ConnectionError("not now")


def close_the_connection(event: WorkflowEvent) -> None:
    calls.append("closed")
    Tag.objects.create(name="before the end")
    connections.close_all()


def tags():
    return sorted(Tag.objects.values_list("name", flat=True))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("handler", [leave_a_block, leave_a_block_and_raise])
def test_g2_a_block_that_a_handler_leaves_open_fails_it_and_harms_no_neighbour(
    outbox, grouped, handler
):
    outbox.register("good", handler=good, grouped=grouped)
    outbox.register("bad", handler=handler, registration_id="bad", grouped=grouped)
    outbox.publish_many(make_event(n, "bad" if n == 1 else "good") for n in range(3))
    drain()
    assert not connection.in_atomic_block
    assert tags() == ["good 0", "good 2"]
    assert sorted(calls) == ["good 0", "good 2"]
    failed = WorkflowDeliveryAttempt.objects.get(registration_id="bad")
    word = "open transaction" if handler is leave_a_block else "not now"
    assert (failed.status, failed.crashes, word in failed.error) == ("failed", 0, True)
    assert WorkflowOutbox.objects.filter(status="claimed").count() == 0


def test_g2_a_block_left_open_in_a_callers_transaction_leaves_that_as_it_was(outbox):
    outbox.register("bad", handler=leave_a_block)
    with transaction.atomic():
        Tag.objects.create(name="the caller's")
        publish_sync(make_event(1, "bad"))
        assert len(connection.atomic_blocks) == 1
    assert not connection.in_atomic_block
    assert tags() == ["the caller's"]


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_g2_in_local_mode_too(atomic, inside):
    registry = InMemoryEventRegistry()
    registry.register("bad", handler=leave_a_block, atomic=atomic)
    registry.register("good", handler=good)
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "local"}):
        if inside:
            with transaction.atomic():
                Tag.objects.create(name="the caller's")
                assert registry.publish_sync(make_event(1, "bad")) is False
        else:
            assert registry.publish(make_event(1, "bad")) is False
        assert not connection.in_atomic_block
        assert connection.get_autocommit()
        registry.publish(make_event(2, "good"))
    kept = {"good 2"} | ({"the caller's"} if inside else set())
    assert set(tags()) - {"before the block"} == kept


def test_g3_a_handler_that_closes_its_connection_has_failed_and_is_told_so(outbox, workers):
    outbox.register("bad", handler=close_the_connection, registration_id="bad")
    outbox.publish(make_event(1, "bad"))
    drain()
    failed = WorkflowDeliveryAttempt.objects.get(registration_id="bad")
    assert failed.status == "failed"
    assert "closed the connection to database 'default' inside its transaction" in failed.error
    assert calls == ["closed"]
    assert tags() == []


def end_the_process(event: WorkflowEvent) -> Any:
    raise KeyboardInterrupt


def test_g9_a_process_that_ends_delivers_no_more_while_it_ends(outbox):
    outbox.register("end", handler=end_the_process)
    outbox.register("good", handler=good)
    with transaction.atomic():
        outbox.publish_many(make_event(n, "good" if n else "end") for n in range(4))
    settings = {
        "WORKFLOW_MODE": "production",
        "WORKFLOW_ASYNC": False,
        "WORKFLOW_OUTBOX_PROCESS_CHUNK_SIZE": 1,
    }
    with override_settings(GENERAL_MANAGER=settings), pytest.raises(KeyboardInterrupt):
        drain()
    assert calls == []
    assert WorkflowOutbox.objects.filter(status="pending").count() == 3
