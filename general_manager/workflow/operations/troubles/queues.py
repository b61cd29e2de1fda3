"""What is wrong with queues: work that no running worker takes."""

from collections.abc import Iterator

from django.utils.translation import gettext as _

from general_manager.escaping import visible
from general_manager.workflow.models.queue import queues_with_work
from general_manager.workflow.operations.overview import Overview


def queue_troubles(using: str, overview: Overview) -> Iterator[tuple[str, str, str, int, int]]:
    """Code, message, remedy, weight and count for each queue with work that nobody takes."""
    if overview.served is None:
        return
    for name in queues_with_work(using):
        if name and name not in overview.served:
            yield (
                "unserved-queue",
                _("There is work in queue %r, and no running worker takes messages from it.")
                % visible(name),
                _("Start a worker: celery -A <project> worker -Q %s") % visible(name),
                75,
                0,
            )
