"""The timeline of one event or execution."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from general_manager.escaping import visible
from general_manager.management.base import WorkflowCommand, add_format
from general_manager.workflow.operations.moments import in_zone
from general_manager.workflow.operations.reach import Reach
from general_manager.workflow.operations.trace import Found, find_all, find_trace


class Command(WorkflowCommand):
    help = "Show what happened to one event or execution. Secrets are redacted."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "id",
            metavar="WHAT",
            # Not required: call_command(..., id=...) fails inside Django for required positionals.
            nargs="?",
            help="an event id or execution id, or its beginning; a correlation id; or a business "
            "object, such as Invoice:7",
        )
        add_format(parser)

    def act(self, options: dict[str, Any]) -> None:
        term = options["id"]
        if not term:
            raise CommandError(
                "No id is given. Pass the id of an event, execution or business object."
            )
        reach = Reach()
        trace = find_trace(term, reach)
        if trace is None:
            found = find_all(term, reach)
            if len(found) > 1:
                self._list(found, as_json=options["format"] == "json")
                self.end_without(reach)
                return
            trace = find_trace(found[0].id, reach) if found else None
        if trace is None:
            self.end_without(reach)
            raise CommandError(
                f"No event and no execution matches {term!r}, neither by id, correlation id nor "
                "business object. It may have been pruned, or exist only in the memory of another "
                "process (local mode)."
            )
        if options["format"] == "json":
            self.say_json(trace.to_json())
        else:
            for line in trace.lines():
                self.say(line)
        self.end_without(reach)

    def _list(self, found: list[Found], *, as_json: bool) -> None:
        if as_json:
            self.say_json({"found": [one.to_json() for one in found]})
            return
        self.say("Several match. Trace one of them by its id:")
        for one in found:
            at = f"{in_zone(one.at):%Y-%m-%d %H:%M:%S}"
            self.say(f"  {at}  {one.kind:<9}  {visible(one.id)}  {visible(one.about)}")
