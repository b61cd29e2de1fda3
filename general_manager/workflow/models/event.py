"""Stored events: one row for each event id."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.events import WorkflowEvent, stored_event
from general_manager.workflow.models.sql.columns import DatabaseNow, IdField, PartialIndex


class WorkflowEventRecord(models.Model):
    """An event, stored in the transaction of the change that it reports."""

    #: Unique: publishing an id twice stores one row. `enqueue_many` writes the whole row.
    event_id = IdField()
    #: What happened, as ``namespace.thing.verb``; a registration can match it.
    event_type = IdField()
    #: The short name, which a registration can match too; NULL if the publisher gave none.
    event_name = IdField(null=True, blank=True)
    #: Where it comes from, as the publisher says; NULL if it does not.
    source = IdField(null=True, blank=True)
    #: The business object that it is about, ``Project 42``, for searches; NULL if there is none.
    subject = IdField(null=True)
    #: The encoded payload: JSON, bounded by `WORKFLOW_EVENT_MAX_BYTES`.
    payload = models.JSONField()
    #: Facts about the event that the publisher or this package adds, such as the model.
    metadata = models.JSONField(default=dict)
    #: Orders its delivery to registrations that ask for it; NULL for the subject, if there is one.
    ordering_key = IdField(null=True)
    #: When it happened, as the publisher says; NULL if it does not.
    occurred_at = models.DateTimeField(null=True, blank=True)
    #: When it was stored, on the database's clock.
    published_at = models.DateTimeField(db_default=DatabaseNow(), editable=False)

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        default_permissions = ("view",)
        permissions = (("redeliver_event", _("Can deliver an event again")),)
        constraints = (
            models.UniqueConstraint(
                fields=["event_id"],
                name="gm_event_id",
                opclasses=["varchar_pattern_ops"],  # people search by how an id begins
            ),
        )
        indexes = (
            models.Index(fields=["event_type", "id"], name="gm_event_type"),
            PartialIndex(  # what waits look for
                fields=["event_name", "id"],
                condition=models.Q(event_name__isnull=False),
                name="gm_event_name",
            ),
            PartialIndex(
                fields=["subject", "id"],
                condition=models.Q(subject__isnull=False),
                name="gm_event_subject",
            ),
        )

    def __str__(self) -> str:
        return visible(f"{self.event_name or self.event_type} {self.event_id}"[:MAX_TITLE])

    def to_event(self) -> WorkflowEvent:
        return stored_event(
            self.event_id,
            self.event_type,
            self.payload,
            self.event_name,
            self.source,
            self.occurred_at,
            self.metadata,
            self.ordering_key,
        )
