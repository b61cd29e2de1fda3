"""Plain models whose changes are told."""

from copy import copy
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import FieldDoesNotExist
from django.core.management import call_command
from django.db import IntegrityError, connection, models, transaction
from django.db.models.signals import post_save, pre_save

from general_manager import track_changes
from general_manager.manager.signals import post_data_change, pre_data_change
from tests.testapp.models import (
    Invoice,
    InvoiceDesk,
    InvoiceLine,
    Tag,
    Truck,
    UrgentInvoice,
    VeryUrgentInvoice,
)

pytestmark = pytest.mark.django_db(databases=["default", "archive"])


@pytest.fixture
def told():
    changes = []

    def hear(sender, change, **_):
        assert connection.in_atomic_block
        changes.append(change)

    post_data_change.connect(hear)
    yield changes
    post_data_change.disconnect(hear)


def seen(told):
    return [(one.action, one.manager, dict(one.changes)) for one in told]


def test_a_saved_instance_is_reported_with_the_tracked_fields(told):
    invoice = Invoice.objects.create(number="1", total="9.90")
    assert seen(told) == [
        ("create", "Invoice", {"status": (None, "open"), "total": (None, Decimal("9.90"))})
    ]
    assert told[0].identification == {"id": invoice.pk}
    assert told[0].using == "default"


def test_an_update_tells_the_tracked_fields_that_changed(told):
    invoice = Invoice.objects.create(number="1", total=5)
    told.clear()
    invoice.status = "paid"
    invoice.total = "5.00"
    invoice.number = "2"
    invoice.save()
    assert seen(told) == [("update", "Invoice", {"status": ("open", "paid")})]


def test_a_change_of_other_fields_is_not_reported(told):
    invoice = Invoice.objects.create(number="1")
    told.clear()
    invoice.note = "not tracked"
    invoice.save()
    assert told == []


def test_old_values_are_the_databases(told):
    invoice = Invoice.objects.create(number="1")
    Invoice.objects.update(status="sent")
    told.clear()
    invoice.status = "paid"
    invoice.save()
    assert seen(told) == [("update", "Invoice", {"status": ("sent", "paid")})]


def test_only_what_was_saved_is_reported(told):
    invoice = Invoice.objects.create(number="1")
    told.clear()
    invoice.status = "paid"
    invoice.total = Decimal(7)
    invoice.save(update_fields=["total"])
    assert seen(told) == [("update", "Invoice", {"total": (Decimal(0), Decimal(7))})]


def test_an_expression_is_reported_as_the_value_it_had(told):
    invoice = Invoice.objects.create(number="1", total=1)
    told.clear()
    invoice.total = models.F("total") + 1
    invoice.save()
    assert seen(told) == [("update", "Invoice", {"total": (Decimal(1), Decimal(2))})]


def test_get_or_create_and_update_or_create_are_reported(told):
    Invoice.objects.get_or_create(number="1")
    Invoice.objects.update_or_create(number="1", defaults={"status": "paid"})
    assert [one.action for one in told] == ["create", "update"]


def test_a_deletion_is_reported_with_the_databases_values(told):
    invoice = Invoice.objects.create(number="1")
    key = invoice.pk
    Invoice.objects.update(status="sent")
    told.clear()
    invoice.delete()
    assert seen(told) == [
        ("delete", "Invoice", {"status": ("sent", None), "total": (Decimal(0), None)})
    ]
    assert told[0].identification == {"id": key}


def test_what_a_queryset_and_a_cascade_delete_is_reported(told):
    for number in ("1", "2"):
        InvoiceLine.objects.create(invoice=Invoice.objects.create(number=number), text="Lamp")
    told.clear()
    Invoice.objects.all().delete()
    assert sorted((one.action, one.manager) for one in told) == [
        ("delete", "Invoice"),
        ("delete", "Invoice"),
        ("delete", "InvoiceLine"),
        ("delete", "InvoiceLine"),
    ]


def test_deleting_what_is_gone_is_not_reported(told):
    invoice = Invoice.objects.create(number="1")
    Invoice.objects.filter(pk=invoice.pk)._raw_delete(using="default")
    told.clear()
    invoice.delete()
    assert told == []


def test_a_proxys_changes_are_reported_as_the_models(told):
    urgent = UrgentInvoice.objects.create(number="1")
    urgent.status = "paid"
    urgent.save()
    urgent.delete()
    assert [(one.action, one.manager) for one in told] == [
        ("create", "Invoice"),
        ("update", "Invoice"),
        ("delete", "Invoice"),
    ]


def test_bulk_changes_are_not_reported_as_the_documentation_says(told):
    invoices = Invoice.objects.bulk_create([Invoice(number="1")])
    Invoice.objects.update(status="sent")
    invoices[0].status = "paid"
    Invoice.objects.bulk_update(invoices, ["status"])
    assert told == []


def test_fixtures_are_not_reported(told, tmp_path):
    fixture = tmp_path / "invoice.json"
    fixture.write_text('[{"model": "testapp.invoice", "pk": 1, "fields": {"number": "1"}}]')
    call_command("loaddata", str(fixture), verbosity=0)
    assert Invoice.objects.count() == 1
    assert told == []


