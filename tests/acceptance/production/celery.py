"""The project's Celery app, as Celery's documentation has it."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.acceptance.production.settings")
app = Celery("production")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
