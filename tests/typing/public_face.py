"""What a type checker must see of the public face; nothing here runs, mypy --strict reads it.

An ignore that is not needed is an error too, so what must be refused is tested as well.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Any, TypedDict, assert_type

from general_manager.workflow import (
    ExecutionQuery,
    Retry,
    Schedule,
    WorkflowDefinition,
    WorkflowEvent,
    WorkflowExecution,
    WorkflowState,
    astep,
    await_for,
    current_execution_id,
    get_event_registry,
    get_workflow_engine,
    report,
    resume_url,
    run_schedule,
    schedule,
    sleep,
    step,
    wait_for,
)
from general_manager.workflow.testing import (
    advance,
    assert_crash_safe,
    assert_published,
    drain,
    run,
)


class Colour(StrEnum):
    RED = "red"


class Held(TypedDict):
    seat: int


def hold(trip: int, *, seats: int = 1) -> str:
    return f"{trip} {seats}"


def seats() -> list[int]:
    return [1]


def prices() -> dict[str, float]:
    return {"a": 1.5}


def count() -> int | None:
    return None


def price() -> Decimal:
    return Decimal(1)


def pair() -> tuple[int, int]:
    return 1, 2


def colour() -> Colour:
    return Colour.RED


def held() -> Held:
    return {"seat": 1}


def moment() -> datetime:
    raise NotImplementedError


def mail(to: str) -> None:
    raise NotImplementedError(to)


# Without annotations, as much code is.
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
def unannotated(x):  # type: ignore[no-untyped-def]
    return x


def results() -> None:
    """JSON's own types are kept; what comes back as something else is `Any`."""
    assert_type(step("hold", hold, 1), str)
    assert_type(step("hold", hold, 1, seats=2), str)
    assert_type(step("seats", seats), list[int])
    assert_type(step("prices", prices), dict[str, float])
    assert_type(step("count", count), int | None)
    assert_type(step("lambda", lambda: 1), int)
    assert_type(step("partial", partial(hold, 1)), str)
    assert_type(step("price", price), Any)
    assert_type(step("pair", pair), Any)
    assert_type(step("colour", colour), Any)
    assert_type(step("held", held), Any)
    assert_type(step("moment", moment), Any)
    step("untyped", unannotated, 1)
    step("mail", mail, "ada@example.com")


def results_with_options() -> None:
    assert_type(step("hold", hold, 1, once=True), str)
    assert_type(step("hold", hold, 1, seats=2, atomic=False), str)
    assert_type(step("hold", hold, 1, seats=2, once=True, atomic=False), str)
    assert_type(step("hold", hold, 1, retry=Retry(max_attempts=2)), str)
    assert_type(step("hold", hold, 1, timeout=timedelta(seconds=3)), str)
    assert_type(step("hold", hold, 1, atomic=False, retry=Retry(), timeout=timedelta(1)), str)
    assert_type(step("price", price, retry=Retry()), Any)
    assert_type(step("price", price, atomic=False), Any)
    assert_type(step("pair", pair, once=True), Any)


def refused() -> None:
    step("hold", hold)  # type: ignore[call-overload]
    step("hold", hold, "one")  # type: ignore[call-overload]
    step("hold", hold, 1, seat=2)  # type: ignore[arg-type, call-arg]
    step("hold", hold(1))  # type: ignore[call-overload]
    step(hold, 1)  # type: ignore[call-overload]
    step("hold", partial(hold, "one"))  # type: ignore[arg-type]
    step("hold", hold, 1, retry=3)  # type: ignore[arg-type, call-arg]
    step("hold", hold, 1, timeout=3)  # type: ignore[arg-type, call-arg]
    step("hold", hold, 1, once=True, retry=Retry())  # type: ignore[arg-type, call-arg]
    step("hold", hold, 1, once="yes")  # type: ignore[arg-type, call-arg]
    wait_for("approval", ask=mail)  # type: ignore[arg-type]
    wait_for("approval", timeout=3)  # type: ignore[arg-type]
    sleep("night", 8)  # type: ignore[arg-type]


def documented(data: dict[str, Any]) -> Mapping[str, Any] | None:
    def ask() -> None:
        mail(resume_url(current_execution_id(), "approval", {"approved": True}, label="Approve"))

    answer = wait_for("approval", timeout=timedelta(days=3), ask=ask)
    assert_type(answer, Any)
    return {"by": answer["by"], "held": step("hold", hold, data["trip"])}


def started(event: WorkflowEvent) -> None:
    execution = get_workflow_engine().start(
        WorkflowDefinition("trip", handler=documented), event.payload["identification"]
    )
    resume_url(execution, "approval", {"approved": True})
    resume_url(execution.execution_id, "approval")
    resume_url(7, "approval")  # type: ignore[arg-type]


get_event_registry().register("manager_updated", handler=started)
get_event_registry().register("manager_updated", handler=mail)  # type: ignore[arg-type]


def tested() -> None:
    execution = run(documented, {"trip": 7}, answers={"approval": {"by": "ada"}})
    assert_type(execution.output_data, dict[str, Any] | None)
    assert_type(assert_crash_safe(documented, {"trip": 7}), dict[str, Any])
    assert_type(drain(), int)
    with assert_published("manager_updated") as events:
        assert_type(events, list[WorkflowEvent])


async def documented_async(data: dict[str, Any]) -> dict[str, Any]:
    report("progress", {"done": 1, "of": 2})
    report("progress", object())  # type: ignore[arg-type]
    held = await astep("hold", hold, data["trip"], atomic=False)
    answer = await await_for("approval", timeout=timedelta(days=3))
    return {"by": answer["by"], "held": held}


def found() -> None:
    engine = get_workflow_engine()
    executions = engine.executions(state=["failed", "cancelled"], attributes={"customer": 7})
    assert_type(executions, ExecutionQuery)
    assert_type(executions[:5], ExecutionQuery)
    assert_type(executions[0], WorkflowExecution)
    assert_type(executions.first(), WorkflowExecution | None)
    assert_type([one.subject for one in executions], list[str | None])
    assert_type(engine.result("id", timeout=5), dict[str, Any])
    engine.resume(workflow="trip", correlation_id="trip-7", signal={"ok": True})
    engine.executions(workflow=7)  # type: ignore[arg-type]


async def found_async() -> None:
    engine = get_workflow_engine()
    definition = WorkflowDefinition("trip", handler=documented_async)
    execution = await engine.astart(definition, {"trip": 7}, subject="Trip 7")
    assert_type(execution, WorkflowExecution)
    assert_type(await engine.aresult(execution.execution_id), dict[str, Any])
    assert_type([one.state async for one in engine.executions()], list[WorkflowState])


def schedules() -> None:
    flow = WorkflowDefinition("report", handler=lambda data: data)
    nightly = schedule("nightly", flow, cron="0 3 * * *", tz="Europe/Berlin", missed="all")
    assert_type(nightly, Schedule)
    assert_type(run_schedule("nightly"), WorkflowExecution)
    schedule("often", flow, every=timedelta(minutes=5), overlap="skip", slot_key="slot")
    schedule("wrong", flow, cron="0 3 * * *", missed="some")  # type: ignore[arg-type]  # refused
    advance(timedelta(days=1), schedules=["nightly"])
