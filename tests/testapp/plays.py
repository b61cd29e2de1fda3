"""Handlers that the engines' contract is tested with: what they do is in their input, or on stage.

At the top level of a module, as workers need them.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from general_manager.workflow import (
    PermanentFailure,
    RetryAfter,
    WaitTimeout,
    current_execution_id,
    get_workflow_engine,
    sleep,
    step,
    wait_for,
)
from tests.testapp.models import Tag

HOUR = timedelta(hours=1)


@dataclass
class Stage:
    """What a test arranges, and what it saw."""

    calls: list[str] = field(default_factory=list)
    troubles: list[BaseException | None] = field(default_factory=list)
    """What becomes of each `stumble`, in order; `None` is a step that does not."""
    failing: set[str] = field(default_factory=set)
    """Keys of executions that fail where they can."""
    driver: Any = None


stage = Stage()


def reset() -> None:
    stage.calls.clear()
    stage.troubles.clear()
    stage.failing.clear()


def stumble() -> None:
    trouble = stage.troubles.pop(0) if stage.troubles else None
    if trouble is not None:
        raise trouble


def note(name: str) -> str:
    stage.calls.append(name)
    return name


def echo(data: dict[str, Any]) -> dict[str, Any]:
    note("echo")
    return {"echo": data}


def spoil_the_input(data: dict[str, Any]) -> dict[str, Any]:
    data["seen"]["x"] = "spoilt"
    return {}


def nothing(data: dict[str, Any]) -> None:
    note("nothing")


def a_list(data: dict[str, Any]) -> Any:
    return [1]


def some_bytes(data: dict[str, Any]) -> Any:
    return {"x": {"y": b""}}


def fail(data: dict[str, Any]) -> None:
    note("fail")
    raise ValueError(data.get("text", "boom"))


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def fail_unspeakably(data: dict[str, Any]) -> None:
    raise UnspeakableError


def fail_as_told(data: dict[str, Any]) -> dict[str, Any]:
    note("attempt")
    stumble()
    return {}


def give_up(data: dict[str, Any]) -> None:
    note("attempt")
    raise PermanentFailure("never")


def come_again(data: dict[str, Any]) -> dict[str, Any]:
    note("attempt")
    if len(stage.calls) == 1:
        raise RetryAfter(HOUR)
    return {}


def two_steps(data: dict[str, Any]) -> dict[str, Any]:
    first = step("first", note, "first")
    stumble()
    second = step("second", note, "second")
    stumble()
    return {"steps": [first, second]}


def one_name_twice(data: dict[str, Any]) -> None:
    step("same", note, "one")
    step("same", note, "two")


def step_in_a_step(data: dict[str, Any]) -> None:
    step("outer", lambda: step("inner", note, "inner"))


def a_step_of_bytes(data: dict[str, Any]) -> None:
    step("bad", bytes)


def steps_as_json(data: dict[str, Any]) -> dict[str, Any]:
    return {"types": [type(step("pair", lambda: (1, HOUR))).__name__]}


def charge_once(data: dict[str, Any]) -> dict[str, Any]:
    result = step("charge", charge, once=True, atomic=False)
    note("after the charge")
    return {"charged": result}


def charge() -> str:
    note("charge")
    stumble()
    return "receipt"


def ask(data: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = wait_for("approval", timeout=24 * HOUR, ask=lambda: note("mail"))
    except WaitTimeout as error:
        return {"late": error.name}
    stumble()
    return {"answer": answer}


def ask_twice(data: dict[str, Any]) -> dict[str, Any]:
    return {"first": wait_for("first"), "second": wait_for("second")}


def answer_at_once(data: dict[str, Any]) -> dict[str, Any]:
    def answer() -> None:
        get_workflow_engine().resume(str(current_execution_id()), "at once", wait="approval")

    return {"answer": wait_for("approval", ask=answer)}


def nap(data: dict[str, Any]) -> dict[str, Any]:
    sleep("nap", HOUR)
    return {"slept": True}


def cancel_itself(data: dict[str, Any]) -> dict[str, Any]:
    step("before", note, "before")
    get_workflow_engine().cancel(str(current_execution_id()), reason="enough")
    step("after", Tag.objects.create, name="after")
    note("never reached")
    return {"never": "kept"}


def take_an_hour(data: dict[str, Any]) -> dict[str, Any]:
    step("before", note, "before")
    stage.driver.pass_time(HOUR)
    return {"too": "late"}


def take_an_hour_and_ask(data: dict[str, Any]) -> dict[str, Any]:
    stage.driver.pass_time(HOUR)
    return {"answer": wait_for("approval")}


def journey(data: dict[str, Any]) -> dict[str, Any]:
    """A bit of everything; fails wherever its key is among the failing."""
    first = step("first", note, "first")
    _fail_if_it_should(data)
    try:
        answer = wait_for("answer", timeout=24 * HOUR)
    except WaitTimeout:
        answer = "late"
    _fail_if_it_should(data)
    sleep("rest", HOUR)
    second = step("second", note, f"second {answer}")
    _fail_if_it_should(data)
    return {"all": [first, second]}


def charge_once_if_it_can(data: dict[str, Any]) -> dict[str, Any]:
    return {"charged": step("charge", _fail_if_it_should, data, once=True, atomic=False)}


def _fail_if_it_should(data: dict[str, Any]) -> None:
    if data["key"] in stage.failing:
        raise ValueError(f"{data['key']} fails")
