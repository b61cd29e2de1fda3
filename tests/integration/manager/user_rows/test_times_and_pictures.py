"""Fields whose values depend on more than their column: a connection's time zone, a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import override_settings
from django.utils import timezone

from general_manager.workflow.models import WorkflowEventRecord
from general_manager.workflow.signal_bridge import event_of
from tests.rowapp.fields import picture
from tests.rowapp.kinds import KINDS
from tests.rowapp.reported import reported

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


@contextmanager
def zone_of_the_connection(name: str) -> Iterator[None]:
    """As with ``TIME_ZONE`` in this alias's DATABASES: what is stored and read is in that zone."""
    before = connection.settings_dict["TIME_ZONE"]

    def turn(to: str | None) -> None:
        connection.close()
        connection.settings_dict["TIME_ZONE"] = to
        for one in ("timezone", "timezone_name"):
            vars(connection).pop(one, None)

    turn(name)
    try:
        yield
    finally:
        turn(before)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/New_York"])
def test_times_of_a_database_with_a_zone_of_its_own_are_reported_as_the_moments_they_are(zone):
    model: Any = KINDS["Timed"].tracked
    with zone_of_the_connection(zone):
        with reported() as changes:
            row = model.objects.create(at=NOON, on=date(2026, 7, 1))
            row.save()
            row = model.objects.get()
            row.save()  # as the database gave it, in its zone: the same moment
            row.at = NOON.astimezone(timezone.get_fixed_timezone(120))
            row.save()  # another spelling of it
            row.at += timedelta(minutes=1)
            row.save()
            row.delete()
        created, updated, deleted = changes
        assert created.new_values == {"at": NOON, "on": date(2026, 7, 1)}
        assert updated.changes == {"at": (NOON, NOON + timedelta(minutes=1))}
        assert deleted.old_values["at"] == NOON + timedelta(minutes=1)
        told = event_of(updated).payload["changes"]["at"]
        assert [datetime.fromisoformat(told[side]) for side in ("old", "new")] == [
            *updated.changes["at"]
        ]


@pytest.mark.django_db(transaction=True)
def test_an_event_in_a_database_with_a_zone_of_its_own_has_the_moment_of_its_change(outbox):
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_SIGNAL_BRIDGE": True}
    with zone_of_the_connection("Asia/Kathmandu"), override_settings(GENERAL_MANAGER=settings):
        before = timezone.now()
        KINDS["Timed"].tracked.objects.create(at=NOON)
        event = WorkflowEventRecord.objects.get()
        assert event.occurred_at is not None
        assert before <= event.occurred_at <= timezone.now()
        assert datetime.fromisoformat(event.payload["values"]["at"]) == NOON


def needs_pillow() -> Any:
    return pytest.mark.skipif("Pictured" not in KINDS, reason="Pillow is not installed")


@needs_pillow()
def test_an_images_dimensions_are_reported_with_it_as_they_are_stored():
    model = KINDS["Pictured"].tracked
    with reported() as changes:
        row = model.objects.create(image=picture("a.ppm", 3, 2))
        row.image = picture("b.ppm", 3, 7)
        row.save()
    stored = model.objects.get()
    created, updated = changes
    assert created.new_values["width"] == 3
    assert created.new_values["height"] == 2
    assert set(updated.changes) == {"image", "height"}
    assert updated.new_values == {"image": stored.image.name, "height": 7}


@needs_pillow()
def test_tracking_opens_no_file_that_a_plain_save_leaves_closed():
    counts = []
    for model in (KINDS["Pictured"].plain, KINDS["Pictured"].tracked):
        storage = model._meta.get_field("image").storage
        row = model.objects.create(image=picture("a.ppm", 3, 2))
        row = model.objects.get(pk=row.pk)
        before = storage.opened
        row.width = 9
        row.save()
        row.image = picture("b.ppm", 5, 4)
        row.save()
        row.delete()
        counts.append(storage.opened - before)
    assert counts[0] == counts[1]
