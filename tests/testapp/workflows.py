"""Found and imported by general_manager, as in any app."""

from general_manager.workflow import get_event_registry
from tests.testapp.heard import hear

get_event_registry().register("heard_in_workflows", handler=hear)


def double(input_data: dict[str, int]) -> dict[str, int]:
    return {"doubled": input_data["number"] * 2}


not_callable = 42
