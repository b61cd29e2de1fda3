"""Managers of both kinds, and plain models that are tracked."""

from decimal import Decimal
from typing import Any
from uuid import uuid4

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.crypto import get_random_string

from general_manager import GeneralManager, track_changes
from general_manager.interface import DatabaseInterface, ExistingModelInterface


class Tag(models.Model):
    name = models.CharField(max_length=50)


class Person(GeneralManager):
    """Somebody who owns projects."""

    class Interface(DatabaseInterface):
        name = models.CharField(max_length=100)


class Project(GeneralManager):
    class Interface(DatabaseInterface):
        name = models.CharField(max_length=200, unique=True)
        status = models.CharField(
            max_length=20, default="draft", choices=[("draft", "Draft"), ("active", "Active")]
        )
        budget = models.DecimalField(max_digits=10, decimal_places=2, default=Decimal(0))
        owner = models.ForeignKey(
            "testapp.Person", null=True, blank=True, on_delete=models.SET_NULL, related_name="owned"
        )
        tags = models.ManyToManyField(Tag, blank=True)
        changed_at = models.DateTimeField(auto_now=True)

        class Meta:
            ordering = ("name",)

        def __str__(self) -> str:
            return str(self.name)


class ArchivedProject(GeneralManager):
    class Interface(DatabaseInterface):
        name = models.CharField(max_length=200)


class Invoice(models.Model):
    number = models.CharField(max_length=20)
    status = models.CharField(max_length=20, default="open")
    total = models.DecimalField(max_digits=10, decimal_places=2, default=Decimal(0))
    note = models.TextField(blank=True)


class InvoiceLine(models.Model):
    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE)
    text = models.CharField(max_length=100)


class UrgentInvoice(Invoice):
    class Meta:
        proxy = True


class Ticket(models.Model):
    code = models.UUIDField(primary_key=True, default=uuid4)
    creator_id = models.IntegerField(null=True, blank=True)
    title = models.CharField(max_length=100)


class TicketDesk(GeneralManager):
    class Interface(ExistingModelInterface):
        model = "testapp.Ticket"


class InvoiceDesk(GeneralManager):
    class Interface(ExistingModelInterface):
        model = Invoice


class Seat(models.Model):
    """Identified by two fields together."""

    pk = models.CompositePrimaryKey("row", "number")
    row = models.CharField(max_length=2)
    number = models.IntegerField()
    guest = models.CharField(max_length=50, blank=True)


class SeatPlan(GeneralManager):
    class Interface(ExistingModelInterface):
        model = Seat


class Parcel(GeneralManager):
    """A model with methods of its own, which lean on Django's."""

    class Interface(DatabaseInterface):
        label = models.CharField(max_length=50)
        data = models.JSONField(default=dict, blank=True)

        # To a type checker this class is no model yet, so `self` is Any and super() unknown.
        def clean(self: Any) -> None:
            super().clean()  # type: ignore[misc]
            if "count" in self.data:
                self.data["count"] += 1

        def save(self: Any, *args: Any, **kwargs: Any) -> None:
            self.label = self.label.strip()
            super().save(*args, **kwargs)  # type: ignore[misc]

        @classmethod
        def from_db(cls, *args: Any, **kwargs: Any) -> Any:
            return super().from_db(*args, **kwargs)  # type: ignore[misc]

        @property
        def shout(self) -> str:
            return f"{super().__str__()}!"


class Vehicle(models.Model):
    name = models.CharField(max_length=50)


class Truck(Vehicle):
    load = models.IntegerField(default=0)


class TruckDesk(GeneralManager):
    class Interface(ExistingModelInterface):
        model = Truck


class VeryUrgentInvoice(UrgentInvoice):
    class Meta:
        proxy = True


track_changes(Vehicle)
track_changes(Invoice, fields=("status", "total"))
track_changes(InvoiceLine)


def random_code() -> str:
    return get_random_string(12)


class Receipt(models.Model):
    """Much of it differs between any two rows."""

    token = models.UUIDField(default=uuid4)
    code = models.CharField(max_length=12, default=random_code)
    issued_at = models.DateTimeField(default=timezone.now)
    stored_at = models.DateTimeField(db_default=Now())
    text = models.CharField(max_length=50)


class ReceiptCopy(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid4)
    receipt = models.ForeignKey(Receipt, on_delete=models.CASCADE)
    number = models.CharField(max_length=50)
