"""The project that the tests run in: local mode, SQLite, two databases."""

import os
import tempfile
from pathlib import Path

import django

SECRET_KEY = "tests only"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "tests.testapp.early",  # registers in ready() before general_manager's own
    "general_manager",
    "tests.testapp",
    "tests.rowapp",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "tests.urls"
STATIC_URL = "/static/"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
_files = Path(os.environ.get("TEST_DATABASE_DIR") or tempfile.gettempdir())


def _sqlite(alias: str) -> dict[str, object]:
    # A file, because an in-memory database and threads of a test do not mix.
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _files / f"general_manager_{alias}.sqlite3",
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=OFF;",  # nothing is kept
        },
        "TEST": {"NAME": _files / f"test_general_manager_{os.getpid()}_{alias}.sqlite3"},
    }


def _postgres(alias: str) -> dict[str, object]:
    uri = os.environ.get("TEST_POSTGRES_URI") or postgres_uri()
    parts = conninfo_to_dict(uri)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.get("dbname", "postgres"),
        "USER": parts.get("user", ""),
        "PASSWORD": parts.get("password", ""),
        "HOST": parts.get("host", ""),
        "PORT": parts.get("port", ""),
        "TEST": {"NAME": f"test_general_manager_{os.getpid()}_{alias}"},
    }


def _mariadb(alias: str) -> dict[str, object]:
    """A server that runs on the machine: there is none as a wheel."""
    return {
        "ENGINE": "django.db.backends.mysql",
        "NAME": "",
        "HOST": os.environ.get("TEST_MARIADB_HOST", "127.0.0.1"),
        "PORT": os.environ.get("TEST_MARIADB_PORT", ""),
        "USER": os.environ.get("TEST_MARIADB_USER", "root"),
        "PASSWORD": os.environ.get("TEST_MARIADB_PASSWORD", ""),
        "OPTIONS": {"connect_timeout": 10, "read_timeout": 600, "write_timeout": 600},
        "TEST": {
            "NAME": f"test_general_manager_{os.getpid()}_{alias}",
            # As older databases are made: our columns must not depend on it.
            "CHARSET": "utf8mb4" if alias == "default" else "latin1",
        },
    }


if os.environ.get("TEST_DATABASE") == "mariadb":
    _database = _mariadb
elif os.environ.get("TEST_DATABASE") == "postgresql":
    from psycopg.conninfo import conninfo_to_dict

    from tests.servers import postgres_uri

    _database = _postgres
else:
    _database = _sqlite
DATABASES = {"default": _database("default"), "archive": _database("archive")}
DATABASE_ROUTERS = ["tests.testapp.routers.ArchiveRouter"]
if django.VERSION >= (6, 1):  # which warns where no mailer is named
    MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
GENERAL_MANAGER = {"WORKFLOW_MODE": "local", "WORKFLOW_SIGNAL_BRIDGE": False}
