"""The settings of the chaos, with workflows that depend on one another."""

from tests.reliability.hurried import *  # noqa: F403
from tests.reliability.hurried import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.reliability.together"]
