"""Start-up: find what the project registers, and listen to its managers."""

from django.apps import AppConfig
from django.core.checks import register
from django.utils.module_loading import autodiscover_modules

from general_manager.checks import check_backends, check_managers, check_settings
from general_manager.workflow.signal_bridge import listen


class GeneralManagerConfig(AppConfig):
    name = "general_manager"
    verbose_name = "Workflows"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        register(check_settings)
        register(check_backends)
        register(check_managers)
        listen()
        autodiscover_modules("workflows")
