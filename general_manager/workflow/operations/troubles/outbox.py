"""What is wrong with deliveries, in words, for the health of the system."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from general_manager.conf import get_workflow_settings
from general_manager.durations import in_words
from general_manager.workflow.operations.numbers import number
from general_manager.workflow.operations.overview import Overview

OLD: Final = timedelta(minutes=5)
"""Older undelivered events are stuck, or the workers are overloaded."""


def outbox_troubles(overview: Overview) -> Iterator[tuple[str, str, str, int, int]]:
    """Code, message, remedy, weight and count."""
    oldest = overview.oldest_undelivered
    if oldest is not None and overview.at - oldest > OLD:
        yield (
            "old-work",
            _("The oldest undelivered event is %s old.") % in_words(overview.at - oldest),
            _(
                "Check the outbox: does a handler fail? Do workers register every handler? Are "
                "there enough workers? Events of a killed worker wait until its lease expires."
            ),
            60,
            overview.undelivered,
        )
    if overview.long_deliveries:
        limit = in_words(get_workflow_settings().delivery_running_timeout)
        yield (
            "long-deliveries",
            ngettext(
                "%(count)s event has been with its worker for more than %(limit)s.",
                "%(count)s events have been with their workers for more than %(limit)s.",
                overview.long_deliveries,
            )
            % {"count": number(overview.long_deliveries), "limit": limit},
            _("A handler hangs or is slow. Let it start a workflow instead."),
            50,
            overview.long_deliveries,
        )
    if overview.dead:
        yield (
            "dead-letters",
            ngettext("%s dead letter.", "%s dead letters.", overview.dead) % number(overview.dead),
            _("Fix the cause, then requeue: manage.py workflow_requeue_dead_letters"),
            40,
            overview.dead,
        )
