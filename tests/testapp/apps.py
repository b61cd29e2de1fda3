from django.apps import AppConfig

from general_manager.workflow import get_event_registry
from tests.testapp.heard import hear


class TestAppConfig(AppConfig):
    name = "tests.testapp"
    label = "testapp"

    def ready(self) -> None:
        get_event_registry().register("heard_after", handler=hear)