def test_a_managers_change_of_a_tracked_model_is_reported_once(told):
    desk = InvoiceDesk.create(number="1")
    desk.update(status="paid")
    desk.delete()
    assert [(one.action, one.manager) for one in told] == [
        ("create", "InvoiceDesk"),
        ("update", "InvoiceDesk"),
        ("delete", "InvoiceDesk"),
    ]


def test_an_instance_that_a_manager_changed_can_be_saved_and_is_reported(told):
    desk = InvoiceDesk.create(number="1")
    row: Any = desk._loaded()
    row.status = "paid"
    row.save()
    assert [one.manager for one in told] == ["InvoiceDesk", "Invoice"]


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
def test_a_receiver_that_raises_undoes_a_save_and_a_deletion():
    invoice = Invoice.objects.create(number="1")

    def refuse(**_):
        raise RuntimeError("refused")

    post_data_change.connect(refuse)
    try:
        invoice.status = "paid"
        for change in (invoice.save, invoice.delete, lambda: Invoice.objects.create(number="2")):
            with pytest.raises(RuntimeError, match="refused"):
                change()
    finally:
        post_data_change.disconnect(refuse)
    assert [(one.number, one.status) for one in Invoice.objects.all()] == [("1", "open")]


def test_a_save_that_fails_is_not_reported(told):
    Tag.objects.create(pk=1, name="a")
    invoice = Invoice.objects.create(number="1")
    told.clear()
    with pytest.raises(IntegrityError), transaction.atomic():
        Invoice(pk=invoice.pk, number="2").save(force_insert=True)
    assert told == []


def test_before_a_change_receivers_hear_what_is_wanted():
    heard = []

    def hear(sender, action, values, instance, **_):
        heard.append((action, values.get("status"), instance is None))

    pre_data_change.connect(hear)
    try:
        invoice = Invoice.objects.create(number="1")
        invoice.status = "paid"
        invoice.save()
        invoice.delete()
    finally:
        pre_data_change.disconnect(hear)
    assert heard == [("create", "open", True), ("update", "paid", False), ("delete", None, False)]


def test_tracking_again_replaces_the_fields(told):
    track_changes(Invoice, fields=["note"])
    try:
        invoice = Invoice.objects.create(number="1")
        invoice.status = "paid"
        invoice.save()
        assert seen(told) == [("create", "Invoice", {"note": (None, "")})]
    finally:
        track_changes(Invoice, fields=("status", "total"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("Invoice",), TypeError),
        ((models.Model,), TypeError),
        ((object,), TypeError),
        ((Invoice, "status"), TypeError),
        ((Invoice, ["stauts"]), FieldDoesNotExist),
    ],
)
def test_what_cannot_be_tracked_is_refused(arguments, error):
    model, *fields = arguments
    with pytest.raises(error):
        track_changes(model, fields=fields[0] if fields else None)


def test_an_heir_of_a_tracked_model_is_reported_as_that_model(told):
    truck = Truck.objects.create(name="old")
    truck.name = "new"
    truck.save()
    key = truck.pk
    truck.delete()
    assert [(one.action, one.manager) for one in told] == [
        ("create", "Vehicle"),
        ("update", "Vehicle"),
        ("delete", "Vehicle"),
    ]
    assert [one.identification for one in told] == [{"id": key}] * 3


def test_a_save_by_a_receiver_is_reported_after_the_save_that_it_follows(told):
    def correct(instance, **_):
        if instance.status == "paid":
            instance.status = "booked"
            instance.save()

    invoice = Invoice.objects.create(number="1")
    told.clear()
    post_save.connect(correct, sender=Invoice)
    try:
        invoice.status = "paid"
        invoice.save()
    finally:
        post_save.disconnect(correct, sender=Invoice)
    assert seen(told) == [
        ("update", "Invoice", {"status": ("open", "paid")}),
        ("update", "Invoice", {"status": ("paid", "booked")}),
    ]


def test_deletions_through_a_proxy_of_a_proxy_are_reported(told):
    VeryUrgentInvoice.objects.create(number="1").delete()
    assert [(one.action, one.manager) for one in told] == [
        ("create", "Invoice"),
        ("delete", "Invoice"),
    ]


def test_a_deletion_of_an_instance_that_was_not_read_whole_tells_all_values(told):
    Invoice.objects.create(number="1")
    told.clear()
    Invoice.objects.only("id").get().delete()
    assert told[0].old_values == {"status": "open", "total": Decimal(0)}


def test_a_copy_that_is_saved_during_a_managers_change_is_reported(told):
    def keep_history(instance, **_):
        if instance.number != "copy":
            earlier = copy(instance)
            earlier.pk, earlier.number = None, "copy"
            earlier.save(force_insert=True)

    pre_save.connect(keep_history, sender=Invoice)
    try:
        InvoiceDesk.create(number="1")
    finally:
        pre_save.disconnect(keep_history, sender=Invoice)
    assert [one.manager for one in told] == ["Invoice", "InvoiceDesk"]
