"""The project's settings with django-celery-beat's schedule in the database."""

import os

from tests.acceptance.production.settings import *  # noqa: F403
from tests.acceptance.production.settings import GENERAL_MANAGER, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "django_celery_beat"]
GENERAL_MANAGER = {**GENERAL_MANAGER, "WORKFLOW_BEAT_ENABLED": os.environ.get("TEST_BEAT") != "off"}
CELERY_BEAT_SYNC_EVERY = 1  # tasks sent; tests read the counts from the table
