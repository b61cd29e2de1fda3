"""Show what removing the app would lose, and delete its traces in other tables."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from general_manager.management.base import WorkflowCommand
from general_manager.workflow.operations.uninstalling import (
    Losses,
    find_dependants,
    find_leftovers,
    find_losses,
    forget_leftovers,
)


class Command(WorkflowCommand):
    help = (
        "Show what removing general_manager would lose and what to do first. Changes nothing "
        "without --forget."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--forget",
            action="store_true",
            help="delete our permissions, content types and entries in Beat's schedule",
        )
        parser.add_argument(
            "--lose",
            action="store_true",
            help="do so even if there are undelivered events or active executions",
        )

    def act(self, options: dict[str, Any]) -> None:
        losses = find_losses()
        if options["forget"]:
            if any(losses.values()) and not options["lose"]:
                raise CommandError(
                    "There are undelivered events or active executions. Run this command without "
                    "--forget to count them. Let them finish, or add --lose."
                )
            self._say_rows("Deleted", forget_leftovers())
            return
        for alias, lost in losses.items():
            self._say_losses(alias, lost)
            self._say_dependants(alias)
        self._say_rows("Left behind by migrations", find_leftovers())
        self.say("For the steps in order, see 'Taking the app off again' in the documentation.")

    def _say_losses(self, alias: str, lost: Losses) -> None:
        states = ", ".join(f"{count:,} {state}" for state, count in lost.executions.items())
        self.say(f"Database {alias!r} would lose:")
        self.say(f"  undelivered events  {lost.undelivered:,}")
        self.say(f"  dead letters        {lost.dead_letters:,}")
        self.say(f"  active executions   {states}")

    def _say_dependants(self, alias: str) -> None:
        found = find_dependants(alias)
        if not found:
            return
        self.say(
            "These migrations of your project depend on ours. `migrate general_manager zero` would "
            "reverse them first and drop their tables. Remove the dependency from each file:"
        )
        for name in found:
            self.say(f"  {name}")

    def _say_rows(self, what: str, rows: dict[str, int]) -> None:
        said = ", ".join(f"{name} ({count:,})" for name, count in rows.items())
        self.say(f"{what}: {said or 'nothing'}.")
