"""Where Django looks for the admin."""

from general_manager.workflow.admin import (  # noqa: F401 - importing registers the pages
    deliveries,
    events,
    executions,
    outbox,
    overview,
)
