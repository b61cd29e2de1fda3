"""List what is paused; pause or unpause a workflow or a registration."""

from typing import Any, Final

from django.core.management.base import CommandError, CommandParser

from general_manager.escaping import visible
from general_manager.management.base import WorkflowCommand, add_format
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.operations.moments import in_zone
from general_manager.workflow.operations.numbers import number
from general_manager.workflow.operations.pauses import (
    is_in_memory,
    is_known,
    list_pauses,
    pause_to_json,
    paused_already,
    unknown_among,
)
from general_manager.workflow.operations.reach import Reach
from general_manager.workflow.pauses import Pause, PauseKind

ACTS: Final = {
    "pause": PauseKind.WORKFLOW,
    "unpause": PauseKind.WORKFLOW,
    "pause_registration": PauseKind.REGISTRATION,
    "unpause_registration": PauseKind.REGISTRATION,
}
"""The options that do something, which exclude each other."""


class Command(WorkflowCommand):
    help = "List what is paused, since when and by whom; or pause or unpause one."

    one_of = (("--pause", "--unpause", "--pause-registration", "--unpause-registration"),)

    def add_arguments(self, parser: CommandParser) -> None:
        add_format(parser)
        act = parser.add_mutually_exclusive_group()
        act.add_argument("--pause", metavar="WORKFLOW", help="start no run of it from now on")
        act.add_argument("--unpause", metavar="WORKFLOW", help="run what was parked, and go on")
        act.add_argument("--pause-registration", metavar="ID", help="deliver nothing to it")
        act.add_argument("--unpause-registration", metavar="ID", help="deliver what was parked")
        parser.add_argument("--reason", default="", help="why it is paused; kept in its history")

    def act(self, options: dict[str, Any]) -> None:
        acts = [name for name in ACTS if options[name] is not None]
        if not acts:
            self._list(as_json=options["format"] == "json")
            return
        kind, name = ACTS[acts[0]], options[acts[0]]
        if is_in_memory(kind):
            raise CommandError(
                "In local mode each process keeps its pauses in its memory, so this command would "
                "pause nothing but itself. Call the engine's pause() and unpause() in the process."
            )
        engine = get_workflow_engine()
        which = {"workflow": name} if kind is PauseKind.WORKFLOW else {"registration": name}
        try:
            if acts[0].startswith("unpause"):
                self.say("Unpaused." if engine.unpause(**which) else "It is not paused.")
            elif known := self._known(kind, name):
                self.say(paused_already(known))
            else:
                self._paused(engine.pause(**which, reason=options["reason"]))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise CommandError(visible(str(error))) from error

    def _known(self, kind: PauseKind, name: str) -> Pause | None:
        found = list_pauses(Reach())
        return next((one for one in found if (one.kind, one.name) == (kind, name)), None)

    def _paused(self, pause: Pause) -> None:
        self.say(f"Paused. {number(pause.running)} running, {number(pause.parked)} parked.")
        if not is_known(pause):
            self.say(self.style.WARNING("Nothing of that name is registered or was ever started."))

    def _list(self, *, as_json: bool) -> None:
        reach = Reach()
        found = list_pauses(reach)
        if as_json:
            self.say_json([pause_to_json(one) for one in found])
        else:
            self._describe(found, unknown_among(found, reach))
        self.end_without(reach)

    def _describe(self, found: list[Pause], unknown: list[Pause]) -> None:
        if not found:
            self.say("Nothing is paused.")
        for one in found:
            self.say(self.style.MIGRATE_HEADING(f"{one.kind} {visible(one.name)}"))
            self.say(f"  since    {in_zone(one.since):%Y-%m-%d %H:%M:%S %Z}")
            self.say(f"  by       {visible(one.by) or 'unknown'}")
            self.say(f"  reason   {visible(one.reason) or '-'}")
            self.say(f"  parked   {number(one.parked)}")
            self.say(f"  running  {number(one.running)}")
            if one in unknown:
                self.say("  note     nothing of that name is registered or was ever started")
