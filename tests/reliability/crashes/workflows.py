"""Handlers and a workflow that leave a row for each thing that they did, and say so outside."""

from typing import Any

from general_manager.workflow import WorkflowDefinition, WorkflowEvent, get_event_registry, step
from tests.acceptance.production.shop.effects import tell_the_world
from tests.testapp.models import Tag

PLAIN, GROUPED = "crash_plain", "crash_grouped"


def write(event: WorkflowEvent) -> None:
    tell_the_world(f"called {event.event_id}")
    tag(event.event_id)


def tag(name: str) -> int:
    return Tag.objects.create(name=name).pk


def charge(input_data: dict[str, Any]) -> dict[str, Any]:
    number = input_data["n"]
    key = step("reserve", tag, f"reserved {number}")
    step("charge", tell_the_world, f"charged {number}", once=True, atomic=False)
    step("confirm", tag, f"confirmed {number}")
    return {"reservation": key}


CHARGE = WorkflowDefinition("charge", handler=charge)
get_event_registry().register(PLAIN, handler=write)
get_event_registry().register(GROUPED, handler=write, grouped=True)
