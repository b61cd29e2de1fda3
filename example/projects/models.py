"""The company's projects, and dead letters to review."""

from decimal import Decimal

from django.conf import settings
from django.db import models

from general_manager import GeneralManager, track_changes
from general_manager.interface import DatabaseInterface


class Project(GeneralManager):
    """A project with an owner, a budget and a status."""

    class Interface(DatabaseInterface):
        name = models.CharField(max_length=200, unique=True)
        status = models.CharField(
            max_length=20,
            default="draft",
            choices=[("draft", "Draft"), ("active", "Active"), ("closed", "Closed")],
        )
        budget = models.DecimalField(max_digits=12, decimal_places=2, default=Decimal(0))
        owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT)

        class Meta:
            ordering = ("name",)

        def __str__(self) -> str:
            return self.name


# Saves in the admin bypass the manager; tracking makes them emit events too.
track_changes(Project.Interface.model)


class DeadLetter(models.Model):
    """An event whose handler failed for good, recorded for a review."""

    event_id = models.CharField(max_length=255)
    event_name = models.CharField(max_length=255)
    error = models.TextField()
    noted_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-noted_at",)

    def __str__(self) -> str:
        return f"{self.event_name}: {self.error}"
