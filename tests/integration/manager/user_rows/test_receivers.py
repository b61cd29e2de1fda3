"""Receivers of Django's signals and of ours: what they do is reported in the order it happened."""

from contextlib import contextmanager
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.signals import post_delete, post_save, pre_delete, pre_save

from general_manager.manager.signals import post_data_change, pre_data_change
from tests.rowapp.kinds import KINDS
from tests.rowapp.reported import brief, reported
from tests.testapp.models import InvoiceDesk

pytestmark = pytest.mark.django_db(databases=["default", "archive"])
Plain: Any = KINDS["AutoKey"].plain
Row: Any = KINDS["AutoKey"].tracked
Uuid: Any = KINDS["UuidKey"].tracked


@contextmanager
def receiving(signal: Any, receiver: Any, sender: Any = Row) -> Any:
    signal.connect(receiver, sender=sender)
    try:
        yield
    finally:
        signal.disconnect(receiver, sender=sender)


def test_a_row_that_a_receiver_deletes_is_created_and_then_deleted():
    with reported() as changes, receiving(post_save, lambda instance, **_: instance.delete()):
        Row.objects.create(name="short")
    assert brief(changes) == [("create", "TrackedAutoKey"), ("delete", "TrackedAutoKey")]
    assert changes[0].identification == changes[1].identification
    assert changes[0].identification["id"] is not None
    assert changes[0].new_values == {"name": "short"}
    assert changes[1].old_values == {"name": "short"}


def test_a_row_that_a_receiver_saves_through_another_instance_is_created_and_then_updated():
    def correct(instance, created, **_):
        if created:
            other = Row.objects.get(pk=instance.pk)
            other.name = "corrected"
            other.save()

    with reported() as changes, receiving(post_save, correct):
        Row.objects.create(name="new")
    assert [(one.action, dict(one.changes)) for one in changes] == [
        ("create", {"name": (None, "new")}),
        ("update", {"name": ("new", "corrected")}),
    ]


def test_what_a_receiver_saves_before_the_save_is_reported_once_and_first():
    row = Row.objects.create()

    def before(instance, **_):
        if instance.name == "outer":
            other = Row.objects.get(pk=instance.pk)
            other.name = "inner"
            other.save()

    with reported() as changes, receiving(pre_save, before):
        row.name = "outer"
        row.save()
    assert [dict(one.changes) for one in changes] == [
        {"name": ("a", "inner")},
        {"name": ("inner", "outer")},
    ]


def test_what_a_receiver_of_ours_saves_before_the_save_is_reported_once_and_first():
    row = Row.objects.create()

    def before(values, **_):
        if values["name"] == "outer":
            other = Row.objects.get(pk=row.pk)
            other.name = "inner"
            other.save()

    with reported() as changes, receiving(pre_data_change, before):
        row.name = "outer"
        row.save()
    assert [dict(one.changes) for one in changes] == [
        {"name": ("a", "inner")},
        {"name": ("inner", "outer")},
    ]


def test_a_receiver_of_ours_may_save_the_instance_that_it_is_given():
    def again(instance, action, **_):
        if action == "create":
            instance.name = "again"
            instance.save()

    with receiving(post_data_change, again, Uuid), reported() as changes:
        row = Uuid.objects.create()
    assert Uuid.objects.get(pk=row.pk).name == "again"
    assert {one.action for one in changes} == {"create", "update"}


