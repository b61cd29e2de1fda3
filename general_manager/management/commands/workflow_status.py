"""The state of events, executions and workers, for people and monitors."""

import sys
from typing import Any, Final

from django.core.management.base import CommandParser

from general_manager.conf import get_workflow_settings
from general_manager.durations import in_words
from general_manager.escaping import visible
from general_manager.management.base import WorkflowCommand, add_format
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.operations.database_state import read_state
from general_manager.workflow.operations.health import Health, check_health, number
from general_manager.workflow.operations.waits import count_cut_waits

MANY_DEAD: Final = 10_000
"""Fewer dead rows than that cost nobody anything."""


class Command(WorkflowCommand):
    help = (
        "Show the backlog, the workers and what is wrong. Exit code: 0 if all is well, 1 if "
        "something is wrong, 2 if the database cannot be reached."
    )
    requires_system_checks = ()  # monitors call it often

    def add_arguments(self, parser: CommandParser) -> None:
        add_format(parser)

    def act(self, options: dict[str, Any]) -> None:
        health = check_health()
        if options["format"] == "json":
            self.say_json(health.to_json())
        else:
            self._report(health)
        if not health.is_well:
            sys.exit(1)

    def _report(self, health: Health) -> None:
        if health.is_well:
            self.say(self.style.SUCCESS("All is well."))
        for trouble in health.troubles:
            self.say(f"{self.style.ERROR(visible(trouble.message))} [{trouble.code}]")
            self.say(f"    {trouble.remedy}")
        settings = get_workflow_settings()
        if settings.mode == "local":
            self.say("Local mode keeps events and executions in the memory of each process:")
            self.say("this command sees only stored rows.")
        overview = health.overview
        states = {name: number(count) for name, count in overview.states.items()}
        oldest = "" if overview.oldest_undelivered is None else (
            f"; the oldest is {in_words(overview.at - overview.oldest_undelivered)} old"
        )  # fmt: skip
        tick = "never" if overview.last_tick is None else (
            f"{in_words(overview.at - overview.last_tick)} ago by {visible(overview.ticked_by)}"
        )  # fmt: skip
        self.say()
        for name, fact in (
            ("executions", "{pending} pending, {running} running, {waiting} waiting"),
            ("last 24 h", "{completed} completed, {failed} failed, {cancelled} cancelled"),
        ):
            self.say(f"  {name:<14}{fact.format(**states)}")
        self.say(
            f"  outbox        {number(overview.undelivered)} undelivered, "
            f"{number(overview.claimed)} claimed{oldest}"
        )
        self.say(f"  dead letters  {number(overview.dead)}")
        if overview.lines:
            waiting, lines = number(overview.in_line), number(overview.lines)
            self.say(f"  limits        {waiting} executions in {lines} lines")
        if overview.late_schedules:
            self.say(f"  schedules     {number(overview.late_schedules)} late")
        if cut := count_cut_waits():
            self.say(f"  waits         {number(cut)} look back further than events are kept")
        self._report_pauses(health)
        self.say(f"  last tick     {tick}")
        self._report_tables()
        if settings.beat_enabled:
            self.say(f"  Beat          {visible(', '.join(overview.beats)) or 'not running'}")
        if settings.run_async:
            self.say(f"  workers       {visible(', '.join(overview.workers)) or 'none'}")

    def _report_pauses(self, health: Health) -> None:
        for one in health.pauses:
            by = f" by {visible(one.by)}" if one.by else ""
            since = in_words(health.overview.at - one.since)
            reason = f": {visible(one.reason)}" if one.reason else ""
            self.say(
                f"  paused        {one.kind} {visible(one.name)} for {since}{by}{reason}; "
                f"{number(one.parked)} parked"
            )

    def _report_tables(self) -> None:
        """PostgreSQL: what vacuum has left, and the transaction that keeps it from more."""
        for alias in outboxes():
            state = read_state(alias)
            if state.oldest is not None:
                age, who = in_words(state.oldest.age), visible(state.oldest.who)
                self.say(f"  transaction   open for {age}: {who} ({alias})")
            for table in state.tables:
                if table.dead > table.live + MANY_DEAD:
                    self.say(
                        f"  dead rows     {table.dead:,} beside {table.live:,} in {table.name} "
                        f"({alias})"
                    )
