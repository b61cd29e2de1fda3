"""The project's settings for a test whose network fails: leases outlast each of its failures."""

from tests.acceptance.production.settings import *  # noqa: F403
from tests.acceptance.production.settings import GENERAL_MANAGER

GENERAL_MANAGER = {
    **GENERAL_MANAGER,
    "WORKFLOW_DELIVERY_RUNNING_TIMEOUT_SECONDS": 60,
    "WORKFLOW_EXECUTION_LEASE_SECONDS": 60,
}
