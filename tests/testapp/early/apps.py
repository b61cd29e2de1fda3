from django.apps import AppConfig

from general_manager.workflow import get_event_registry
from tests.testapp.heard import hear


class EarlyConfig(AppConfig):
    name = "tests.testapp.early"
    label = "early"

    def ready(self) -> None:
        get_event_registry().register("heard_before", handler=hear)
