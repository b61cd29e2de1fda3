"""Deletions that fail, that receivers interfere with, and what their events say."""

from contextlib import suppress
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.signals import post_delete, pre_delete
from django.test.utils import CaptureQueriesContext

from general_manager.manager.deletions.deleting import before_delete
from general_manager.manager.signals import pre_data_change
from general_manager.tables import forget_answers
from tests.integration.manager.user_rows.test_receivers import receiving
from tests.rowapp.kinds import KINDS
from tests.rowapp.reported import brief, reported
from tests.testapp.models import Invoice, InvoiceLine

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
Row: Any = KINDS["AutoKey"].tracked
Tree: Any = KINDS["Ordered"].tracked
Child: Any = KINDS["ChildOfTracked"].tracked
Json: Any = KINDS["Json"].tracked
Linked: Any = KINDS["Linked"].tracked
Checked: Any = KINDS["Checked"].tracked


def make_tree() -> Any:
    root = Tree.objects.create(name="root")
    for name in ("left", "right"):
        Tree.objects.create(name=name, above=root)
    return root


def names(changes: Any) -> list[str]:
    return sorted(one.old_values["name"] for one in changes)


class Once:
    """A receiver that raises at the first call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, **_: Any) -> None:
        self.calls += 1
        if self.calls == 1:
            raise IntegrityError("not yet")


# Attempts


@pytest.mark.parametrize("signal", [pre_delete, post_delete])
def test_a_deletion_that_is_tried_again_at_once_reports_all_that_it_cascades_to(signal):
    root = make_tree()
    with receiving(signal, Once(), Tree):
        try:
            root.delete()
        except IntegrityError:  # its traceback keeps the first attempt's instances
            with reported() as changes:
                root.delete()
    assert names(changes) == ["left", "right", "root"]
    assert not Tree.objects.exists()


@pytest.mark.parametrize("deferred", [False, True])
def test_a_queryset_whose_deletion_failed_can_delete_the_rows_later(deferred):
    for name in ("a", "b"):
        Row.objects.create(name=name)
    rows = Row.objects.only("id") if deferred else Row.objects.all()
    with receiving(post_delete, Once()):
        try:
            rows.delete()
        except IntegrityError:
            with reported() as changes:
                rows.delete()
    assert names(changes) == ["a", "b"]


def test_a_deletion_that_the_database_refuses_is_reported_when_it_succeeds():
    root = make_tree()

    def adopt(instance: Any, **_: Any) -> None:
        if not calls:
            calls.append(instance)
            late.above_id = root.pk
            late.save()

    calls: list[Any] = []
    late = Tree.objects.create(name="late")
    with receiving(post_delete, adopt, Tree):
        try:
            root.delete()
        except IntegrityError:
            with reported() as changes:
                root.delete()
    assert names(changes) == ["left", "right", "root"]
    assert Tree.objects.get().name == "late"


def test_a_deletion_in_a_savepoint_that_is_undone_is_forgotten():
    root = make_tree()
    with transaction.atomic(), receiving(pre_delete, Once(), Tree):
        try:
            with transaction.atomic():
                root.delete()
        except IntegrityError:
            with reported() as changes:
                root.delete()
    assert names(changes) == ["left", "right", "root"]


def test_a_deletion_leaves_nothing_behind_on_its_connection():
    make_tree().delete()
    assert connection.execute_wrappers == []
    root = make_tree()
    with receiving(pre_delete, Once(), Tree), suppress(IntegrityError):
        root.delete()
    Tree.objects.count()
    assert connection.execute_wrappers == []


def test_a_failed_deletion_leaves_the_callers_wrappers_as_they_are():
    heard: list[str] = []

    def hear(execute: Any, sql: str, *arguments: Any) -> Any:
        heard.append(sql)
        return execute(sql, *arguments)

    root = make_tree()
    with (
        receiving(pre_delete, Once(), Tree),
        suppress(IntegrityError),
        connection.execute_wrapper(hear),
    ):
        root.delete()
    heard.clear()
    Tree.objects.count()
    assert heard == []
    assert connection.execute_wrappers == []


# Receivers


def test_a_row_whose_owner_a_receiver_deletes_first_is_reported_once():
    line = InvoiceLine.objects.create(invoice=Invoice.objects.create(number="1"), text="Lamp")
    begun: list[Any] = []

    def drop(instance: Any, **_: Any) -> None:
        if not begun:
            begun.append(instance)
            Invoice.objects.filter(pk=instance.invoice_id).delete()

    with receiving(pre_delete, drop, InvoiceLine), reported() as changes:
        line.delete()
    assert brief(changes) == [("delete", "InvoiceLine"), ("delete", "Invoice")]


def hear_first(model: Any, before: Any) -> Any:
    """*before* hears of the deletion before tracking does."""
    uid = "general_manager.manager.deletions.deleting"
    pre_delete.disconnect(sender=model, dispatch_uid=uid)
    pre_delete.connect(before, sender=model)
    pre_delete.connect(before_delete, sender=model, dispatch_uid=uid)


@pytest.mark.parametrize("deferred", [False, True])
def test_a_receiver_may_change_a_row_so_that_the_queryset_no_longer_chooses_it(deferred):
    def mark(instance: Any, **_: Any) -> None:
        Row.objects.filter(pk=instance.pk).update(name="going")

    for _ in range(3):
        Row.objects.create(name="a")
    rows = Row.objects.filter(name="a")
    hear_first(Row, mark)
    try:
        with reported() as changes:
            (rows.only("id") if deferred else rows).delete()
    finally:
        pre_delete.disconnect(mark, sender=Row)
    assert names(changes) == ["going"] * 3


@pytest.mark.parametrize("way", ["instance", "queryset", "deferred"])
def test_a_row_that_a_receiver_saves_is_deleted_with_the_saved_values(way):
    row = Row.objects.create(name="old")

    def save(instance: Any, **_: Any) -> None:
        other = Row.objects.get(pk=instance.pk)
        other.name = "saved"
        other.save()

    rows = Row.objects.filter(pk=row.pk)
    delete = {"instance": row, "queryset": rows, "deferred": rows.only("id")}[way].delete
    with receiving(pre_delete, save), reported() as changes:
        delete()
    assert [(one.action, dict(one.changes)) for one in changes] == [
        ("update", {"name": ("old", "saved")}),
        ("delete", {"name": ("saved", None)}),
    ]


def test_a_row_that_is_gone_is_not_announced():
    row = Row.objects.create()
    Row.objects.filter(pk=row.pk)._raw_delete(using="default")
    heard: list[str] = []

    def hear(action: str, **_: Any) -> None:
        heard.append(action)

    with receiving(pre_data_change, hear), reported() as changes:
        row.delete()
    assert (heard, changes) == ([], [])


# Values


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.skipif(connection.vendor == "mysql", reason="MariaDB's JSON has 32 levels")
def test_a_deeply_nested_value_is_no_obstacle_to_a_deletion():
    Json.objects.bulk_create([Json(data=nested(480))])
    with reported() as changes:
        Json.objects.all().delete()
    assert len(changes) == 1
    assert Json.objects.count() == 0


def test_the_statement_is_recognised_behind_a_comment():
    def comment(execute: Any, sql: str, *arguments: Any) -> Any:
        return execute(f"/* app */ {sql}", *arguments)

    row = Row.objects.create(name="a")
    connection.execute_wrappers.insert(0, comment)
    try:
        with reported() as changes:
            row.delete()
    finally:
        connection.execute_wrappers.remove(comment)
    assert names(changes) == ["a"]


def test_where_a_statement_cannot_return_rows_they_are_reported_as_read(monkeypatch):
    monkeypatch.setattr("general_manager.manager.deletions.deletion.may_return", lambda *_: False)
    child = Child.objects.create(name="stored", load=3)
    Child.objects.create(name="other")
    child.name = "of the instance only"
    with reported() as changes:
        child.delete()
        Child.objects.all().delete()
    assert len(changes) == 4
    assert {one.old_values["name"] for one in changes} == {"stored", "other"}


def test_a_foreign_key_that_the_deletion_sets_to_null_has_the_value_it_had():
    one, two = Linked.objects.create(name="one"), Linked.objects.create(name="two")
    Linked.objects.filter(pk=one.pk).update(other=two)
    Linked.objects.filter(pk=two.pk).update(other=one)
    with reported() as changes:
        Linked.objects.all().delete()
    found = {item.old_values["name"]: item.old_values["other"] for item in changes}
    assert found == {"one": two.pk, "two": one.pk}


def test_a_childs_deletion_has_the_values_of_its_parents_too():
    Child.objects.create(name="above", load=3)
    with reported() as changes:
        Child.objects.all().delete()
    assert [dict(one.old_values) for one in changes] == [
        {"name": "above", "load": 3},
        {"name": "above"},
    ]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL's rules")
def test_a_table_with_a_rule_for_deletions_is_not_asked_and_its_deletions_are_reported():
    table = Checked._meta.db_table
    row = Checked.objects.create(name="a")
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE RULE kept AS ON DELETE TO {table} DO INSTEAD NOTHING")
    forget_answers()
    try:
        with reported() as changes, CaptureQueriesContext(connection) as captured:
            row.delete()
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP RULE kept ON {table}")
        forget_answers()
    assert names(changes) == ["a"]
    assert not any("RETURNING" in one["sql"] for one in captured)


def test_a_cascade_reports_the_key_that_the_deletion_itself_may_have_unset_first():
    # Where constraints cannot be deferred, Django unsets a nullable key before it deletes the row.
    root = Tree.objects.create(name="root")
    Tree.objects.create(name="leaf", above=root)
    key = root.pk
    with reported() as changes:
        root.delete()
    assert {one.old_values["name"]: one.old_values["above"] for one in changes} == {
        "root": None,
        "leaf": key,
    }
