"""What the benchmarks run, in a module that workers can import."""

import time
from datetime import timedelta
from typing import Any

from django.db import connection

from general_manager.workflow import (
    WorkflowEvent,
    child,
    gather,
    get_workflow_engine,
    sleep,
    step,
    wait_for,
    wait_for_event,
)
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


def insert_row(event: WorkflowEvent) -> None:
    """One row in the database, and nothing else."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO auth_group (name) VALUES (%s)", [event.event_id])


def pause(_: WorkflowEvent) -> None:
    """5 ms of waiting for somebody else."""
    time.sleep(0.005)


def start(event: WorkflowEvent) -> None:
    get_workflow_engine().start(WORKFLOW, event.payload, correlation_id=event.event_id)


def start_and_say_when(event: WorkflowEvent) -> None:
    get_workflow_engine().start(
        WORKFLOW, {**event.payload, "handled_at": time.time()}, correlation_id=event.event_id
    )


WORKFLOW = WorkflowDefinition("w", handler=handle, metadata={})
TWO_STEPS = WorkflowDefinition("two_steps", handler=two_steps)
WAIT_ONCE = WorkflowDefinition("wait_once", handler=wait_once)


RESULT = {"id": 4711, "name": "a result of ordinary size", "rows": list(range(20))}


def give_result() -> dict[str, Any]:
    return RESULT


def many_steps(data: dict[str, Any]) -> None:
    for number in range(data["steps"]):
        step(f"step {number}", give_result)


def many_steps_and_sleeps(data: dict[str, Any]) -> None:
    many_steps(data)
    for number in range(100):
        sleep(f"sleep {number}", timedelta(days=1))


def wait_for_payment(data: dict[str, Any]) -> dict[str, Any]:
    wait_for_event("payment", "payment_received", match={"order_id": data["order_id"]})
    return {"answered_at": time.time()}


WAIT_FOR_PAYMENT = WorkflowDefinition("wait_for_payment", handler=wait_for_payment)


def fan_out(data: dict[str, Any]) -> dict[str, Any]:
    one = WorkflowDefinition("leaf", handler=handle)
    return {"joined": len(gather("leaves", [child(one, {}) for _ in range(data["children"])]))}


FAN_OUT = WorkflowDefinition("fan_out", handler=fan_out)
MANY = WorkflowDefinition("many", handler=many_steps)
LONG = WorkflowDefinition("long", handler=many_steps_and_sleeps)
