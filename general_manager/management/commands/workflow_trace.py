"""The timeline of one event or execution."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from general_manager.escaping import visible
from general_manager.management.base import WorkflowCommand, add_format
from general_manager.workflow.story import Found, find_all, find_story
from general_manager.workflow.timeline import in_zone


class Command(WorkflowCommand):
    help = "Show what happened to one event or execution. Secrets are redacted."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "id",
            metavar="WHAT",
            # Not required by argparse: call_command(..., id=...) fails inside Django for what is.
            nargs="?",
            help="the id of an event or execution, or the beginning of one; a correlation id; or a "
            "business object, such as Invoice:7",
        )
        add_format(parser)

    def act(self, options: dict[str, Any]) -> None:
        term = options["id"]
        if not term:
            raise CommandError("Which one? Give the id of an event or an execution.")
        story = find_story(term)
        if story is None:
            found = find_all(term)
            if len(found) > 1:
                self._list(found, as_json=options["format"] == "json")
                return
            story = find_story(found[0].id) if found else None
        if story is None:
            raise CommandError(
                f"There is no event and no execution with the id {term!r}, with that correlation "
                "id, or about such an object. Was it pruned, or is it kept by another process, as "
                "in local mode?"
            )
        if options["format"] == "json":
            self.say_json(story.to_json())
            return
        for line in story.lines():
            self.say(line)

    def _list(self, found: list[Found], *, as_json: bool) -> None:
        if as_json:
            self.say_json({"found": [one.to_json() for one in found]})
            return
        self.say("Several match; trace one of them by its id:")
        for one in found:
            at = f"{in_zone(one.at):%Y-%m-%d %H:%M:%S}"
            self.say(f"  {at}  {one.kind:<9}  {visible(one.id)}  {visible(one.about)}")
