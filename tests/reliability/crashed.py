"""The project's settings for a database that crashes: as little as possible waits for its disk."""

from tests.acceptance.production.settings import *  # noqa: F403
from tests.acceptance.production.settings import GENERAL_MANAGER, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.reliability.crashes"]
GENERAL_MANAGER = {
    **GENERAL_MANAGER,
    "WORKFLOW_SYNCHRONOUS_COMMIT": False,
    "WORKFLOW_MAX_CRASHES": 100,  # no handler here is to blame
}
