"""What a dead worker or a lost message left behind, and timers: find them, send them again."""

import logging
from random import uniform
from typing import Final

from django.db import DatabaseError, connections, router

from general_manager.conf import get_workflow_settings
from general_manager.workflow.actors import whereabouts
from general_manager.workflow.dispatch import run_executions_now
from general_manager.workflow.executor import give_up, run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowHeartbeat
from general_manager.workflow.outbox import drain
from general_manager.workflow.pruning import prune_once

logger = logging.getLogger(__name__)

BATCH: Final = 200
"""Executions found at once."""


def tick() -> bool:
    """What Beat asks for: drain every outbox, sweep; false if another Beat just asked for it.

    With `WORKFLOW_RETENTION_DAYS` it also prunes, a batch at a time.

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
    if settings.retention is not None:
        prune_once(settings.retention)
    return True


def sweep(*, hand_on: bool = True) -> int:
    """Wake every execution whose time has come; returns how many.

    Without *hand_on*, or without a broker, they are run here.
    """
    woken = 0
    for alias in connections:
        if router.allow_migrate_model(alias, WorkflowExecutionRecord):
            try:
                woken += _sweep_one(alias, hand_on=hand_on)
            except DatabaseError:
                logger.exception("The executions of database %r could not be swept", alias)
    return woken


def _sweep_one(alias: str, *, hand_on: bool) -> int:
    woken = 0
    while any(found := WorkflowExecutionRecord.objects.using(alias).wake_due(BATCH)):
        woken += len(found.ready) + len(found.overdue)
        for execution_id in found.overdue:
            give_up(execution_id, alias)
        for execution_id in found.ready:
            # A message each: what kills its worker must not take others' messages with it.
            if not (hand_on and run_executions_now([execution_id], alias)):
                run(execution_id, alias)
    return woken
