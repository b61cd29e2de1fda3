"""The registrations of this app: all routing in one place."""

from django.apps import AppConfig

from general_manager.workflow import WorkflowEvent, get_event_registry, schedule


class ProjectsConfig(AppConfig):
    name = "projects"
    verbose_name = "Projects"

    def ready(self) -> None:
        from projects import handlers, workflows  # noqa: PLC0415 - models can be imported only now

        registry = get_event_registry()
        registry.register(
            "manager_updated",
            handler=handlers.start_project_status_workflow,
            when=is_activation,
        )
        registry.register("budget_requested", handler=handlers.start_budget_approval)
        registry.register(
            "manager_updated",
            handler=handlers.tell_accounting,
            when=is_activation,
            retries=2,
            dead_letter_handler=handlers.note_dead_letter,
        )
        schedule(
            "nightly_summary",
            workflows.NIGHTLY_SUMMARY,
            cron="0 3 * * *",
            tz="Europe/Berlin",
            slot_key="slot",
        )


def is_activation(event: WorkflowEvent) -> bool:
    """Whether a project has become active."""
    status = event.payload.get("changes", {}).get("status", {})
    return event.payload.get("manager") == "Project" and status.get("new") == "active"
