"""The benchmarks' project with Django's admin, for the pages; workers do not need it."""

from benchmarks.settings import (
    CELERY_BROKER_URL,
    CELERY_TASK_IGNORE_RESULT,
    DATABASES,
    DEFAULT_AUTO_FIELD,
    GENERAL_MANAGER,
    SECRET_KEY,
    TIME_ZONE,
    USE_TZ,
)

__all__ = [
    "CELERY_BROKER_URL",
    "CELERY_TASK_IGNORE_RESULT",
    "DATABASES",
    "DEFAULT_AUTO_FIELD",
    "GENERAL_MANAGER",
    "SECRET_KEY",
    "TIME_ZONE",
    "USE_TZ",
]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "general_manager",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
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
ALLOWED_HOSTS = ["testserver"]
STATIC_URL = "/static/"
