"""Async handlers that the engines' contract is tested with; at the top level, for workers."""

import asyncio
import threading
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import Any

from asgiref.sync import markcoroutinefunction, sync_to_async
from django.db import connection

from general_manager.workflow import (
    WaitTimeout,
    areport,
    asleep,
    astep,
    await_for,
    current_execution_id,
    get_workflow_engine,
    report,
    sleep,
    step,
    wait_for,
)
from tests.testapp.models import Tag
from tests.testapp.plays import stage

mark: ContextVar[str] = ContextVar("mark", default="none")


async def echo(data: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"echo": data, "id": current_execution_id(), "loop": threading.get_ident()}


async def fail(data: dict[str, Any]) -> None:
    raise ValueError("boom")


async def be_cancelled(data: dict[str, Any]) -> None:
    raise asyncio.CancelledError


class Callable:
    __qualname__ = "CALLABLE"

    async def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return await echo(data)


async def with_more(more: int, data: dict[str, Any]) -> dict[str, Any]:
    return {**await echo(data), "more": more}


def returns_a_coroutine(data: dict[str, Any]) -> Any:
    return echo(data)


FORMS = {
    "a function": echo, "an object": Callable(), "a partial": partial(with_more, 1),
    "a partial of an object": partial(Callable()), "a plain function": returns_a_coroutine,
    "marked": markcoroutinefunction(partial(returns_a_coroutine)),
}  # fmt: skip


async def add(name: str) -> str:
    stage.calls.append(name)
    tag = await Tag.objects.acreate(name=name)
    stage.seen.append((tag.name, await _in_a_transaction()))
    return tag.name


async def _in_a_transaction() -> bool:
    return await sync_to_async(lambda: connection.in_atomic_block)()


async def steps(data: dict[str, Any]) -> dict[str, Any]:
    """Each kind of step, of each kind of function."""
    first = await astep("atomic", add, "one")
    second = await astep("not atomic", add, "two", atomic=False)
    third = await astep("once", add, "three", once=True)
    plain = await astep("plain", len, "four")
    return {"names": [first, second, third], "plain": plain, "count": await Tag.objects.acount()}


def steps_of_a_plain_handler(data: dict[str, Any]) -> dict[str, Any]:
    return {"name": step("atomic", add, "one"), "lambda": step("lambda", lambda: add("two"))}


async def add_then_stumble(data: dict[str, Any]) -> dict[str, Any]:
    return {"name": await astep("add", add_once_it_works)}


async def add_once_it_works() -> str:
    name = await add("one")
    trouble = stage.troubles.pop(0) if stage.troubles else None
    if trouble is not None:
        raise trouble
    return name


async def asked() -> None:
    stage.calls.append("asked")


async def ask(data: dict[str, Any]) -> dict[str, Any]:
    await astep("before", add, "one")
    await areport("progress", {"done": 1, "of": 2})
    try:
        answer = await await_for("approval", timeout=timedelta(hours=1), ask=asked)
    except WaitTimeout:
        answer = "late"
    await asleep("nap", timedelta(hours=1))
    return {"answer": answer}


async def catch_everything(data: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"answer": await await_for("approval")}
    except Exception:
        return {"answer": "caught"}


async def gather(data: dict[str, Any]) -> dict[str, Any]:
    names = await asyncio.gather(*(astep(f"step {n}", add, f"tag {n}") for n in range(4)))
    return {"names": names}


async def gather_waits(data: dict[str, Any]) -> dict[str, Any]:
    name, answer = await asyncio.gather(astep("first", add, "one"), await_for("approval"))
    return {"name": name, "answer": answer}


async def group(data: dict[str, Any]) -> dict[str, Any]:
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(astep("first", add, "one"))
        second = tasks.create_task(await_for("approval"))
    return {"name": first.result(), "answer": second.result()}


async def step_in_a_step(data: dict[str, Any]) -> None:
    async def outer() -> None:
        await astep("inner", add, "x")

    await astep("outer", outer)


PLAIN: dict[str, Any] = {
    "step": lambda: step("x", len, "y"), "wait_for": lambda: wait_for("x"),
    "sleep": lambda: sleep("x", timedelta(1)), "report": lambda: report("x", 1),
}  # fmt: skip


async def call_plainly(data: dict[str, Any]) -> None:
    PLAIN[data["name"]]()


async def keep_context(data: dict[str, Any]) -> dict[str, Any]:
    mark.set("of the handler")

    async def inner() -> str:
        return mark.get()

    return {"plain": await astep("plain", mark.get), "async": await astep("async", inner)}


async def start_another(data: dict[str, Any]) -> dict[str, Any]:
    engine = get_workflow_engine()
    other = await engine.astart(stage.seen[0], {"n": 1})
    return {"other": other.execution_id}


async def steps_that_commit(data: dict[str, Any]) -> dict[str, Any]:
    return {"names": [await astep("first", add, "one"), await astep("second", add, "two")]}
