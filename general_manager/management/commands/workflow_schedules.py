"""List the schedules; pause, unpause or run one."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from general_manager.escaping import visible
from general_manager.management.base import WorkflowCommand, add_format
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.exceptions import WorkflowError
from general_manager.workflow.operations.moments import in_zone
from general_manager.workflow.operations.schedules import Listed, list_schedules
from general_manager.workflow.scheduling.verbs import (
    pause_schedule,
    run_schedule,
    unpause_schedule,
)


class Command(WorkflowCommand):
    help = "List the schedules with their last and next slots; or pause, unpause or run one."

    one_of = (("--run", "--pause", "--unpause"),)

    def add_arguments(self, parser: CommandParser) -> None:
        add_format(parser)
        act = parser.add_mutually_exclusive_group()
        act.add_argument("--run", metavar="NAME", help="start its workflow now, with its input")
        act.add_argument("--pause", metavar="NAME", help="start no slot from now on")
        act.add_argument("--unpause", metavar="NAME", help="go on with its next slot")
        parser.add_argument("--reason", default="", help="why it is paused; kept in its history")

    def act(self, options: dict[str, Any]) -> None:
        changes = options["pause"] is not None or options["unpause"] is not None
        if changes and getattr(get_workflow_engine(), "supports_timers", False):
            raise CommandError(
                "In local mode each process keeps its schedules in its memory, so this command "
                "would change nothing but itself. Call pause_schedule() and unpause_schedule() in "
                "the process."
            )
        try:
            if options["run"] is not None:
                started = run_schedule(options["run"])
                # It may have run here, after the commit.
                execution = get_workflow_engine().status(started.execution_id)
                self.say(f"Started execution {execution.execution_id}: {execution.state}.")
            elif options["pause"] is not None:
                changed = pause_schedule(options["pause"], reason=options["reason"])
                self.say("Paused." if changed else "It is paused already.")
            elif options["unpause"] is not None:
                changed = unpause_schedule(options["unpause"])
                self.say("Unpaused." if changed else "It is not paused.")
            else:
                self._list(list_schedules(), as_json=options["format"] == "json")
        except WorkflowError as error:
            raise CommandError(visible(str(error))) from error

    def _list(self, found: list[Listed], *, as_json: bool) -> None:
        if as_json:
            self.say_json([one.to_json() for one in found])
            return
        if not found:
            self.say("No schedule is registered. Call schedule() in an app's ready().")
        for one in found:
            self.say(self.style.MIGRATE_HEADING(visible(one.name)) + f"  {one.condition}")
            self.say(f"  starts   {visible(one.workflow_id)}")
            self.say(f"  runs at  {visible(one.timing)} ({visible(one.tz)})")
            for words, moment in (("next", one.next_at), ("last", one.last_slot)):
                at = f"{in_zone(moment):%Y-%m-%d %H:%M:%S %Z}" if moment else "-"
                self.say(f"  {words:<7}  {at}")
            self.say(f"  active   {one.active}, missed={one.missed}, overlap={one.overlap}")
            for words, text in (
                ("error", one.error),
                ("paused", " ".join((f"by {one.paused_by or 'unknown'}:", one.pause_reason))
                 if one.condition == "paused" else ""),
                ("note", "" if one.is_registered_here else "not registered in this process"),
            ):  # fmt: skip
                if text:
                    self.say(f"  {words:<7}  {visible(text)}")
