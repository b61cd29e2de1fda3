"""Delete finished rows that are old enough."""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import ngettext

from general_manager.conf import get_workflow_settings
from general_manager.management.base import WorkflowCommand, age, count_up_to
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.operations.reach import Reach
from general_manager.workflow.workers.pruning import (
    MOST_AT_ONCE,
    PRUNE_BATCH,
    Pruned,
    count_prunable,
    find_kept,
    prune,
)


class Command(WorkflowCommand):
    help = (
        "Delete events delivered and executions ended before a given age, with their deliveries, "
        "steps and history. Undelivered events and active executions are never deleted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than", type=age, help="such as 30d or 12h (default: WORKFLOW_RETENTION_DAYS)"
        )
        parser.add_argument(
            "--include-failed",
            action="store_true",
            help="also delete dead letters and failed executions",
        )
        parser.add_argument(
            "--batch-size",
            type=count_up_to(MOST_AT_ONCE),
            default=PRUNE_BATCH,
            help=f"rows of each kind in one transaction (default: {PRUNE_BATCH})",
        )
        parser.add_argument("--dry-run", action="store_true", help="only count the rows")

    def act(self, options: dict[str, Any]) -> None:
        older_than = options["older_than"] or get_workflow_settings().retention
        if older_than is None:
            raise CommandError(
                "No age is given. Pass --older-than, such as 30d, or set WORKFLOW_RETENTION_DAYS."
            )
        reach, done, kept = Reach(), Pruned(), Counter[str]()
        act: Callable[[], Iterable[Pruned]]
        for alias in outboxes():
            which = {"include_failed": options["include_failed"], "using": alias}
            if options["dry_run"]:
                act = partial(_counted, older_than, **which)
            else:
                act = partial(prune, older_than, batch_size=options["batch_size"], **which)
            for pruned in reach.each(alias, act):
                done += pruned
                self.say_progress(f"{_in_words(done)} deleted")
            kept.update(dict(reach.read(alias, partial(_kept, older_than, **which))))
        reach.fail_if_none(outboxes())
        self.say(f"{_in_words(done)} {'would be ' if options['dry_run'] else ''}deleted.")
        self._name_kept(kept)
        self.end_without(reach, but="Its rows are kept: run the command again.")

    def _name_kept(self, kept: dict[str, int]) -> None:
        for who, count in kept.items():
            text = ngettext(
                "%(count)s row kept because of %(who)s, which refers to it.",
                "%(count)s rows kept because of %(who)s, which refers to them.",
                count,
            )
            self.say(text % {"count": f"{count:,}", "who": who})


def _counted(older_than: timedelta, **which: Any) -> list[Pruned]:
    return [count_prunable(older_than, **which)]


def _kept(older_than: timedelta, **which: Any) -> Iterable[tuple[str, int]]:
    return find_kept(older_than, **which).items()


def _in_words(pruned: Pruned) -> str:
    events = ngettext("%s event", "%s events", pruned.events) % f"{pruned.events:,}"
    runs = ngettext("%s execution", "%s executions", pruned.executions)
    return f"{events} and {runs % f'{pruned.executions:,}'}"
