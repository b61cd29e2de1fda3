"""Our health as a check for django-health-check 4; list it among the project's checks.

Needs ``general-manager[health]``.
"""

from dataclasses import dataclass

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, close_old_connections
from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable, ServiceWarning

from general_manager.workflow.operations.health import check_health

GRAVE = 60
"""Problems of at least this weight stop work; lighter ones are warnings."""


@dataclass
class WorkflowHealthCheck(HealthCheck):  # type: ignore[misc]  # their package has no types
    """``"general_manager.workflow.operations.health_check.WorkflowHealthCheck"`` in ``checks``."""

    def run(self) -> None:
        """Raise `ServiceUnavailable`, or `ServiceWarning` if the problem can wait."""
        try:
            health = check_health()
        except Error as error:
            raise ServiceUnavailable("The database cannot be reached") from error
        except ImproperlyConfigured as error:
            raise ServiceUnavailable("The settings cannot be read") from error
        finally:
            close_old_connections()  # runs in a thread that no request cleans up
        if health.troubles:
            worst = health.troubles[0].weight
            kind = ServiceUnavailable if worst >= GRAVE else ServiceWarning
            raise kind(" ".join(one.message for one in health.troubles))
