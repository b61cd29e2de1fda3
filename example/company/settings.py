"""A small company's Django project. The part to read is `GENERAL_MANAGER`."""

import os
from pathlib import Path

import django

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = Path(os.environ.get("EXAMPLE_VAR_DIR") or BASE_DIR / "var")
VAR_DIR.mkdir(parents=True, exist_ok=True)

# Zero-setup local mode: events and workflows run in this process, nothing to install.
GENERAL_MANAGER = {
    "WORKFLOW_MODE": "local",
    "WORKFLOW_SIGNAL_BRIDGE": True,
}

if os.environ.get("EXAMPLE_MODE") in ("production", "in-process"):
    # Events and executions in the database; handlers in Celery workers, or without
    # WORKFLOW_ASYNC in the publishing process. The times are short for the demo; leave them
    # out in your own project.
    GENERAL_MANAGER = {
        "WORKFLOW_MODE": "production",
        "WORKFLOW_ASYNC": os.environ["EXAMPLE_MODE"] == "production",
        "WORKFLOW_SIGNAL_BRIDGE": True,
        "WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS": 1,
        "WORKFLOW_BEAT_MAX_JITTER_SECONDS": 0,
        "WORKFLOW_RETRY_BACKOFF_SECONDS": 1,
    }

GENERAL_MANAGER["WORKFLOW_BASE_URL"] = "http://127.0.0.1:8000"  # the demo's site

# What the bank sends with each payment; a secret in your own project.
PAYMENT_WEBHOOK_TOKEN = os.environ.get("EXAMPLE_PAYMENT_TOKEN", "a token for the demo only")

BROKER_DIR = VAR_DIR / "broker"
BROKER_DIR.mkdir(exist_ok=True)
CELERY_BROKER_URL = "files://localhost//"
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "data_folder_in": str(BROKER_DIR),
    "data_folder_out": str(BROKER_DIR),
    "control_folder": str(BROKER_DIR / "control"),
    "polling_interval": 0.1,
}
CELERY_DB_REUSE_MAX = 1000

SECRET_KEY = "an example has no secrets"  # noqa: S105 - it protects nothing
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
ROOT_URLCONF = "company.urls"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL = "admin:login"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "general_manager",
    "projects",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
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
            ],
        },
    },
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": VAR_DIR / "company.sqlite3",
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL;",
        },
    },
}

SERVERS_DIR = os.environ.get("EXAMPLE_SERVERS")
if SERVERS_DIR:
    # PostgreSQL and Redis, as in production. The demo starts both, see projects/servers.py.
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": f"{SERVERS_DIR}/postgres",  # the folder of the socket
        },
    }
    CELERY_BROKER_URL = f"redis+socket://{SERVERS_DIR}/redis.sock"
    CELERY_BROKER_TRANSPORT_OPTIONS = {}

# Mails are written to files in var/mails.
MAIL_DIR = VAR_DIR / "mails"
_FILES = "django.core.mail.backends.filebased.EmailBackend"
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": _FILES, "OPTIONS": {"file_path": str(MAIL_DIR)}}}
else:
    EMAIL_BACKEND = _FILES
    EMAIL_FILE_PATH = str(MAIL_DIR)
DEFAULT_FROM_EMAIL = "projects@example.test"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {
        "file": {"class": "logging.FileHandler", "filename": VAR_DIR / "company.log"},
    },
    "loggers": {"general_manager": {"handlers": ["file"], "level": "INFO"}},
}
