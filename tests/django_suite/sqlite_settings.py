"""Django's own settings for SQLite, in local mode."""

from typing import Any

import django

DATABASES: dict[str, dict[str, Any]] = {
    "default": {"ENGINE": "django.db.backends.sqlite3"},
    "other": {"ENGINE": "django.db.backends.sqlite3"},
}
SECRET_KEY = "tests only"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if django.VERSION < (6, 0):
    DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
GENERAL_MANAGER = {"WORKFLOW_MODE": "local", "WORKFLOW_SIGNAL_BRIDGE": True}
CELERY_BROKER_URL = "memory://"
