"""The same on a MariaDB that runs on the machine (TEST_MARIADB_HOST, _USER, _PASSWORD)."""

import os

from tests.django_suite.sqlite_settings import *  # noqa: F403

_one = {
    "ENGINE": "django.db.backends.mysql",
    "HOST": os.environ.get("TEST_MARIADB_HOST", "127.0.0.1"),
    "USER": os.environ.get("TEST_MARIADB_USER", "root"),
    "PASSWORD": os.environ.get("TEST_MARIADB_PASSWORD", ""),
    "TEST": {"CHARSET": "utf8mb4", "COLLATION": "utf8mb4_general_ci"},
}
DATABASES = {
    "default": {**_one, "NAME": "django_suite"},
    "other": {**_one, "NAME": "django_suite_other"},
}
