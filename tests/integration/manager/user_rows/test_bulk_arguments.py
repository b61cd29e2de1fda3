"""The bulk verbs take and refuse what Django's own take and refuse."""

from typing import Any

import pytest
from django.core.exceptions import FieldDoesNotExist
from django.db import NotSupportedError, connection
from django.db.models import F

from general_manager import PublishingQuerySet
from general_manager.manager import bulk
from tests.rowapp.kinds import KINDS
from tests.rowapp.reported import reported

pytestmark = pytest.mark.django_db
Row: Any = KINDS["AutoKey"].tracked
Numbered: Any = KINDS["Numbered"].tracked
Volatile: Any = KINDS["VolatileKey"].tracked


def rows_of(model: Any) -> Any:
    return PublishingQuerySet(model)


def test_wrong_arguments_are_refused_though_there_are_no_rows():
    with pytest.raises(FieldDoesNotExist):
        rows_of(Row).update_and_publish(nane="b")
    with pytest.raises(FieldDoesNotExist):
        rows_of(Row).bulk_update_and_publish([], ["nane"])
    with pytest.raises(ValueError, match="Field names must be given"):
        rows_of(Row).bulk_update_and_publish([], [])
    with pytest.raises(ValueError, match="Batch size"):
        rows_of(Row).bulk_create_and_publish([], batch_size=-1)
    assert rows_of(Row).update_and_publish(name="b") == 0
    assert rows_of(Row).bulk_create_and_publish([]) == []


def test_the_names_of_the_fields_may_be_given_one_by_one(monkeypatch):
    monkeypatch.setattr(bulk, "CHUNK", 2)
    rows = [Row.objects.create() for _ in range(3)]
    for one in rows:
        one.name = "b"
    with reported() as changes:
        rows_of(Row).bulk_update_and_publish(rows, (name for name in ["name"]))
    assert [dict(one.changes) for one in changes] == [{"name": ("a", "b")}] * 3


def test_new_rows_whose_keys_the_database_made_are_reported_by_these_or_refused():
    with reported() as changes:
        try:
            rows_of(Volatile).bulk_create_and_publish([Volatile(), Volatile()])
        except NotSupportedError:  # this Django does not ask the database for them
            assert changes == []
    stored = [{"id": key} for key in Volatile.objects.order_by("id").values_list("id", flat=True)]
    assert sorted((one.identification for one in changes), key=lambda one: one["id"]) == stored


def test_an_update_of_distinct_rows_changes_all_that_match_as_djangos_does():
    for _ in range(3):
        Row.objects.create(name="b")
    rows = rows_of(Row).distinct("name")
    with reported() as changes:
        try:
            assert rows.update(name="b") == 3
        except TypeError:  # as of Django 6.1
            with pytest.raises(TypeError, match=r"update_and_publish\(\) after .distinct"):
                rows.update_and_publish(name="c")
        else:
            assert rows.update_and_publish(name="c") == 3
    assert len(changes) == rows_of(Row).filter(name="c").count()
    with reported() as changes:
        assert rows_of(Row).distinct().update_and_publish(name="d") == 3
    assert len(changes) == 3


@pytest.mark.skipif(connection.vendor != "mysql", reason="MariaDB's order of an update")
@pytest.mark.parametrize("size", [2, 100])
def test_an_update_changes_rows_in_the_given_order(size, monkeypatch):
    monkeypatch.setattr(bulk, "CHUNK", size)
    for number in range(5):
        Numbered.objects.create(number=number)
    with reported() as changes:
        rows_of(Numbered).order_by("-number").update_and_publish(number=F("number") + 1)
    assert [dict(one.changes) for one in changes] == [
        {"number": (number, number + 1)} for number in (4, 3, 2, 1, 0)
    ]
