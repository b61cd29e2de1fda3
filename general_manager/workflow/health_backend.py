"""Our health as a check of django-health-check 4, which a project lists among its checks.

Needs ``general-manager[health]``.
"""

from dataclasses import dataclass

from django.db import Error, close_old_connections
from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable, ServiceWarning

from general_manager.workflow.health import check_health

GRAVE = 60
"""From this weight on a trouble keeps work from being done; lighter ones are warnings."""


@dataclass
class WorkflowHealthCheck(HealthCheck):  # type: ignore[misc]  # their package has no types
    """``"general_manager.workflow.health_backend.WorkflowHealthCheck"`` in ``checks``."""

    def run(self) -> None:
        """Raises `ServiceUnavailable` or, for what can wait, `ServiceWarning`."""
        try:
            health = check_health()
        except Error as error:
            raise ServiceUnavailable("The database could not be asked") from error
        finally:
            close_old_connections()  # it runs in a thread that no request cleans up after
        if health.troubles:
            worst = health.troubles[0].weight
            kind = ServiceUnavailable if worst >= GRAVE else ServiceWarning
            raise kind(" ".join(one.message for one in health.troubles))
