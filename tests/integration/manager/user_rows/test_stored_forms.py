"""What the database stores decides: which values differ, which row it is, what became of it."""

from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connection, connections, transaction

from general_manager import GeneralManager, track_changes
from general_manager.interface import ExistingModelInterface
from general_manager.manager.signals import post_data_change
from tests.integration.manager.user_rows.test_manager_rows import desk_of
from tests.rowapp.fields import Place, Version
from tests.rowapp.kinds import KINDS
from tests.rowapp.models import (
    Horn,
    Horned,
    KeptRow,
    KeywordChild,
    Slugged,
    Travel,
    UntrackedParent,
    Upserted,
    Versioned,
)
from tests.rowapp.reported import brief, reported

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
Json: Any = KINDS["Json"].tracked
Ordered: Any = KINDS["Ordered"].tracked
Parent: Any = KINDS["Parent"].tracked
Child: Any = KINDS["ChildOfTracked"].tracked
OwnKeyChild: Any = KINDS["OwnKeyChild"].tracked


@contextmanager
def heard_in() -> Any:
    """The databases of the changes."""
    databases: list[str] = []

    def hear(using: str, **_: Any) -> None:
        databases.append(using)

    post_data_change.connect(hear)
    try:
        yield databases
    finally:
        post_data_change.disconnect(hear)


def manager(model: Any) -> Any:
    """A manager of that very model, which may be tracked as well."""
    interface = type("Interface", (ExistingModelInterface,), {"model": model})
    made: Any = type("Desk", (GeneralManager,), {"Interface": interface})
    GeneralManager.known_managers.remove(made)
    return made


def stored(row: Any) -> Any:
    return type(row).objects.get(pk=row.pk)


# Values that Python takes for equal


@pytest.mark.parametrize("values", [(1, True), (0, False), (1, 1.0)])
def test_a_number_that_becomes_another_kind_of_value_in_json_is_a_change(values):
    old, new = values
    row = Json.objects.create(data={"on": old})
    row.data = {"on": new}
    with reported() as changes:
        row.save()
    [change] = changes
    assert type(change.changes["data"].new["on"]) is type(new)
    desk = desk_of("Json").create(data={"on": old})
    desk.update(data={"on": new})
    assert type(desk.data["on"]) is type(new)
    assert type(stored(desk._instance).data["on"]) is type(new)


def test_the_same_json_in_another_order_or_class_is_no_change():
    desk = desk_of("Json").create(data={"a": [1, 2], "b": None})
    with reported() as changes:
        desk.update(data={"b": None, "a": (1, 2)})
    assert changes == []


def test_equal_values_of_a_loose_class_that_are_stored_differently_are_a_change():
    kind = KINDS["Versioned"]
    row = kind.tracked.objects.create(data=Version("1.0"))
    row.data = Version("1.0.0")
    with reported() as changes:
        row.save()
    assert [one.changes["data"].new.text for one in changes] == ["1.0.0"]
    desk = desk_of("Versioned").create(data=Version("1.0"))
    desk.update(data=Version("1.0.0"))
    assert stored(desk._instance).data.text == "1.0.0"


def test_a_tuple_that_is_the_value_of_a_field_stays_one():
    desk = desk_of("Placed").create(at=Place(1, 2))
    desk.update(at=Place(2, 3))
    assert desk.at == Place(2, 3)


def test_a_value_that_the_model_changes_in_place_is_reported_by_the_update_that_saves_it():
    kind = KINDS["Vector"]
    row = kind.tracked.objects.create(**kind.new())
    with reported() as changes:
        row.data.values.append(5.0)
        row.save()
        row.data.values.append(6.0)
    assert changes[0].changes["data"].new.values == [1.0, 2.0, 5.0]


