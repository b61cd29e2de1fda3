"""`manage.py check`: all mistakes in the settings at once, each with a remedy."""

from django.core.checks import Tags, register

from general_manager.checks.backends import check_backends
from general_manager.checks.database import check_tables
from general_manager.checks.limits import check_limits
from general_manager.checks.pauses import check_pauses
from general_manager.checks.schedules import check_schedules
from general_manager.checks.settings import check_managers, check_settings
from general_manager.checks.site import check_admin
from general_manager.checks.tracking import check_excluded, check_names
from general_manager.checks.workers import check_workers

__all__ = [
    "check_admin",
    "check_backends",
    "check_excluded",
    "check_limits",
    "check_managers",
    "check_names",
    "check_pauses",
    "check_schedules",
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
    register(check_schedules)
    register(check_limits)
    register(check_tables, Tags.database)
    register(check_pauses, Tags.database)
