"""Start-up: discover the project's registrations, and connect to its managers."""

from importlib import import_module

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules

from general_manager.workflow.signal_bridge import listen
from general_manager.workflow.workers.beat import install


class GeneralManagerConfig(AppConfig):
    name = "general_manager"
    verbose_name = "Workflows"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Modules that import models can be imported only now.
        import_module("general_manager.checks").register_checks()
        listen()
        install()
        # Celery's own discovery looks for general_manager.tasks and would not find these.
        import_module("general_manager.workflow.tasks")
        autodiscover_modules("workflows")
        import_module("general_manager.workflow.workers.timer").install()
