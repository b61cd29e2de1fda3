"""`manage.py check`: every mistake in the settings at once, each with what to do about it."""

from django.core.checks import Tags, register

from general_manager.checks.backends import check_backends
from general_manager.checks.database import check_tables
from general_manager.checks.settings import check_managers, check_settings
from general_manager.checks.site import check_admin
from general_manager.checks.tracking import check_excluded, check_names
from general_manager.checks.workers import check_workers

__all__ = [
    "check_admin",
    "check_backends",
    "check_excluded",
    "check_managers",
    "check_names",
    "check_settings",
    "check_tables",
    "check_workers",
    "register_checks",
]


def register_checks() -> None:
    for check in (check_settings, check_backends, check_managers, check_workers, check_admin):
        register(check)
    register(check_names)
    register(check_excluded)
    register(check_tables, Tags.database)
