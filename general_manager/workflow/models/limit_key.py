"""Keys of limits: how many slots each has, and when somebody must look at its line again."""

from datetime import timedelta
from typing import Any, Final

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.core.ids import MAX_ID_LENGTH
from general_manager.workflow.core.limits import Line, Numbers
from general_manager.workflow.models.sql.columns import (
    DatabaseNow,
    IdField,
    PartialIndex,
    Utf8CharField,
)
from general_manager.workflow.models.sql.inserts import insert_new

LONGEST_SCOPE: Final = MAX_ID_LENGTH + 20


class LimitKeyQuerySet(models.QuerySet["WorkflowLimitKey"]):
    """A look locks the row of its key first; without that lock nobody gives a slot."""

    def locked(self, key: str) -> Any:
        """The row, locked until the transaction ends, with the time as *asked_at*; or `None`."""
        rows = self.filter(key=key).select_for_update()
        return rows.annotate(asked_at=DatabaseNow()).first()

    def add(self, line: Line) -> None:
        """Insert the row of a key, unless there is one."""
        fields = ("key", "scope", "label", "most", "rate", "per")
        row = [line.key, line.scope, line.label, *line.numbers]
        insert_new(self.model, fields, [row], self.db, unless=("key",))

    def adopt(self, row: "WorkflowLimitKey", numbers: Numbers) -> None:
        """Write the numbers of this process's definition; the caller has locked the row."""
        row.most, row.rate, row.per = numbers
        self.filter(pk=row.pk).update(most=row.most, rate=row.rate, per=row.per)

    def due(self, limit: int) -> list[str]:
        """Keys of lines at which somebody must look now, in one plain statement."""
        rows = self.filter(look_at__lte=DatabaseNow()).order_by("look_at")
        return list(rows.values_list("key", flat=True)[:limit])

    def look_at_changed(self, scope: str, numbers: Numbers) -> int:
        """Make the lines of a scope due whose numbers are not these."""
        most, rate, per = numbers
        same = Q(most=most) & Q(rate=rate) & Q(per=per)
        lines = self.filter(scope=scope, look_at__isnull=False).exclude(same)
        return lines.update(look_at=DatabaseNow())

    def in_use(self) -> "LimitKeyQuerySet":
        """Keys with a line."""
        return self.filter(look_at__isnull=False)


class WorkflowLimitKey(models.Model):
    """One value of a limit's key: those executions share slots, and wait in one line."""

    #: Hash of the limit and the value; the `slot_key` of its executions. Unique.
    key = Utf8CharField(max_length=64)
    #: ``name:`` and the limit's name, or ``workflow:`` and the workflow's id.
    scope = Utf8CharField(max_length=LONGEST_SCOPE)
    #: For people: the limit and the value, such as ``orders: customer_id=7``.
    label = IdField()
    #: How many may run at once; NULL for any number. The latest look's process has written it.
    most = models.PositiveIntegerField(null=True)
    #: How many may start within `per`; NULL for any number.
    rate = models.PositiveIntegerField(null=True)
    #: The period of `rate`; NULL without one.
    per = models.DurationField(null=True)
    #: When the sweep looks at its line, written by a look that leaves one; NULL without a line.
    look_at = models.DateTimeField(null=True)
    #: When a look last gave a slot, at most a minute late, or its line began; NULL without a line.
    moved_at = models.DateTimeField(null=True)

    objects = LimitKeyQuerySet.as_manager()

    class Meta:
        verbose_name = _("limit")
        verbose_name_plural = _("limits")
        default_permissions = ("view",)
        constraints = (models.UniqueConstraint(fields=["key"], name="gm_limit_key"),)
        indexes = (
            PartialIndex(
                fields=["look_at"], condition=Q(look_at__isnull=False), name="gm_limit_look"
            ),
            PartialIndex(
                fields=["moved_at"], condition=Q(moved_at__isnull=False), name="gm_limit_moved"
            ),
        )

    def __str__(self) -> str:
        return visible(self.label[:MAX_TITLE])

    @property
    def numbers(self) -> Numbers:
        return Numbers(self.most, self.rate, self.per)


ABOUT_A_MINUTE: Final = timedelta(seconds=60)
"""A line is looked at again after so long: looks that were lost, and numbers that changed."""
