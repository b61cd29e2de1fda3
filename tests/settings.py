"""The project that the tests run in: local mode, SQLite, two databases."""

import os
import tempfile
from pathlib import Path

SECRET_KEY = "tests only"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "tests.testapp.early",  # registers in ready() before general_manager's own
    "general_manager",
    "tests.testapp",
]
_files = Path(os.environ.get("TEST_DATABASE_DIR") or tempfile.gettempdir())


def _sqlite(alias: str) -> dict[str, object]:
    # A file, because an in-memory database and threads of a test do not mix.
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _files / f"general_manager_{alias}.sqlite3",
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL;",
        },
        "TEST": {"NAME": _files / f"test_general_manager_{os.getpid()}_{alias}.sqlite3"},
    }


DATABASES = {"default": _sqlite("default"), "archive": _sqlite("archive")}
DATABASE_ROUTERS = ["tests.testapp.routers.ArchiveRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
GENERAL_MANAGER = {"WORKFLOW_MODE": "local", "WORKFLOW_SIGNAL_BRIDGE": False}
