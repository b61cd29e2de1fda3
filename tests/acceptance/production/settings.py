"""The tutorial's settings for production, with times short enough for a test."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "general_manager",
    "tests.testapp",
    "tests.acceptance.production.shop",
]
if site := os.environ.get("TEST_SITE_DATABASE"):  # a server's databases, not SQLite's files
    for alias, database in DATABASES.items():
        database["NAME"] = f"{site}_{alias}"
ROOT_URLCONF = "tests.acceptance.production.urls"
ALLOWED_HOSTS = ["127.0.0.1"]
MIDDLEWARE = []  # the visitors are tests: no sessions, no forms to protect
GENERAL_MANAGER = {
    "WORKFLOW_MODE": "production",
    "WORKFLOW_ENGINE": {
        "class": "general_manager.workflow.backends.celery.CeleryWorkflowEngine",
        "options": {},
    },
    "WORKFLOW_EVENT_REGISTRY": {
        "class": "general_manager.workflow.event_registry.DatabaseEventRegistry",
        "options": {},
    },
    "WORKFLOW_SIGNAL_BRIDGE": True,
    "WORKFLOW_ASYNC": True,
    "WORKFLOW_OUTBOX_BATCH_SIZE": 100,
    "WORKFLOW_OUTBOX_PROCESS_CHUNK_SIZE": 50,
    "WORKFLOW_BEAT_ENABLED": True,
    "WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS": 1,
    "WORKFLOW_BEAT_MAX_JITTER_SECONDS": 0,
    "WORKFLOW_DELIVERY_RUNNING_TIMEOUT_SECONDS": 5,
    "WORKFLOW_EXECUTION_LEASE_SECONDS": 5,
    "WORKFLOW_RETRY_BACKOFF_SECONDS": 0.5,
    "WORKFLOW_MAX_RETRIES": 3,
    "WORKFLOW_DEAD_LETTER_ENABLED": True,
}
if os.environ.get("TEST_IN_PROCESS"):
    GENERAL_MANAGER["WORKFLOW_ASYNC"] = False
    del GENERAL_MANAGER["WORKFLOW_BEAT_ENABLED"]
if os.environ.get("TEST_LOCAL"):
    GENERAL_MANAGER = {"WORKFLOW_MODE": "local", "WORKFLOW_SIGNAL_BRIDGE": True}
CELERY_BROKER_URL = os.environ.get("TEST_BROKER", "redis://127.0.0.1:1/0")
CELERY_TASK_DEFAULT_QUEUE = os.environ.get("TEST_QUEUE", "celery")
CELERY_DB_REUSE_MAX = 1000
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
