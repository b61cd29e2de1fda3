"""What a dead worker or a lost message left behind, and timers: find them, send them again."""

from collections.abc import Iterable
from random import uniform
from typing import Final

from django.db import connections, router

from general_manager.conf import get_workflow_settings
from general_manager.workflow.dispatch import run_executions_now
from general_manager.workflow.executor import run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowHeartbeat
from general_manager.workflow.outbox import drain, whereabouts

BATCH: Final = 200
MESSAGE: Final = 50
"""Executions found at once, and executions named in one message."""


def tick() -> bool:
    """What Beat asks for: drain every outbox, sweep; false if another Beat just asked for it.

    The jitter spreads ticks without holding anybody up: one that comes sooner after the last than
    the interval less a random part of the jitter is dropped.
    """
    settings = get_workflow_settings()
    interval = settings.beat_outbox_interval
    spread = min(settings.beat_max_jitter, interval * 0.9) * uniform(0.5, 1)  # noqa: S311 - spread
    beats = WorkflowHeartbeat.objects.using(router.db_for_write(WorkflowHeartbeat))
    if not beats.beat("tick", whereabouts(), unless_within=interval - spread):
        return False
    drain()
    sweep()
    return True


def sweep(*, hand_on: bool = True) -> int:
    """Wake every execution whose time has come; returns how many.

    Without *hand_on*, or without a broker, they are run here.
    """
    woken = 0
    for alias in connections:
        if not router.allow_migrate_model(alias, WorkflowExecutionRecord):
            continue
        while ids := WorkflowExecutionRecord.objects.using(alias).wake_due(BATCH):
            woken += len(ids)
            for start in range(0, len(ids), MESSAGE):
                _hand_on(ids[start : start + MESSAGE], alias, hand_on=hand_on)
    return woken


def _hand_on(ids: Iterable[str], alias: str, *, hand_on: bool) -> None:
    ids = list(ids)
    if hand_on and run_executions_now(ids, alias):
        return
    for execution_id in ids:
        run(execution_id, alias)
