"""Durable calls that a coroutine ends from outside, by a clock or because another call failed."""

import asyncio
import time

import pytest

from general_manager.workflow import WorkflowDefinition, astep, await_for, saga
from tests.testapp.plays import note, stage

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


async def slowly(name):
    note(name)
    await asyncio.sleep(2)
    return name


def slowly_and_plainly(name):
    note(name)
    time.sleep(0.5)
    return name


FORMS = {"async": slowly, "plain": slowly_and_plainly}


async def impatient(data):
    call = astep("slow", FORMS[data["form"]], "slow", **data["options"])
    try:
        if data["by"] == "timeout":
            async with asyncio.timeout(0.2):
                await call
        elif data["by"] == "wait_for":
            await asyncio.wait_for(call, 0.2)
        elif data["by"] == "a group":
            async with asyncio.timeout(0.2), asyncio.TaskGroup() as group:
                group.create_task(call)
        else:
            task = asyncio.create_task(call)
            await asyncio.sleep(0.2)
            task.cancel()
            await asyncio.wait([task])
    except TimeoutError:
        note("late")
    try:
        await astep("next", note, "next")
    except Exception as error:
        note(type(error).__name__)
    await await_for("human")
    return {}


IMPATIENT = WorkflowDefinition("impatient", handler=impatient)


@pytest.mark.parametrize(
    ("by", "form", "options"),
    [
        *((by, form, {}) for by in ("timeout", "wait_for", "a group", "cancel") for form in FORMS),
        ("timeout", "async", {"atomic": False}),
        ("timeout", "async", {"once": True}),
    ],
)
def test_t1_what_cuts_a_step_off_by_a_clock_is_refused_before_the_handler_acts_on_it(
    started, by, form, options
):
    one = started(IMPATIENT, {"by": by, "form": form, "options": options})
    assert one.state == "failed", one
    assert one.error.startswith("'slow' was cut off from outside, as asyncio.timeout()")
    assert "timeout= of the step" in one.error
    assert stage.calls[-1] == "StepUsageError"
    assert "next" not in stage.calls


async def impatient_with_a_wait(data):
    try:
        async with asyncio.timeout(0.2), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(1))
            group.create_task(astep("slow", slowly, "slow"))
    except TimeoutError:
        await await_for("human")


def test_t1_no_wait_follows_a_step_that_was_cut_off(started):
    one = started(WorkflowDefinition("w", handler=impatient_with_a_wait))
    assert (one.state, one.waiting_for) == ("failed", None)
    assert "'slow' was cut off" in one.error


async def impatient_inside(data):
    try:
        await astep("slow", in_time)
    except TimeoutError:
        note("late")
    await await_for("human")
    return {"late": "late" in stage.calls}


async def in_time():
    async with asyncio.timeout(0.2):
        await slowly("slow")


def test_t1_a_time_limit_inside_a_step_is_the_failure_of_that_step(started, driver, engine):
    one = started(WorkflowDefinition("w", handler=impatient_inside))
    assert (one.state, one.waiting_for) == ("waiting", "human")
    engine.resume(one.execution_id, 1)
    driver.settle()
    assert engine.status(one.execution_id).state == "completed"
    assert stage.calls == ["slow", "late", "late"]


async def refuse(name):
    await asyncio.sleep(0.2)
    raise ValueError(f"{name} refuses")


async def together(data):
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(astep("hotel", FORMS[data["form"]], "hotel"))
            if data["in the body"]:
                await astep("flight", refuse, "flight")
            else:
                group.create_task(astep("flight", refuse, "flight"))
    except* ValueError:
        note("caught")
    await await_for("human")
    await astep("next", note, "next")
    return {}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("in_the_body", [True, False])
def test_t1_a_task_group_may_cancel_a_step_because_another_one_failed(
    started, driver, engine, form, in_the_body
):
    given = {"form": form, "in the body": in_the_body}
    one = started(WorkflowDefinition("w", handler=together), given)
    assert (one.state, one.waiting_for) == ("waiting", "human"), one.error
    engine.resume(one.execution_id, 1)
    driver.settle()
    one = engine.status(one.execution_id)
    assert (one.state, stage.calls[-1]) == ("completed", "next")
    assert stage.calls.count("caught") == 2


async def leave_late(data):
    async with saga("trip") as undo:
        undo("unbook", note, "unbook")
        await astep("book", note, "book")
        async with asyncio.timeout(0.2):
            await astep("slow", slowly, "slow")


def test_s1_a_step_that_is_cut_off_undoes_the_saga_that_its_timeout_leaves(started):
    one = started(WorkflowDefinition("w", handler=leave_late))
    assert (one.state, stage.calls) == ("failed", ["book", "slow", "unbook"])
    assert "TimeoutError" in one.traceback
