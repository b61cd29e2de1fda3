"""Lines of limits for pages and health: their lengths, who holds the slots, which stand still."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from general_manager.escaping import visible
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowLimitKey
from general_manager.workflow.models.executions.lines import holding, place_in_line
from general_manager.workflow.models.sql.columns import from_now
from general_manager.workflow.models.sql.counting import count_capped

STANDS_STILL: Final = timedelta(hours=1)
"""A line in which nobody got a slot for so long: what holds the slots hangs, or is slow."""

LINES_NAMED: Final = 5
PLACES: Final = 1_000
"""Later places are not counted."""


class Counted(Protocol):
    """An overview's number of lines."""

    @property
    def standing_lines(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LineNow:
    """One line: who waits, and what holds the slots; both counted up to a cap."""

    label: str
    numbers: str
    waiting: int
    holders: int
    moved_at: datetime | None


def counted_lines(using: str) -> list["QuerySet[Any]"]:
    """Lines, executions in them, and lines that stand still, for one statement that counts."""
    lines = WorkflowLimitKey.objects.using(using).in_use()
    waiting = WorkflowExecutionRecord.objects.using(using).filter(waits_slot__isnull=False)
    return [lines, waiting, standing_still(using)]


def standing_still(using: str) -> "QuerySet[Any]":
    """Lines in which nobody got a slot for long. A rate's period is not too long."""
    lines = WorkflowLimitKey.objects.using(using).exclude(per__gte=STANDS_STILL)
    return lines.filter(moved_at__lt=from_now(-STANDS_STILL))


def lines_in_use(using: str, most: int = LINES_NAMED) -> list[LineNow]:
    """The lines that have not moved for longest; two statements."""
    rows = list(
        WorkflowLimitKey.objects.using(using)
        .filter(moved_at__isnull=False)
        .order_by("moved_at")[:most]
    )
    if not rows:
        return []
    executions = WorkflowExecutionRecord.objects.using(using)
    parts = [executions.filter(waits_slot=row.key) for row in rows]
    parts += [holding(executions, row.key) for row in rows]
    counts = count_capped(parts, using)
    return [
        LineNow(row.label, str(row.numbers), counts[at], counts[at + len(rows)], row.moved_at)
        for at, row in enumerate(rows)
    ]


def line_troubles(using: str, counted: Counted) -> Iterator[tuple[str, str, str, int, int]]:
    """Code, message, remedy, weight and count; reads names only if a line stands still."""
    still = counted.standing_lines
    if not still:
        return
    rows = standing_still(using).order_by("moved_at").values_list("label", flat=True)
    names = ", ".join(visible(label) for label in rows[:LINES_NAMED])
    yield (
        "standing-lines",
        ngettext(
            "In the line of limit %(names)s nobody got a slot for an hour.",
            "In the lines of limits %(names)s nobody got a slot for an hour.",
            still,
        )
        % {"names": names},
        _(
            "Do the executions that hold the slots hang? Find them by the workflow, running, and "
            "give the workflow a timeout. Does a tick run?"
        ),
        65,
        still,
    )


def place_in_words(record: Any) -> str:
    """``orders: customer_id=7, place 3``; empty if it does not wait for a slot of a limit."""
    if record.waits_slot is None or not record.limits:
        return ""
    rows = WorkflowExecutionRecord.objects.using(record._state.db)
    place = place_in_line(rows, record, PLACES)
    where = f"{PLACES:,}+" if place > PLACES else f"{place:,}"
    return f"{record.limits['label']}, place {where}"


def limits_in_words(record: Any) -> str:
    """The limit of an execution with its numbers; empty without one."""
    if not record.limits:
        return ""
    row = WorkflowLimitKey.objects.using(record._state.db).filter(key=record.slot_key).first()
    numbers = "" if row is None else f" ({row.numbers})"
    return f"{record.limits['label']}{numbers}"
