"""Do the workers' work in this process until nothing is due."""

from itertools import islice
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import ngettext

from general_manager.management.base import WorkflowCommand, count
from general_manager.workflow.workers.tick import Turn, run_inline


class Command(WorkflowCommand):
    help = (
        "Deliver every event that is due and run every execution that is ready, in this process, "
        "until nothing is left. Also recovers the work of dead workers and lost messages."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="stop after one batch")
        parser.add_argument(
            "--limit", type=count, help="at most so many events and so many executions"
        )

    def act(self, options: dict[str, Any]) -> None:
        done = Turn()
        for turn in islice(run_inline(limit=options["limit"]), 1 if options["once"] else None):
            done += turn
            self.say_progress(_in_words(done))
        self.say(_in_words(done))


def _in_words(done: Turn) -> str:
    events = ngettext("%s event processed", "%s events processed", done.entries)
    runs = ngettext("%s execution run", "%s executions run", done.executions)
    return f"{events % f'{done.entries:,}'}, {runs % f'{done.executions:,}'}."
