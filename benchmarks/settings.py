"""The benchmarks' own project: production mode on a PostgreSQL from its wheel."""

import os
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from tests.servers import postgres_uri

# Workers are processes of their own: they inherit where the server of this one listens.
POSTGRES = os.environ.get("BENCH_POSTGRES") or postgres_uri()
os.environ["BENCH_POSTGRES"] = POSTGRES
_parts = conninfo_to_dict(POSTGRES)

SECRET_KEY = "benchmarks only"
USE_TZ = True
TIME_ZONE = "UTC"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "general_manager",
    "benchmarks",
]
DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _parts.get("dbname", "postgres"),
        "USER": _parts.get("user", ""),
        "PASSWORD": _parts.get("password", ""),
        "HOST": _parts.get("host", ""),
        "PORT": _parts.get("port", ""),
    }
}
if os.environ.get("BENCH_PREPARED"):  # psycopg's own defaults, which Django turns off
    DATABASES["default"]["OPTIONS"] = {"prepare_threshold": 5, "server_side_binding": True}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
GENERAL_MANAGER = {"WORKFLOW_MODE": "production"}
CELERY_BROKER_URL = os.environ.get("BENCH_BROKER", "redis://127.0.0.1:1/0")
CELERY_TASK_IGNORE_RESULT = True
if CELERY_BROKER_URL.startswith("redis"):
    CELERY_RESULT_BACKEND = CELERY_BROKER_URL  # for chords
if reuse := os.environ.get("BENCH_DB_REUSE_MAX"):
    CELERY_DB_REUSE_MAX = int(reuse)
