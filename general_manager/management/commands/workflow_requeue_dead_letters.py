"""Requeue dead letters, all or some."""

from collections import Counter
from functools import partial
from typing import Any, Final

from django.core.management.base import CommandParser
from django.utils.translation import ngettext

from general_manager.escaping import visible
from general_manager.management.base import WorkflowCommand, count, moment
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.operations.reach import Reach
from general_manager.workflow.outbox.requeue import (
    Filter,
    count_by_registration,
    requeue_dead_letters,
)

MOST_NAMED: Final = 1000
"""Dead letters that are looked through for the names of their registrations."""


class Command(WorkflowCommand):
    help = "Requeue dead letters, oldest first, with a fresh retry budget."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--limit", type=count, default=1000, help="requeue at most so many (default: 1000)"
        )
        parser.add_argument(
            "--handler", help="only those of this handler: its dotted path or registration id"
        )
        parser.add_argument("--event-type", help="only those of events of this type")
        parser.add_argument("--event-name", help="only those of events of this name")
        parser.add_argument(
            "--since",
            type=moment,
            help="only those that failed for good since then: a date, a time, or an age such as 2h",
        )
        parser.add_argument("--dry-run", action="store_true", help="only count them, by handler")

    def act(self, options: dict[str, Any]) -> None:
        names = ("handler", "event_type", "event_name", "since")
        which = Filter(**{name: options[name] for name in names})
        reach, limit = Reach(), options["limit"]
        if options["dry_run"]:
            counted = _count(which, limit, reach)
            for registration, number in counted:
                self.say(f"{number:>8,}  {visible(registration)}")
            done = sum(one for _, one in counted)
            text = ngettext(
                "%s dead letter would be requeued.", "%s dead letters would be requeued.", done
            )
            self.say(text % f"{done:,}")
        else:
            done = 0
            for alias in outboxes():
                act = partial(requeue_dead_letters, which, limit=limit - done, using=alias)
                for number in reach.each(alias, act):
                    done += number
                    self.say_progress(_in_words(done))
            reach.fail_if_none(outboxes())
            self.say(_in_words(done))
        if not done:
            self._name_others(which, reach)
        self.end_without(reach, but="Its dead letters wait: run the command again.")

    def _name_others(self, which: Filter, reach: Reach) -> None:
        """A handler's name may be mistyped: say which ones have dead letters."""
        if which.handler is None:
            return
        others = [one for one, _ in _count(Filter(), MOST_NAMED, reach)]
        names = visible(", ".join(others)) or "none"
        self.say(f"Registrations with dead letters: {names}")


def _count(which: Filter, limit: int, reach: Reach) -> list[tuple[str, int]]:
    """Registration ids with the numbers of their dead letters, most first."""
    counted = Counter[str]()
    for alias in outboxes():
        left = limit - counted.total()
        act = partial(count_by_registration, which, limit=left, using=alias)
        counted.update(dict(reach.read(alias, act)))
    reach.fail_if_none(outboxes())
    return counted.most_common()


def _in_words(count: int) -> str:
    text = ngettext("%s dead letter requeued.", "%s dead letters requeued.", count)
    return text % f"{count:,}"
