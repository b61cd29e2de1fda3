"""What the benchmarks run, in a module that workers can import."""

import time
from typing import Any

from general_manager.workflow import WorkflowEvent, get_workflow_engine, step, wait_for
from general_manager.workflow.engine import WorkflowDefinition


def handle(_: dict[str, Any]) -> dict[str, Any]:
    return {"ok": True}


def one_step() -> int:
    return 1


def two_steps(_: dict[str, Any]) -> dict[str, Any]:
    return {"sum": step("first", one_step) + step("second", one_step)}


def wait_once(_: dict[str, Any]) -> dict[str, Any]:
    return {"answer": wait_for("answer")}


def see(event: WorkflowEvent) -> None:
    """Nothing, so that only our own code is measured."""


def start(event: WorkflowEvent) -> None:
    get_workflow_engine().start(WORKFLOW, event.payload, correlation_id=event.event_id)


def start_and_say_when(event: WorkflowEvent) -> None:
    get_workflow_engine().start(
        WORKFLOW, {**event.payload, "handled_at": time.time()}, correlation_id=event.event_id
    )


WORKFLOW = WorkflowDefinition("w", handler=handle, metadata={})
TWO_STEPS = WorkflowDefinition("two_steps", handler=two_steps)
WAIT_ONCE = WorkflowDefinition("wait_once", handler=wait_once)