@pytest.mark.skipif(connection.vendor == "mysql", reason="It refuses JSON that deep")
def test_a_value_that_is_nested_too_deeply_to_copy_can_be_saved_and_deleted():
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    desk = desk_of("Json").create(data=deep)
    desk.delete()
    assert not KINDS["Json"].plain.objects.exists()


def test_an_unsaved_object_in_a_relation_is_refused_as_a_save_refuses_it():
    desk = desk_of("Ordered").create(name="a")
    with pytest.raises(ValueError, match="unsaved related object"):
        desk.update(above=KINDS["Ordered"].plain(name="unsaved"))


# Which row it is


def test_a_manager_reports_the_stored_key_however_it_was_given():
    desk = desk_of("DecimalKey")
    with reported() as changes:
        desk.create(sum="1.5")
        desk("1.500").update(name="b")
        desk(Decimal("1.5")).delete()
    assert {str(one.identification["sum"]) for one in changes} == {"1.50"}


def test_a_column_of_a_parent_is_reported_with_the_childs_own_key():
    UntrackedParent.objects.create()  # so that the keys differ
    child = OwnKeyChild.objects.create(code="one")
    child.name = "b"
    with reported() as changes:
        child.save(update_fields=["name"])
    assert [one.identification for one in changes] == [{"code": "one"}]


def test_a_key_may_be_a_float_where_the_field_is_one():
    desk = desk_of("VolatileKey")
    row = desk.create()
    assert desk(row.id).name == "a"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Only it has such a time")
@pytest.mark.parametrize("name", ["plain", "tracked"])
def test_c19_a_value_that_the_driver_cannot_load_stops_no_save_and_no_deletion(name, caplog):
    model = getattr(KINDS["Timed"], name)
    row = model.objects.create(at="2026-01-01T00:00Z")
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {model._meta.db_table} SET at = 'infinity'")
    row = model.objects.defer("at").get(pk=row.pk)
    with reported() as changes:
        row.on = "2026-02-01"
        row.save()
        row.on = "2026-03-01"
        row.save(update_fields=["on"])
        row.delete()
    assert not model.objects.exists()
    if name == "tracked":
        assert [one.action for one in changes] == ["update", "update", "delete"]
        assert all(set(one.changes) == {"on"} for one in changes)
        assert caplog.text.count("cannot be converted") <= 1


# Who reports


def test_a_manager_of_a_parent_hides_no_change_of_a_tracked_child():
    desk = manager(Parent)
    child = Child.objects.create()
    with reported() as changes:
        desk(child.pk).delete()
    assert sorted(brief(changes)) == [("delete", "Desk"), ("delete", "TrackedChildOfTracked")]


def test_a_manager_of_a_child_hides_no_change_of_its_tracked_parent():
    desk = manager(Child)
    with reported() as changes:
        desk.create(name="a").update(name="b")
    assert brief(changes) == [
        ("create", "TrackedParent"),
        ("create", "Desk"),
        ("update", "TrackedParent"),
        ("update", "Desk"),
    ]


def test_a_deletion_that_the_model_refuses_is_not_reported():
    desk = manager(KeptRow).create(refuses=True)
    with reported() as changes:
        desk.delete()
    assert changes == []
    assert desk.gone is False


def test_a_deletion_that_the_model_makes_an_update_is_reported_as_one():
    desk = manager(KeptRow).create()
    with reported() as changes:
        desk.delete()
    assert [(one.action, one.new_values) for one in changes] == [("update", {"gone": True})]
    assert desk.gone is True


def test_a_name_that_no_event_can_carry_is_refused_where_it_is_given():
    for name in ("a\nb", "x" * 300, "  ", "\ud800", ""):
        with pytest.raises((TypeError, ValueError)):
            track_changes(KINDS["AutoKey"].tracked, name=name)


# What fails


@pytest.mark.skipif(connection.vendor == "mysql", reason="It checks foreign keys at once")
def test_c20_a_save_whose_commit_fails_leaves_the_instance_as_it_was():
    for model in (KINDS["Ordered"].plain, Ordered):
        row = model(above_id=999)
        with pytest.raises(IntegrityError):
            row.save()
        assert (row._state.adding, row._state.db, row.pk) == (True, None, None), model


