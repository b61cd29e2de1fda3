"""The tutorial's handler and workflow, one that waits, and some that kill or hold their worker."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from general_manager.workflow import (
    Retry,
    WorkflowDefinition,
    WorkflowEvent,
    get_event_registry,
    get_workflow_engine,
    step,
    wait_for,
)
from tests.acceptance import tutorial_blocks
from tests.acceptance.production.shop.effects import TEN_CHARGES, TEN_EFFECTS, tell_the_world
from tests.testapp.models import Tag


def once(name: str) -> bool:
    """True the first time that any process asks for *name*."""
    try:
        (Path(os.environ["TEST_MARKS"]) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def until(name: str) -> None:
    """Wait here until the test says *name*."""
    while not (Path(os.environ["TEST_MARKS"]) / name).exists():
        time.sleep(0.05)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def start_budget_approval(event: WorkflowEvent) -> None:
    get_workflow_engine().start(BUDGET_APPROVAL, event.payload, correlation_id=event.event_id)


def budget_approval(input_data: dict[str, Any]) -> dict[str, Any]:
    answer = wait_for("approval")
    step("raise the budget", tag, f"{input_data['name']} +{input_data['amount']}")
    return {"approved": answer["approved"]}


def fail_and_count(event: WorkflowEvent) -> None:
    with (Path(os.environ["TEST_MARKS"]) / "attempts").open("a") as attempts:
        attempts.write("x")
    raise RuntimeError("no workflow today")


def remember_the_dead(event: WorkflowEvent, error: Exception) -> None:
    Tag.objects.create(name=f"{event.event_id}: {error}")


def write(event: WorkflowEvent) -> None:
    Tag.objects.create(name=event.event_id)


def write_and_die_once(event: WorkflowEvent) -> None:
    Tag.objects.create(name=event.event_id)
    if once(f"event {event.event_id}"):
        die()


def die_for_seven(event: WorkflowEvent) -> None:
    if event.event_id == "7":
        os._exit(1)
    Tag.objects.create(name=event.event_id)


def write_and_be_held_once(event: WorkflowEvent) -> None:
    Tag.objects.create(name=event.event_id)
    if once("held"):
        until("go on")


def write_and_hold_every_fiftieth(event: WorkflowEvent) -> None:
    Tag.objects.create(name=event.event_id)
    if int(event.event_id) % 50 == 5 and once(f"held at {event.event_id}"):
        until("go on")


def held_in_a_step(input_data: dict[str, Any]) -> None:
    step("first", tag_and_be_held_once, "in a step: first")
    step("second", tag, "in a step: second")


def tag_and_be_held_once(name: str) -> None:
    Tag.objects.create(name=name)
    if once("held in a step"):
        until("go on")


def held_between_steps(input_data: dict[str, Any]) -> None:
    step("first", tag, "between steps: first")
    if once("held between steps"):
        until("go on")
    step("second", tag, "between steps: second")


def ten_steps(input_data: dict[str, Any]) -> dict[str, Any]:
    for number in range(10):
        if once(f"{input_data['n']} before {number}") and number == input_data["n"] % 10:
            die()
        step(f"step {number}", tag, f"{input_data['n']}-{number}")
    return {"done": input_data["n"]}


def tag(name: str) -> None:
    Tag.objects.create(name=name)
    if once(f"in {name}") and name.endswith("-5"):
        die()


def work_a_second(event: WorkflowEvent) -> None:
    once("working")
    time.sleep(1)
    Tag.objects.create(name=event.event_id)


def start_effects(event: WorkflowEvent) -> None:
    """For a network that fails: effects in the database, in this transaction and a workflow's."""
    Tag.objects.create(name=f"event {event.event_id}")
    for definition in (TEN_EFFECTS, TEN_CHARGES):
        get_workflow_engine().start(
            definition, {"n": event.event_id}, correlation_id=event.event_id
        )


def tell_outside(event: WorkflowEvent) -> None:
    tell_the_world(f"told {event.event_id}")


def stumble_once(input_data: dict[str, Any]) -> None:
    if once("stumbled"):
        raise ConnectionError("not now")


STUMBLING = WorkflowDefinition("stumbling", handler=stumble_once, retry=Retry(base=0.5))
BUDGET_APPROVAL = WorkflowDefinition("budget_approval", handler=budget_approval)
HELD_IN_A_STEP = WorkflowDefinition("held_in_a_step", handler=held_in_a_step)
HELD_BETWEEN_STEPS = WorkflowDefinition("held_between_steps", handler=held_between_steps)
TEN_STEPS = WorkflowDefinition("ten_steps", handler=ten_steps)

registry = get_event_registry()
tutorial_blocks.register_the_trigger(registry)
registry.register("project_status_changed", handler=tutorial_blocks.start_project_status_workflow)
registry.register(
    "project_failing",
    handler=fail_and_count,
    retries=2,
    dead_letter_handler=remember_the_dead,
)
registry.register("budget_requested", handler=start_budget_approval)
registry.register("write_and_be_held_once", handler=write_and_be_held_once)
registry.register("write_and_hold_every_fiftieth", handler=write_and_hold_every_fiftieth)
registry.register("write", handler=write)
registry.register("work_a_second", handler=work_a_second)
registry.register("start_effects", handler=start_effects)
registry.register("start_effects", handler=tell_outside, atomic=False)
registry.register("write_and_die_once", handler=write_and_die_once)
registry.register("die_for_seven", handler=die_for_seven)
