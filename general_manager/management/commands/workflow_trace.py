"""The timeline of one event or execution."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from general_manager.management.base import WorkflowCommand, add_format
from general_manager.workflow.story import find_story


class Command(WorkflowCommand):
    help = "Tell what happened to one event or execution. Secrets are blotted out."

    def add_arguments(self, parser: CommandParser) -> None:
        # Not required by argparse: call_command(..., id=...) fails inside Django for what is.
        parser.add_argument("id", metavar="EVENT_OR_EXECUTION_ID", nargs="?")
        add_format(parser)

    def act(self, options: dict[str, Any]) -> None:
        if not options["id"]:
            raise CommandError("Which one? Give the id of an event or an execution.")
        story = find_story(options["id"])
        if story is None:
            raise CommandError(
                f"There is no event and no execution with the id {options['id']!r}. "
                "Was it pruned, or is it kept by another process, as in local mode?"
            )
        if options["format"] == "json":
            self.say_json(story.to_json())
            return
        for line in story.lines():
            self.say(line)
