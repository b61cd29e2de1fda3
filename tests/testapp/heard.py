"""What the app's handlers were told, for the tests to read."""

from general_manager.workflow import WorkflowEvent

heard: list[WorkflowEvent] = []


def hear(event: WorkflowEvent) -> None:
    heard.append(event)
