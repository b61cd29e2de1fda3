"""Each slot leaves a tag that is named after it."""

from datetime import timedelta
from typing import Any

from general_manager.workflow import WorkflowDefinition, schedule, step
from tests.testapp.models import Tag


def tell_the_time(input_data: dict[str, Any]) -> None:
    step("tell", write_down, input_data["slot"])


def write_down(slot: str) -> None:
    Tag.objects.create(name=slot)


schedule(
    "clock",
    WorkflowDefinition("clock", handler=tell_the_time),
    every=timedelta(seconds=2),
    missed="all",
    slot_key="slot",
)
