"""The project's settings with an app that has a schedule."""

from tests.acceptance.production.settings import *  # noqa: F403
from tests.acceptance.production.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.reliability.clock"]
