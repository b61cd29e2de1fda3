"""What workers do, by name; messages carry ids, rows carry the truth."""

from collections.abc import Sequence

from celery import shared_task

from general_manager.workflow.dispatch import DELIVER, DRAIN, RUN, TICK
from general_manager.workflow.executor import run
from general_manager.workflow.messages import handing_on
from general_manager.workflow.outbox import deliver, drain
from general_manager.workflow.sweep import tick
from general_manager.workflow.transactions import drop_broken_connections


@shared_task(name=DRAIN, ignore_result=True)
def drain_outbox(using: str | None = None) -> None:
    """Deliver what the outbox of database *using*, or of each, owes."""
    drop_broken_connections()
    drain(using)


@shared_task(name=DELIVER, ignore_result=True)
def deliver_outbox(using: str, token: str, keys: Sequence[int]) -> int:
    """Deliver entries that `drain_outbox` claimed with *token*; how many of them were handled."""
    drop_broken_connections()
    return deliver(using, token, keys)


@shared_task(name=RUN, ignore_result=True)
def run_executions(execution_ids: Sequence[str], using: str) -> None:
    """Run them one after the other; those that a slow one keeps waiting are handed on."""
    drop_broken_connections()
    with handing_on(execution_ids, using) as own:
        for execution_id in own:
            run(execution_id, using)


@shared_task(name=TICK, ignore_result=True)
def beat_tick() -> None:
    """The safety net: what no message announced, lost messages, timers, dead workers."""
    drop_broken_connections()
    tick()
