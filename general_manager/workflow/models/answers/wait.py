"""Open waits by the events that answer them, so that an event finds its waits by an index."""

from collections.abc import Collection, Iterable
from typing import Any, Final

from django.db import connections, models
from django.utils.translation import gettext_lazy as _

from general_manager.cursors import cursor_on
from general_manager.escaping import MAX_TITLE, visible
from general_manager.names import APP_LABEL
from general_manager.workflow.core.matching import MAILBOX_LENGTH, mailbox_of, shape_of
from general_manager.workflow.durable.answers.objects import OBJECT_EVENTS
from general_manager.workflow.durable.answers.sources import Source, SourceKind
from general_manager.workflow.models.sql.columns import IdField, Utf8CharField


class EventWaitQuerySet(models.QuerySet["WorkflowEventWait"]):
    """Rows of open waits. A look deletes those of a wait that is over."""

    def open(self, execution: Any, step: str, sources: Iterable[Source], *, cut: bool) -> None:
        """Have events find the wait *step*. Lock the execution before.

        *cut*: it looks back further than retention keeps events.
        """
        self.filter(execution_id=execution.pk).exclude(step=step).delete()  # of earlier waits
        rows = [
            self.model(
                execution_id=execution.pk,
                step=step,
                event_key=key,
                shape=shape_of(match),
                mailbox=mailbox_of(key, match),
                is_cut=cut,
            )
            for key, match in dict(_subscriptions(sources)).items()
        ]
        # In one order: two runs that insert the same keys wait, and do not deadlock.
        self.bulk_create(sorted(rows, key=lambda one: one.mailbox))

    def shapes(self, keys: Collection[str]) -> dict[str, list[str]]:
        """The shapes of open matches by key; one statement, however many waits are open."""
        if not keys:
            return {}
        rows: Iterable[tuple[str, str]]
        if connections[self.db].vendor == "postgresql":
            with cursor_on(connections[self.db]) as cursor:
                cursor.execute(_SHAPES.format(table=self.model._meta.db_table), [list(keys)])
                rows = cursor.fetchall()
        else:  # they skip along the index by themselves
            rows = self.filter(event_key__in=keys).values_list("event_key", "shape").distinct()
        found: dict[str, list[str]] = {}
        for key, shape in rows:
            found.setdefault(key, []).append(shape)
        return found

    def of_mailboxes(self, mailboxes: Collection[str]) -> list[tuple[str, int]]:
        """Mailbox and execution of the waits with one of these, in the order of executions."""
        rows = self.filter(mailbox__in=mailboxes).order_by("execution_id")
        return list(rows.values_list("mailbox", "execution_id"))

    def close(self, execution: Any) -> None:
        """No event finds the execution any more. Lock it before."""
        self.filter(execution_id=execution.pk).delete()


class WorkflowEventWait(models.Model):
    """An event that answers an open wait. It is deleted with the wait's outcome, or soon after."""

    #: The execution that waits.
    execution = models.ForeignKey(
        f"{APP_LABEL}.WorkflowExecutionRecord",
        on_delete=models.CASCADE,
        related_name="event_waits",
    )
    #: Name of the wait.
    step = IdField()
    #: Type or name of the event.
    event_key = IdField()
    #: The paths of the match as JSON, sorted.
    shape = IdField()
    #: Hash of the key and of the values of the match.
    mailbox = Utf8CharField(max_length=MAILBOX_LENGTH)
    #: Whether the wait looks back further than retention keeps events.
    is_cut = models.BooleanField(db_default=False)

    objects = EventWaitQuerySet.as_manager()

    class Meta:
        verbose_name = _("wait for an event")
        verbose_name_plural = _("waits for events")
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=["event_key", "shape"], name="gm_event_wait_shape"),
            models.Index(fields=["mailbox"], name="gm_event_wait_mailbox"),
        )

    def __str__(self) -> str:
        return visible(f"{self.step}: {self.event_key}"[:MAX_TITLE])


def _subscriptions(sources: Iterable[Source]) -> Iterable[tuple[str, Any]]:
    for one in sources:
        if one.kind is SourceKind.EVENT:
            yield one.name, one.match
        elif one.kind is SourceKind.STATE:
            yield from ((key, one.about) for key in OBJECT_EVENTS)


_SHAPES: Final = """
WITH RECURSIVE found (event_key, shape) AS (
    SELECT key, (SELECT min(shape) FROM {table} WHERE event_key = key)
    FROM unnest(%s::text[]) AS keys (key)
    UNION ALL
    SELECT found.event_key, (
        SELECT min(one.shape) FROM {table} one
        WHERE one.event_key = found.event_key AND one.shape > found.shape
    )
    FROM found WHERE found.shape IS NOT NULL
)
SELECT event_key, shape FROM found WHERE shape IS NOT NULL"""
"""PostgreSQL does not skip along an index by itself: one step of it for each shape."""
