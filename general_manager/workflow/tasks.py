"""What workers do, by name; messages carry ids, rows carry the truth."""

from collections.abc import Sequence
from typing import Any

from celery import shared_task

from general_manager.workflow.connections import unit_of_work
from general_manager.workflow.dispatch import DELIVER, DRAIN, RUN, TICK
from general_manager.workflow.executor import run
from general_manager.workflow.messages import handing_on
from general_manager.workflow.outbox import deliver, drain
from general_manager.workflow.sweep import tick


def _unit_of(task: Any) -> unit_of_work:
    """A worker's task has no caller whose transaction could be open; one that is called has."""
    request = task.request
    return unit_of_work(outermost=not (request.called_directly or request.is_eager))


@shared_task(name=DRAIN, ignore_result=True, bind=True)
def drain_outbox(self: Any, using: str | None = None) -> None:
    """Deliver what the outbox of database *using*, or of each, owes."""
    with _unit_of(self):
        drain(using)


@shared_task(name=DELIVER, ignore_result=True, bind=True)
def deliver_outbox(self: Any, using: str, token: str, keys: Sequence[int]) -> int:
    """Deliver entries that `drain_outbox` claimed with *token*; how many of them were handled."""
    with _unit_of(self):
        return deliver(using, token, keys)


@shared_task(name=RUN, ignore_result=True, bind=True)
def run_executions(self: Any, execution_ids: Sequence[str], using: str) -> None:
    """Run them one after the other; those that a slow one keeps waiting are handed on."""
    with _unit_of(self), handing_on(execution_ids, using) as own:
        for execution_id in own:
            run(execution_id, using)


@shared_task(name=TICK, ignore_result=True, bind=True)
def beat_tick(self: Any) -> None:
    """The safety net: what no message announced, lost messages, timers, dead workers."""
    with _unit_of(self):
        tick()
