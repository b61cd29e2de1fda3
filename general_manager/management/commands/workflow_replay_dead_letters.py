"""Owe dead letters again, all or some."""

from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import ngettext

from general_manager.escaping import visible
from general_manager.management.base import WorkflowCommand, count, moment
from general_manager.workflow.dead_letters import (
    Filter,
    count_by_registration,
    replay_dead_letters,
)


class Command(WorkflowCommand):
    help = "Owe dead letters again, oldest first, with all their attempts before them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--limit", type=count, default=1000, help="at most so many (1000)")
        parser.add_argument(
            "--handler", help="only of this handler: its dotted path, or a registration's id"
        )
        parser.add_argument("--event-type", help="only of events of this type")
        parser.add_argument("--event-name", help="only of events of this name")
        parser.add_argument(
            "--since", type=moment, help="only that died since then: a date, a time, or 2h ago"
        )
        parser.add_argument("--dry-run", action="store_true", help="only say how many")

    def act(self, options: dict[str, Any]) -> None:
        names = ("handler", "event_type", "event_name", "since")
        which = Filter(**{name: options[name] for name in names})
        if options["dry_run"]:
            counted = count_by_registration(which, limit=options["limit"])
            for registration, number in counted:
                self.say(f"{number:>8,}  {visible(registration)}")
            total = sum(one for _, one in counted)
            text = ngettext(
                "%s dead letter would be requeued.", "%s dead letters would be requeued.", total
            )
            self.say(text % f"{total:,}")
            return
        done = 0
        for number in replay_dead_letters(which, limit=options["limit"]):
            done += number
            self.say_on_the_way(_in_words(done))
        self.say(_in_words(done))


def _in_words(count: int) -> str:
    text = ngettext("%s dead letter requeued.", "%s dead letters requeued.", count)
    return text % f"{count:,}"
