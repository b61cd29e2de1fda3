"""Handlers of ten effects each, for processes that die in the middle of them.

An effect is a row in the database, or a line in a file: the file is the world outside.
"""

import os
import time
from datetime import timedelta
from pathlib import Path
from random import random, uniform
from typing import Any

from general_manager.workflow import (
    PermanentFailure,
    Retry,
    WorkflowDefinition,
    get_workflow_engine,
    saga,
    sleep,
    step,
)
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.models import WorkflowStep
from tests.testapp.models import Tag

COUNT = 10
BOOKED = 4
AGAIN = Retry(max_attempts=50, base=0.05, factor=1)


def ten_effects(input_data: dict[str, Any]) -> dict[str, Any]:
    """By turns in the database and outside; as plain code outside an execution."""
    done = 0
    for number in range(COUNT):
        is_inside = number % 2 == 0
        effect = inside if is_inside else outside
        name = f"{input_data['n']}-{number}"
        done += step(f"step {number}", effect, name, atomic=is_inside)
    return {"done": done}


def ten_charges(input_data: dict[str, Any]) -> dict[str, Any]:
    """Outside, and never twice."""
    done = 0
    for number in range(COUNT):
        name = f"charge {input_data['n']}-{number}"
        done += step(name, outside, name, once=True, atomic=False)
    return {"done": done}


def booking(input_data: dict[str, Any]) -> dict[str, Any]:
    """A saga of steps that are retried. Of every other number everything is undone."""
    with saga("booking") as undo:
        for number in range(BOOKED):
            name = f"booking {input_data['n']}-{number}"
            step(name, book, name, retry=AGAIN)
            undo(f"undo {name}", unbook, name)
        if input_data["n"] % 2:
            raise PermanentFailure("full")
    return {"booked": BOOKED}


def book(name: str) -> int:
    done = inside(name)
    if random() < 0.3:
        raise ConnectionError("busy")
    return done


def unbook(name: str) -> None:
    Tag.objects.get(name=name).delete()
    inside(f"undone {name}")


def inside(name: str) -> int:
    _dawdle()
    Tag.objects.create(name=name)
    _dawdle()
    return 1


def outside(name: str) -> int:
    _dawdle()
    tell_the_world(name)
    _dawdle()
    return 1


def tell_the_world(line: str) -> None:
    file = os.open(_world(), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())  # all of it or nothing
    os.close(file)


def start_all(*, effects: int, charges: int, bookings: int = 0) -> None:
    engine = get_workflow_engine()
    for n in range(max(effects, charges, bookings)):
        if n < effects:
            engine.start(TEN_EFFECTS, {"n": n})
        if n < charges:
            engine.start(TEN_CHARGES, {"n": n})
        if n < bookings:
            engine.start(BOOKING, {"n": n})


def start_a_backlog() -> None:
    """Work for seconds, which is followed by as much, until the test says "enough"; and a nap."""
    engine = get_workflow_engine()
    for n in range(60):
        engine.start(ANOTHER, {"n": n})
    engine.start(NAP)


def another(input_data: dict[str, Any]) -> None:
    time.sleep(0.1)
    if not (Path(os.environ["TEST_MARKS"]) / "enough").exists():
        get_workflow_engine().start(ANOTHER, input_data)


def nap(_: dict[str, Any]) -> None:
    sleep("a moment", timedelta(seconds=2))


def resolve_doubts() -> None:
    """What an operator does about steps in doubt: look outside, and say what is there."""
    happened = set(_world().read_text().splitlines())
    engine = CeleryWorkflowEngine()
    for doubt in WorkflowStep.objects.filter(status="started"):
        engine.resolve_step(
            doubt.execution.execution_id, doubt.name, happened=doubt.name in happened, result=1
        )


def _world() -> Path:
    return Path(os.environ["TEST_MARKS"]) / "outside"


def _dawdle() -> None:
    """Long enough to be killed here."""
    time.sleep(uniform(0, 0.02))


ANOTHER = WorkflowDefinition("another", handler=another)
NAP = WorkflowDefinition("nap", handler=nap)
TEN_EFFECTS = WorkflowDefinition("ten_effects", handler=ten_effects)
TEN_CHARGES = WorkflowDefinition("ten_charges", handler=ten_charges)
BOOKING = WorkflowDefinition("booking", handler=booking)
