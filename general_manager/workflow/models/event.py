"""Events as they are stored, once each."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.events import WorkflowEvent, stored_event
from general_manager.workflow.models.columns import DatabaseNow, IdField, OwedIndex


class WorkflowEventRecord(models.Model):
    """An event, stored in the transaction of the change that it tells of."""

    event_id = IdField()
    event_type = IdField()
    event_name = IdField(null=True, blank=True)
    source = IdField(null=True, blank=True)
    #: What the event is about, as `events.subject_of` says; written with it, and searched.
    subject = IdField(null=True)
    payload = models.JSONField()
    metadata = models.JSONField(default=dict)
    occurred_at = models.DateTimeField(null=True, blank=True)
    published_at = models.DateTimeField(db_default=DatabaseNow(), editable=False)

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        default_permissions = ("view",)
        permissions = (("replay_event", _("Can have an event delivered again")),)
        constraints = (
            models.UniqueConstraint(
                fields=["event_id"],
                name="gm_event_id",
                opclasses=["varchar_pattern_ops"],  # people search by how an id begins
            ),
        )
        indexes = (
            models.Index(fields=["event_type", "id"], name="gm_event_type"),
            OwedIndex(
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
        )