def test_the_key_that_a_receiver_sets_names_the_row_that_is_updated():
    kind = KINDS["TextKey"].tracked
    kind.objects.create(code="natural", name="old")

    def natural(instance, **_):
        instance.code = "natural"

    with receiving(pre_save, natural, kind), reported() as changes:
        kind(name="new").save()
    assert [(one.action, dict(one.changes)) for one in changes] == [
        ("update", {"name": ("old", "new")})
    ]


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
@pytest.mark.parametrize("model", [Plain, Row])
@pytest.mark.parametrize("signal", [pre_save, post_save])
def test_receivers_of_a_save_are_in_no_transaction_as_without_tracking(model, signal):
    seen = []

    def look(**_):
        seen.append(connection.in_atomic_block)
        with transaction.atomic(durable=True):
            pass

    with receiving(signal, look, model):
        model.objects.create().save()
    assert seen == [False, False]


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
@pytest.mark.parametrize("model", [Plain, Row])
def test_an_error_that_a_receiver_catches_does_not_break_the_save(model):
    def trip(instance, **_):
        with pytest.raises(IntegrityError):
            model(pk=instance.pk).save(force_insert=True)

    with receiving(post_save, trip, model):
        row = model.objects.create()
    assert model.objects.filter(pk=row.pk).exists()


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
@pytest.mark.parametrize("model", [Plain, Row])
def test_an_error_of_a_receiver_leaves_the_row_as_without_tracking(model):
    def fail(**_):
        raise RuntimeError("boom")

    with receiving(post_save, fail, model), pytest.raises(RuntimeError):
        model.objects.create()
    assert model.objects.count() == 1


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
def test_an_error_of_a_receiver_of_ours_undoes_the_save_and_the_instance_is_new_still():
    def fail(**_):
        raise RuntimeError("boom")

    row = Uuid()
    with receiving(post_data_change, fail, Uuid), pytest.raises(RuntimeError):
        row.save()
    assert Uuid.objects.count() == 0
    assert row._state.adding
    row.save()
    assert Uuid.objects.count() == 1


@pytest.mark.parametrize("model", [Plain, Row])
def test_a_failed_save_breaks_the_callers_transaction_as_without_tracking(model):
    row = model.objects.create()
    with transaction.atomic():
        with pytest.raises(IntegrityError):
            model(pk=row.pk).save(force_insert=True)
        assert connection.needs_rollback
        transaction.set_rollback(True)


def test_a_deletion_that_failed_leaves_nothing_that_a_later_one_would_report():
    row = Row.objects.create()

    def refuse(**_):
        raise RuntimeError("not this one")

    with receiving(post_delete, refuse), pytest.raises(RuntimeError), transaction.atomic():
        row.delete()
    Row.objects.filter(pk=row.pk)._raw_delete(using="default")
    with reported() as changes:
        row.delete()
    assert changes == []


def test_a_failed_deletion_can_be_tried_again_and_is_reported_once():
    row = Row.objects.create()

    def refuse(**_):
        raise RuntimeError("not now")

    with receiving(pre_delete, refuse), pytest.raises(RuntimeError), transaction.atomic():
        row.delete()
    with reported() as changes:
        row.delete()
    assert brief(changes) == [("delete", "TrackedAutoKey")]


def test_what_a_receiver_saves_during_a_managers_change_is_part_of_that_change():
    model: Any = InvoiceDesk.get_model()

    def correct(instance, **_):
        if instance.status != "booked":
            other = model.objects.get(pk=instance.pk)
            other.status = "booked"
            other.save()

    with reported() as changes, receiving(post_save, correct, model):
        desk = InvoiceDesk.create(number="1")
    assert brief(changes) == [("create", "InvoiceDesk")]
    assert changes[0].new_values["status"] == "booked" == desk.status


def test_what_a_receiver_deletes_during_a_managers_change_is_a_deletion():
    model: Any = InvoiceDesk.get_model()
    desk = InvoiceDesk.create(number="1")

    def drop(instance, **_):
        instance.delete()

    with reported() as changes, receiving(post_save, drop, model):
        desk.update(status="void")
        InvoiceDesk.create(number="2")  # was there for nobody to see
    assert brief(changes) == [("delete", "InvoiceDesk")]
    assert changes[0].old_values["status"] == "open"


def test_a_row_that_a_receiver_of_ours_deletes_before_the_save_is_created_anew():
    row = Uuid.objects.create(name="old")

    def drop(action, **_):
        if action == "update":
            Uuid.objects.filter(pk=row.pk).delete()

    with reported() as changes, receiving(pre_data_change, drop, Uuid):
        row.name = "new"
        row.save()
    assert [(one.action, dict(one.changes)) for one in changes] == [
        ("delete", {"name": ("old", None)}),
        ("create", {"name": (None, "new")}),
    ]
