"""A parent that is cancelled while the code of its child runs, by that code, on every engine."""

from time import sleep
from typing import Any

import pytest
from django.db import transaction

from general_manager.workflow import (
    WorkflowDefinition,
    child,
    child_result,
    current_execution_id,
    gather,
    get_workflow_engine,
    saga,
    step,
)
from tests.testapp.models import Tag
from tests.testapp.plays import note, stage

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def mutineer(data: dict[str, Any]) -> dict[str, Any]:
    """Cancels the execution above it, and goes on as its input says."""
    with saga("mutiny") as undo:
        undo("calm", note, "calmed")
        step("rise", note, "risen")
        cancel_above(data)
        if data.get("steps"):
            step("rule", rule)
    return {"done": True}


def rule() -> None:
    Tag.objects.create(name="ruled")


def cancel_above(data: dict[str, Any]) -> None:
    engine = get_workflow_engine()
    me = engine.status(current_execution_id())
    above = me.root_id if data.get("root") else me.parent_id
    for one in (me.parent_id, above):
        while engine.status(one).state == "running":  # in another thread, to wait for this one
            sleep(0.01)
    if data.get("atomic"):
        step("cancel", lambda: str(engine.cancel(above, compensate=data["compensate"]).state))
    elif data.get("inside"):
        with transaction.atomic():
            engine.cancel(above, compensate=data["compensate"])
    else:
        engine.cancel(above, compensate=data["compensate"])


MUTINEER = WorkflowDefinition("mutineer", handler=mutineer)


def ship(data: dict[str, Any]) -> dict[str, Any]:
    with saga("voyage") as undo:
        undo("return", note, "returned")
        step("sail", note, "sailed")
        gather("crew", [child(MUTINEER, data, abandon=data.get("abandon", False))])
    return {}


SHIP = WorkflowDefinition("ship", handler=ship)


def fleet(data: dict[str, Any]) -> dict[str, Any]:
    return {"ship": child_result("ship", SHIP, data)}


FLEET = WorkflowDefinition("fleet", handler=fleet)


def state_of(engine: Any, workflow: WorkflowDefinition) -> str:
    return str(next(iter(engine.executions(workflow=workflow))).state)


@pytest.mark.parametrize("steps", [True, False], ids=["with more to do", "with nothing left"])
@pytest.mark.parametrize("how", ["plainly", "atomic", "inside"])
@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("root", [False, True])
def test_c1_a_child_that_cancels_its_parent_is_cancelled_with_it(
    engine, started, steps, how, compensate, root
):
    given = {"compensate": compensate, "steps": steps, how: True, "root": root}
    execution = started(FLEET if root else SHIP, given)
    assert execution.state == "cancelled"
    assert state_of(engine, MUTINEER) == "cancelled"
    assert state_of(engine, SHIP) == "cancelled"
    undone = [one for one in stage.calls if one in ("calmed", "returned")]
    assert undone == (["calmed", "returned"] if compensate else [])
    assert not Tag.objects.exists()


@pytest.mark.parametrize("compensate", [False, True])
def test_c1_an_abandoned_child_that_cancels_its_parent_goes_on(engine, started, compensate):
    given = {"compensate": compensate, "steps": True, "abandon": True}
    execution = started(SHIP, given)
    assert execution.state == "cancelled"
    assert state_of(engine, MUTINEER) == "completed"
    assert Tag.objects.exists()
