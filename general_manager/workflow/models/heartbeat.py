"""The last time a duty was done: how health and the admin know that Beat ticks."""

from datetime import timedelta

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.models.columns import DatabaseNow, IdField, Utf8CharField, in_
from general_manager.workflow.models.inserts import insert_new


class HeartbeatQuerySet(models.QuerySet["WorkflowHeartbeat"]):
    def beat(self, duty: str, by: str, *, unless_within: timedelta = timedelta(0)) -> bool:
        """Remember that *duty* is done now; false if it was done less than *unless_within* ago.

        A time that is further ahead than that was written before a clock was set back; it counts
        for nothing.
        """
        is_old = Q(at__lte=in_(-unless_within)) | Q(at__gt=in_(unless_within))
        if self.filter(is_old, duty=duty).update(at=DatabaseNow(), by=by[:255]):
            return True
        if self.filter(duty=duty).exists():
            return False
        insert_new(self.model, ("duty", "by"), [[duty, by[:255]]], self.db, unless=("duty",))
        return True

    def forget(self, prefix: str, older_than: timedelta) -> int:
        """Drop duties that begin with *prefix* and were last done longer ago than that."""
        return self.filter(duty__startswith=prefix, at__lt=in_(-older_than)).delete()[0]


class WorkflowHeartbeat(models.Model):
    """When a duty was last done, and where."""

    duty = IdField()
    at = models.DateTimeField(db_default=DatabaseNow())
    by = Utf8CharField(max_length=255, db_default="")

    objects = HeartbeatQuerySet.as_manager()

    class Meta:
        verbose_name = _("heartbeat")
        default_permissions = ("view",)
        constraints = (models.UniqueConstraint(fields=["duty"], name="gm_heartbeat_duty"),)

    def __str__(self) -> str:
        return visible(f"{self.duty} at {self.at}"[:MAX_TITLE])
