"""List the registrations of this process."""

from typing import Any

from django.core.management.base import CommandParser

from general_manager.escaping import visible
from general_manager.management.base import WorkflowCommand, add_format
from general_manager.workflow.operations.listeners import listeners


class Command(WorkflowCommand):
    help = "List the handlers that are registered in this process, by event."

    def add_arguments(self, parser: CommandParser) -> None:
        add_format(parser)

    def act(self, options: dict[str, Any]) -> None:
        found = listeners()
        if options["format"] == "json":
            self.say_json([one.to_json() for one in found])
            return
        if not found:
            self.say("No handler is registered. Register handlers in an app's workflows.py.")
        key = None
        for one in found:
            if one.key != key:
                self.say(self.style.MIGRATE_HEADING(visible(one.key)))
                key = one.key
            options_ = [f"{name}={value}" for name, value in one.options.items()]
            if not one.is_importable:
                options_.append("not importable")
            if one.is_fragile:
                options_.append("its id may change: pass registration_id")
            self.say("  ".join([f"  {visible(one.handler)}", *map(visible, options_)]))
            self.say(f"    {visible(one.id)}")
