"""How things stand, for people and for monitors."""

import sys
from typing import Any

from django.core.management.base import CommandParser

from general_manager.conf import get_workflow_settings
from general_manager.durations import in_words
from general_manager.escaping import visible
from general_manager.management.base import WorkflowCommand, add_format
from general_manager.workflow.health import Health, check_health, number


class Command(WorkflowCommand):
    help = (
        "Say how things stand and what is wrong. Exit code: 0 all is well, 1 something is wrong, "
        "2 the database could not be asked."
    )
    requires_system_checks = ()  # a monitor asks often

    def add_arguments(self, parser: CommandParser) -> None:
        add_format(parser)

    def act(self, options: dict[str, Any]) -> None:
        health = check_health()
        if options["format"] == "json":
            self.say_json(health.to_json())
        else:
            self._tell(health)
        if not health.is_well:
            sys.exit(1)

    def _tell(self, health: Health) -> None:
        if health.is_well:
            self.say(self.style.SUCCESS("All is well."))
        for trouble in health.troubles:
            self.say(f"{self.style.ERROR(visible(trouble.message))} [{trouble.code}]")
            self.say(f"    {trouble.remedy}")
        settings = get_workflow_settings()
        if settings.mode == "local":
            self.say("Local mode keeps events and executions in the process that has them:")
            self.say("only what is stored in tables is seen from here.")
        seen = health.overview
        states = {name: number(count) for name, count in seen.states.items()}
        oldest = "" if seen.oldest_owed is None else (
            f"; the oldest is {in_words(seen.at - seen.oldest_owed)} old"
        )  # fmt: skip
        tick = "never" if seen.last_tick is None else (
            f"{in_words(seen.at - seen.last_tick)} ago by {visible(seen.ticked_by)}"
        )  # fmt: skip
        self.say()
        for name, fact in (
            ("executions", "{pending} pending, {running} running, {waiting} waiting"),
            ("in a day", "{completed} completed, {failed} failed, {cancelled} cancelled"),
        ):
            self.say(f"  {name:<14}{fact.format(**states)}")
        self.say(
            f"  outbox        {number(seen.owed)} undelivered, "
            f"{number(seen.claimed)} claimed{oldest}"
        )
        self.say(f"  dead letters  {number(seen.dead)}")
        self.say(f"  last tick     {tick}")
        if settings.beat_enabled:
            self.say(f"  Beat          {visible(', '.join(seen.beats)) or 'not running'}")
        if settings.run_async:
            self.say(f"  workers       {visible(', '.join(seen.workers)) or 'none'}")
