"""Which rows a bulk verb changes and reports: all that matched, however they are named."""

from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Concat

from general_manager import PublishingQuerySet
from general_manager.manager import bulk
from general_manager.manager.signals import post_data_change
from tests.integration.manager.user_rows.test_receivers import receiving
from tests.rowapp.kinds import KINDS
from tests.rowapp.reported import reported

pytestmark = pytest.mark.django_db(databases=["default", "archive"])
Row: Any = KINDS["AutoKey"].tracked
Tree: Any = KINDS["Ordered"].tracked
Uuid: Any = KINDS["UuidKey"].tracked
Text: Any = KINDS["TextKey"].tracked
Counted: Any = KINDS["Counted"].tracked
Seat: Any = KINDS["CompositeKey"].tracked
Money: Any = KINDS["Money"].tracked


def rows_of(model: Any) -> Any:
    return PublishingQuerySet(model)


@pytest.fixture(params=[2, 6, 100])
def chunk(request, monkeypatch):
    monkeypatch.setattr(bulk, "CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
def test_the_rows_are_those_that_match_when_the_verb_begins():
    boss = Tree.objects.create(name="on")
    Tree.objects.filter(pk=boss.pk).update(above=boss)
    Tree.objects.bulk_create([Tree(name="on", above=boss) for _ in range(7)])
    with reported() as changes:
        assert rows_of(Tree).filter(above__name="on").update_and_publish(name="off") == 8
    assert [dict(one.changes) for one in changes] == [{"name": ("on", "off")}] * 8
    assert len({one.identification["id"] for one in changes}) == 8


def test_what_a_receiver_changes_between_chunks_is_no_part_of_the_later_chunk(monkeypatch):
    monkeypatch.setattr(bulk, "CHUNK", 6)
    Row.objects.bulk_create([Row(name="old") for _ in range(7)])
    first, last = Row.objects.earliest("pk"), Row.objects.latest("pk")

    def correct(change: Any, **_: Any) -> None:
        if change.identification["id"] == first.pk:
            last.name = "by a receiver"
            last.save()

    with receiving(post_data_change, correct), reported() as changes:
        rows_of(Row).all().update_and_publish(name="new")
    assert [dict(one.changes) for one in changes if one.identification["id"] == last.pk] == [
        {"name": ("old", "by a receiver")},
        {"name": ("by a receiver", "new")},
    ]


def test_an_update_may_refer_to_annotations():
    Counted.objects.bulk_create([Counted(number=number) for number in (1, 2, 3)])
    rows = rows_of(Counted).annotate(more=F("number") + 5).filter(more__gt=6)
    with reported() as changes:
        assert rows.update_and_publish(number=F("more")) == 2
    assert [dict(one.changes) for one in changes] == [{"number": (2, 7)}, {"number": (3, 8)}]


def test_an_annotation_beside_a_filter_on_another_table_is_no_obstacle():
    boss = Tree.objects.create(name="boss")
    Tree.objects.create(name="a", above=boss)
    rows = rows_of(Tree).filter(above__name="boss").annotate(twice=Concat("name", "name"))
    with reported() as changes:
        assert rows.order_by("above__name").distinct().update_and_publish(name=F("twice")) == 1
    assert [dict(one.changes) for one in changes] == [{"name": ("a", "aa")}]


class Loud(PublishingQuerySet[Any]):
    """Whose own method adds a value."""

    def update(self, **values: Any) -> int:
        return super().update(**{"number": 99, **values})


class Always(PublishingQuerySet[Any]):
    """Whose usual methods publish."""

    def update(self, **values: Any) -> int:
        return self.filter(number__lt=50).update_and_publish(**values)

    def bulk_update(self, *arguments: Any, **options: Any) -> int:
        return self.bulk_update_and_publish(*arguments, **options)

    def bulk_create(self, *arguments: Any, **options: Any) -> Any:
        return self.bulk_create_and_publish(*arguments, **options)


def test_an_update_is_made_by_the_subclasss_own_method():
    made = Counted.objects.create(number=1)
    with reported() as changes:
        assert Loud(Counted).filter(pk=made.pk).update_and_publish() == 1
    assert [dict(one.changes) for one in changes] == [{"number": (1, 99)}]


def test_methods_that_call_the_verbs_report_each_row_once():
    with reported() as changes:
        [made, other] = Always(Counted).bulk_create([Counted(number=1), Counted(number=60)])
        assert Always(Counted).all().update(number=F("number") + 1) == 1
        other.number = 70
        made.number = 3
        Always(Counted).bulk_update([made, other], ["number"])
    assert [(one.action, dict(one.changes)["number"]) for one in changes] == [
        ("create", (None, 1)),
        ("create", (None, 60)),
        ("update", (1, 2)),
        ("update", (2, 3)),
    ]


# Keys


def test_a_bulk_update_finds_rows_by_keys_of_another_spelling():
    uuid, row = Uuid.objects.create(), Row.objects.create()
    with reported() as changes:
        rows_of(Uuid).bulk_update_and_publish([Uuid(id=str(uuid.pk), name="b")], ["name"])
        rows_of(Row).bulk_update_and_publish([Row(id=str(row.pk), name="b")], ["name"])
    assert [dict(one.identification) for one in changes] == [{"id": uuid.pk}, {"id": row.pk}]
    assert [dict(one.changes) for one in changes] == [{"name": ("a", "b")}] * 2


def test_creations_are_reported_as_stored_however_their_keys_are_spelled():
    key = uuid4()
    with reported() as changes:
        rows_of(Uuid).bulk_create_and_publish([Uuid(id=str(key).upper())])
        rows_of(Row).bulk_create_and_publish([Row(id="5000")])
        rows_of(Seat).bulk_create_and_publish([Seat(row="A", seat="7")])
        rows_of(Money).bulk_create_and_publish([Money(id="6000", sum="1.5")])
    assert [dict(one.identification) for one in changes] == [
        {"id": key},
        {"id": 5000},
        {"row": "A", "seat": 7},
        {"id": 6000},
    ]
    assert changes[3].new_values["sum"] == Decimal("1.50")
    assert str(changes[3].new_values["sum"]) == "1.50"


@pytest.mark.skipif(connection.vendor != "mysql", reason="MariaDB's collation")
def test_a_key_that_only_the_database_finds_equal_is_reported_as_stored():
    Text.objects.create(code="abc")
    Text.objects.create(code="other")
    with reported() as changes:
        rows = [Text(code="ABC", name="b"), Text(code="other", name="c")]
        rows_of(Text).bulk_update_and_publish(rows, ["name"])
    assert sorted(one.identification["code"] for one in changes) == ["abc", "other"]


def test_a_bulk_updates_events_are_in_the_order_of_its_objects():
    made = [Row.objects.create() for _ in range(4)]
    for row in made:
        row.name = "b"
    mixed = [made[2], made[0], Row(id=str(made[3].pk), name="b"), made[1]]
    with reported() as changes:
        rows_of(Row).bulk_update_and_publish(mixed, ["name"])
    assert [one.identification["id"] for one in changes] == [made[at].pk for at in (2, 0, 3, 1)]
