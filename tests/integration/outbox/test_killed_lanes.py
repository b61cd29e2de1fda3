"""Workers of lanes, killed by SIGKILL at each of their moments; what others then make of it."""

from datetime import timedelta
from itertools import count

import pytest
from django.utils import timezone

from general_manager.workflow import WorkflowEvent
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowLane,
    WorkflowOutbox,
)
from general_manager.workflow.outbox.drain import drain
from tests.integration.executions.killing import World, is_killed
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

world = World()
STRIDE = 4
"""What follows a statement is what precedes the next, so every other moment would be enough."""
FIRST = {True: 0, False: 2}


@pytest.fixture(autouse=True)
def _world(tmp_path):
    world.begin(tmp_path)


def expire_leases() -> None:
    past = timezone.now() - timedelta(seconds=1)
    for table in (WorkflowOutbox, WorkflowLane):
        table._default_manager.filter(available_at__isnull=False).update(available_at=past)


def handle(event: WorkflowEvent) -> None:
    world.effect(event.event_id)
    Tag.objects.create(name=event.event_id)


def publish(outbox, life: int) -> list[str]:
    names = [f"{life} {one}" for one in ("a0", "a1", "b0")]
    outbox.publish_many(
        WorkflowEvent(one, "a.b", {}, "changed", ordering_key=one[:-1]) for one in names
    )
    return names


@pytest.mark.parametrize("atomic", [True, False])
def test_q1_a_worker_that_is_killed_anywhere_loses_nothing_and_keeps_the_order(outbox, atomic):
    outbox.register(
        "changed", handler=handle, in_order=True, atomic=atomic, registration_id="in order"
    )
    deaths = 0
    for life in count():
        names = publish(outbox, life)
        moment = is_killed(STRIDE * life + FIRST[atomic], drain)
        deaths += bool(moment)
        expire_leases()
        drain()
        written = list(Tag.objects.order_by("pk").values_list("name", flat=True))
        assert [one for one in written if one[:-1] == f"{life} a"] in (
            names[:2],
            # Not atomic: the effect is repeated, never out of order.
            *([[names[0], names[0], names[1]], [names[0], names[1], names[1]]] * (not atomic)),
        ), moment
        assert f"{life} b0" in written
        rows = WorkflowDeliveryAttempt.objects.filter(outbox__event__event_id__in=names)
        assert set(rows.values_list("status", flat=True)) == {"completed"}, moment
        assert sum(rows.values_list("crashes", flat=True)) <= 1, moment
        assert not WorkflowLane.objects.exists(), moment
        Tag.objects.all().delete()
        if not moment:
            break
    assert deaths > 10
    assert all(times <= 2 for times in world.effects.values())
