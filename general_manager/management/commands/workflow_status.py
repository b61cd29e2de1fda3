"""The state of events, executions and workers, for people and monitors."""

import sys
from collections.abc import Iterable
from typing import Any, Final

from django.core.management.base import CommandParser
from django.utils.translation import ngettext

from general_manager.conf import get_workflow_settings
from general_manager.durations import in_words
from general_manager.escaping import visible
from general_manager.management.base import UNREACHABLE, WorkflowCommand, add_format
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.operations.database_state import read_state
from general_manager.workflow.operations.health import Health, check_health
from general_manager.workflow.operations.numbers import number
from general_manager.workflow.operations.overview import Overview
from general_manager.workflow.operations.waits import count_cut_waits

MANY_DEAD: Final = 10_000
"""Fewer dead rows than that cost nobody anything."""


class Command(WorkflowCommand):
    help = (
        "Show the backlog, the workers and what is wrong. Exit code: 0 if all is well, 1 if "
        "something is wrong, 2 if a database cannot be reached."
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
            sys.exit(UNREACHABLE if health.away else 1)

    def _report(self, health: Health) -> None:
        if health.is_well:
            self.say(self.style.SUCCESS("All is well."))
        for trouble in health.troubles:
            self.say(f"{self.style.ERROR(visible(trouble.message))} [{trouble.code}]")
            self.say(f"    {trouble.remedy}")
        if get_workflow_settings().mode == "local":
            self.say("Local mode keeps events and executions in the memory of each process:")
            self.say("this command sees only stored rows.")
        self.say()
        self._report_executions(health.overview)
        self._report_outbox(health.overview)
        reachable = [one for one in outboxes() if one not in health.away]
        if cut := count_cut_waits(reachable):
            self.say(f"  waits         {number(cut)} look back further than events are kept")
        self._report_pauses(health)
        self._report_processes(health.overview)
        self._report_tables(reachable)

    def _report_executions(self, overview: Overview) -> None:
        if not overview.states:  # their database cannot be reached
            return
        states = {name: number(count) for name, count in overview.states.items()}
        for name, fact in (
            ("executions", "{pending} pending, {running} running, {waiting} waiting"),
            ("last 24 h", "{completed} completed, {failed} failed, {cancelled} cancelled"),
        ):
            self.say(f"  {name:<14}{fact.format(**states)}")
        if overview.lines:
            waiting = ngettext("%s execution", "%s executions", overview.in_line)
            lines = ngettext("%s line", "%s lines", overview.lines) % number(overview.lines)
            self.say(f"  limits        {waiting % number(overview.in_line)} in {lines}")
        if overview.late_schedules:
            self.say(f"  schedules     {number(overview.late_schedules)} late")

    def _report_outbox(self, overview: Overview) -> None:
        oldest = "" if overview.oldest_undelivered is None else (
            f"; the oldest is {in_words(overview.at - overview.oldest_undelivered)} old"
        )  # fmt: skip
        self.say(
            f"  outbox        {number(overview.undelivered)} undelivered, "
            f"{number(overview.claimed)} claimed{oldest}"
        )
        if overview.lanes:
            keys = ngettext("%s key", "%s keys", overview.lanes) % number(overview.lanes)
            self.say(
                f"  lanes         undelivered events in order of {keys}, "
                f"{number(overview.blocked_lanes)} blocked"
            )
        self.say(f"  dead letters  {number(overview.dead)}")

    def _report_processes(self, overview: Overview) -> None:
        if not overview.states:  # nor can the heartbeats be read
            return
        tick = "never" if overview.last_tick is None else (
            f"{in_words(overview.at - overview.last_tick)} ago by {visible(overview.ticked_by)}"
        )  # fmt: skip
        self.say(f"  last tick     {tick}")
        settings = get_workflow_settings()
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

    def _report_tables(self, aliases: Iterable[str]) -> None:
        """PostgreSQL: what vacuum has left, and the transaction that keeps it from more."""
        for alias in aliases:
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