@pytest.mark.skipif(connection.vendor == "sqlite", reason="Autocommit off begins no transaction")
def test_with_autocommit_off_a_failed_save_leaves_a_connection_that_can_go_on():
    for name in ("plain", "tracked"):
        model = getattr(KINDS["TextKey"], name)
        transaction.set_autocommit(False)
        try:
            model(code="one").save(force_insert=True)
            point = transaction.savepoint()
            with pytest.raises(IntegrityError):
                model(code="one").save(force_insert=True)
            transaction.savepoint_rollback(point)
            model(code="two").save()
            transaction.commit()
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert model.objects.count() == 2, name


def test_a_save_base_of_the_models_own_may_take_and_change_arguments():
    Upserted.objects.create(code="one")
    with reported() as changes:
        Upserted(code="one", name="b").save(force_insert=True)
        row = Upserted.objects.get()
        row.name, row.note = "c", "m"
        row.save_wide()
    assert [(one.action, one.new_values) for one in changes] == [
        ("update", {"name": "b"}),
        ("update", {"name": "c", "note": "m"}),
    ]


@pytest.fixture
def archived_too():
    with connections["archive"].schema_editor() as editor:
        editor.create_model(Upserted)
    yield
    with connections["archive"].schema_editor() as editor:
        editor.delete_model(Upserted)


def test_a_save_base_may_choose_the_database(archived_too):
    """What is read and reported is the row there, in the transaction there."""
    Upserted.objects.create(code="one", name="here")
    with reported() as changes, heard_in() as databases:
        row = Upserted(code="one", name="there")
        row.save()
        row.note = "m"
        row.save()
    assert [(one.action, dict(one.new_values)) for one in changes] == [
        ("create", {"name": "there", "note": "n"}),
        ("update", {"note": "m"}),
    ]
    assert databases == ["archive", "archive"]


def test_a_do_update_of_the_models_own_may_call_djangos_by_names():
    row = KeywordChild.objects.create()
    with reported() as changes:
        row.name = "b"
        row.save()
    assert [(one.action, dict(one.new_values)) for one in changes] == [("update", {"name": "b"})]


def test_a_foreign_key_is_reported_as_the_key_to_which_it_refers_is_read():
    for code in ("a", "b"):
        Horn(code=code).save(force_insert=True)
    with reported() as changes:
        row = Horned.objects.create(horn_id="a")
        row.horn_id = "b"
        row.save()
        row.delete()
    assert [dict(one.changes) for one in changes] == [
        {"horn": (None, "A")},
        {"horn": ("A", "B")},
        {"horn": ("B", None)},
    ]


def test_a_save_that_writes_another_row_is_not_an_update_of_the_managers():
    one = manager(Versioned).create(name="a")
    with reported() as changes:
        one.update(name="b")
    first, second = Versioned.objects.order_by("pk")
    assert (first.name, second.name) == ("a", "b")
    assert [(one.action, dict(one.identification)) for one in changes] == [
        ("create", {"id": second.pk})
    ]
    assert (one.id, one.name) == (first.pk, "a")


def test_a_save_that_changes_the_key_is_reported_with_the_new_one():
    one = manager(Slugged).create(slug="a", name="a")
    with reported() as changes:
        one.update(name="b")
    [change] = changes
    assert (change.action, dict(change.identification)) == ("update", {"slug": "b"})
    assert one.update(name="c").name == "c"
    assert [row.slug for row in Slugged.objects.all()] == ["c"]


def test_a_field_may_have_the_name_of_a_verbs_own_argument():
    desk = manager(Travel)
    assert desk.create(cls="eco").update(cls="first").cls == "first"
    assert desk.filter(cls="first").count() == desk.get(cls="first").id
