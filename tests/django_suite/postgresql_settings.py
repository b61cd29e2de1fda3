"""The same on the PostgreSQL that the tests start, or on the one of TEST_POSTGRES_URI."""

import os

from psycopg.conninfo import conninfo_to_dict

from tests.django_suite.sqlite_settings import *  # noqa: F403
from tests.servers import postgres_uri

os.environ.setdefault("TEST_POSTGRES_URI", "") or os.environ.update(
    TEST_POSTGRES_URI=postgres_uri()
)
_parts = conninfo_to_dict(os.environ["TEST_POSTGRES_URI"])
_one = {
    "ENGINE": "django.db.backends.postgresql",
    "USER": _parts.get("user", ""),
    "PASSWORD": _parts.get("password", ""),
    "HOST": _parts.get("host", ""),
    "PORT": _parts.get("port", ""),
}
DATABASES = {
    "default": {**_one, "NAME": "django_suite"},
    "other": {**_one, "NAME": "django_suite_other"},
}
