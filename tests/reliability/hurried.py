"""The project's settings for a test that kills without pause: it waits for the end of leases."""

import os

from general_manager.workflow.transport.base import TICK
from tests.acceptance.production.settings import *  # noqa: F403
from tests.acceptance.production.settings import CELERY_TASK_DEFAULT_QUEUE, GENERAL_MANAGER

LEASE_SECONDS = 2
GENERAL_MANAGER = {
    **GENERAL_MANAGER,
    "WORKFLOW_EXECUTION_LEASE_SECONDS": LEASE_SECONDS,
    "WORKFLOW_MAX_CRASHES": 100,  # no handler here is to blame for its worker's death
}
TICKS = f"{CELERY_TASK_DEFAULT_QUEUE}_ticks"
"""A queue of their own: what died is found while all else still waits."""
CELERY_TASK_ROUTES = {TICK: {"queue": TICKS}}
if visibility := os.environ.get("TEST_VISIBILITY_SECONDS"):
    CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": int(visibility)}
