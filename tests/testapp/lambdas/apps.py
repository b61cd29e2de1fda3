"""An app that registers, while it starts, what is made anew each time that it starts."""

from functools import partial
from typing import ClassVar

from django.apps import AppConfig

from general_manager.workflow import ActionRegistry, WorkflowEvent, get_event_registry

heard: list[str] = []


def hear(name: str, event: WorkflowEvent) -> None:
    heard.append(name)


class LambdasConfig(AppConfig):
    name = "tests.testapp.lambdas"
    label = "lambdas"
    actions: ClassVar[ActionRegistry] = ActionRegistry()

    def ready(self) -> None:
        registry = get_event_registry()
        registry.register("again", handler=lambda event: hear("lambda", event))
        for name in ("first", "second"):
            registry.register("again", handler=lambda event, name=name: hear(name, event))  # type: ignore[misc]
        registry.register("again", handler=partial(hear, "partial"))
        registry.register("again", handler=self.hear)
        registry.register(
            "again", handler=lambda event: hear("named", event), registration_id="named"
        )
        registry.register(
            "again", handler=lambda event: hear("no", event), when=lambda event: False
        )
        self.actions.register("greet", lambda: "hello")

    def hear(self, event: WorkflowEvent) -> None:
        hear("bound", event)
