"""What is wrong with deliveries in order, in words, for the health of the system."""

from collections.abc import Iterable, Iterator
from typing import Final

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from general_manager.workflow.operations.overview import Overview
from general_manager.workflow.operations.tables import Tables

MOST_LANES_NAMED: Final = 5


def lane_troubles(
    tables: Tables, overview: Overview, aliases: Iterable[str]
) -> Iterator[tuple[str, str, str, int, int]]:
    """Code, message, remedy, weight and count. Reads keys only if there is something to name."""
    if overview.blocked_lanes:
        yield (
            "blocked-lane",
            ngettext(
                "A dead letter blocks the events of %s.",
                "Dead letters block the events of %s.",
                overview.blocked_lanes,
            )
            % _named(tables, aliases),
            _(
                "Fix the cause, then requeue, discard or skip the dead letter on the lane's page, "
                "or: manage.py workflow_requeue_dead_letters"
            ),
            65,
            overview.blocked_lanes,
        )
    if overview.late_lanes:
        yield (
            "late-lanes",
            ngettext(
                "The events of %d key are due in order, and no worker delivers them.",
                "The events of %d keys are due in order, and no worker delivers them.",
                overview.late_lanes,
            )
            % overview.late_lanes,
            _("Are workers running, and do they register the ordered handler?"),
            70,
            overview.late_lanes,
        )
    if overview.late_items:
        yield (
            "late-items",
            ngettext(
                "%d event of the last day took its place in order at its drain.",
                "%d events of the last day took their places in order at their drains.",
                overview.late_items,
            )
            % overview.late_items,
            _(
                "Their publisher did not register the ordered handler, so their order is not "
                "promised. Register it in every process that publishes."
            ),
            20,
            overview.late_items,
        )


def _named(tables: Tables, aliases: Iterable[str]) -> str:
    blocked = (tables.using(alias).lanes.exclude(blocked_since=None) for alias in aliases)
    names = (
        tables.named(rows.order_by("blocked_since"), "ordering_key", MOST_LANES_NAMED)
        for rows in blocked
    )
    return ", ".join(filter(None, names))
