"""What is wrong with schedules, in words, for the health of the system."""

from collections.abc import Iterator
from typing import Any, Final, Protocol

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.operations.schedules import ahead_of_clock, late, unregistered
from general_manager.workflow.operations.tables import Tables
from general_manager.workflow.schedules import all_schedules

MOST_SCHEDULES_NAMED: Final = 5


class Counted(Protocol):
    """An overview's numbers of schedules."""

    @property
    def late_schedules(self) -> int: ...
    @property
    def unregistered_schedules(self) -> int: ...
    @property
    def ahead_schedules(self) -> int: ...


TroubleParts = tuple[str, str, str, int, int]
"""Code, message, remedy, weight and count."""


def schedule_troubles(
    tables: Tables, counted: Counted, *, is_ticking: bool
) -> Iterator[TroubleParts]:
    """What is wrong with schedules. Reads their names only if there is something to name."""
    rows = tables.schedules
    broken = [one.name for one in all_schedules().values() if one.problem]
    if broken:
        yield (
            "broken-schedules",
            ngettext(
                "Schedule %s is registered with a mistake and never runs.",
                "Schedules %s are registered with mistakes and never run.",
                len(broken),
            )
            % _in_short(broken),
            _("Correct it: manage.py check"),
            75,
            len(broken),
        )
    if counted.late_schedules:
        yield (
            "late-schedules",
            ngettext(
                "Schedule %s is late: its slot is due and has not started.",
                "Schedules %s are late: their slots are due and have not started.",
                counted.late_schedules,
            )
            % _named(tables, late(rows)),
            _("Does a tick run? The schedule's page shows if starting fails, and why."),
            85,
            counted.late_schedules,
        )
    if counted.unregistered_schedules and is_ticking:
        yield (
            "unregistered-schedules",
            ngettext(
                "No running process registers schedule %s.",
                "No running process registers schedules %s.",
                counted.unregistered_schedules,
            )
            % _named(tables, unregistered(rows)),
            _(
                "Do all workers run the newest code? If it was taken out of the code, remove it on "
                "its page."
            ),
            35,
            counted.unregistered_schedules,
        )
    if counted.ahead_schedules:
        yield (
            "schedules-ahead",
            ngettext(
                "Schedule %s has run slots of the future and starts nothing until they have come.",
                "Schedules %s have run slots of the future and start nothing until they have come.",
                counted.ahead_schedules,
            )
            % _named(tables, ahead_of_clock(rows)),
            _("The database's clock was set back. To start from now, remove it on its page."),
            65,
            counted.ahead_schedules,
        )


def _named(tables: Tables, rows: "QuerySet[Any]") -> str:
    return tables.named(rows.order_by("name"), "name", MOST_SCHEDULES_NAMED)


def _in_short(names: list[str]) -> str:
    more = ", …" if len(names) > MOST_SCHEDULES_NAMED else ""
    return ", ".join(visible(one[:MAX_TITLE]) for one in names[:MOST_SCHEDULES_NAMED]) + more
