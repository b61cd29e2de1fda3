"""Heartbeats: when a duty was last done, from which health sees whether Beat is running."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.models.sql.columns import (
    DatabaseNow,
    IdField,
    Utf8CharField,
    from_now,
)
from general_manager.workflow.models.sql.inserts import insert_new


class HeartbeatQuerySet(models.QuerySet["WorkflowHeartbeat"]):
    def beat(
        self,
        duty: str,
        by: str,
        *,
        unless_within: timedelta = timedelta(0),
        queues: Sequence[str] | None = None,
    ) -> bool:
        """Record that *duty* is done now; false if it was done less than *unless_within* ago.

        Ignores a time that is further in the future than that: the clock was set back since.
        """
        is_old = Q(at__lte=from_now(-unless_within)) | Q(at__gt=from_now(unless_within))
        values: dict[str, Any] = {} if queues is None else {"queues": list(queues)}
        if self.filter(is_old, duty=duty).update(at=DatabaseNow(), by=by[:255], **values):
            return True
        if self.filter(duty=duty).exists():
            return False
        row = [duty, by[:255], None if queues is None else list(queues)]
        insert_new(self.model, ("duty", "by", "queues"), [row], self.db, unless=("duty",))
        return True

    def forget(self, prefix: str, older_than: timedelta) -> int:
        """Delete duties that begin with *prefix* and were last done longer ago than that."""
        return self.filter(duty__startswith=prefix, at__lt=from_now(-older_than)).delete()[0]


class WorkflowHeartbeat(models.Model):
    """When a duty was last done, and where."""

    #: Name of the duty, such as ``tick``, or of a running worker; unique.
    duty = IdField()
    #: When it was last done, on the database's clock.
    at = models.DateTimeField(db_default=DatabaseNow())
    #: Host and process that did it.
    by = Utf8CharField(max_length=255, db_default="")

    #: Names of the queues from which a worker takes messages; NULL for other duties.
    queues = models.JSONField(null=True)

    objects = HeartbeatQuerySet.as_manager()

    class Meta:
        verbose_name = _("heartbeat")
        default_permissions = ("view",)
        constraints = (models.UniqueConstraint(fields=["duty"], name="gm_heartbeat_duty"),)

    def __str__(self) -> str:
        return visible(f"{self.duty} at {self.at}"[:MAX_TITLE])
