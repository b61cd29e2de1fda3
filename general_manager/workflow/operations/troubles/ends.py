"""What is wrong with parents and children, in words, for the health of the system."""

from collections.abc import Iterator

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from general_manager.workflow.operations.overview import Overview


def end_troubles(overview: Overview) -> Iterator[tuple[str, str, str, int, int]]:
    """Code, message, remedy, weight and count."""
    if not overview.late_ends:
        return
    yield (
        "late-ends",
        ngettext(
            "%d execution has ended, but its parent was not told, or its children go on.",
            "%d executions have ended, but their parents were not told, or their children go on.",
            overview.late_ends,
        )
        % overview.late_ends,
        _("The sweep does both. Do Beat and the workers run? Does their log say why it fails?"),
        70,
        overview.late_ends,
    )
