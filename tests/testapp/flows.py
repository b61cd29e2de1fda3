"""Workflow handlers as users write them: at the top level of a module."""

from datetime import timedelta
from typing import Any

from django.db import connection

from general_manager.workflow import (
    WaitTimeout,
    WorkflowDefinition,
    current_execution_id,
    get_workflow_engine,
    sleep,
    step,
    wait_for,
)
from tests.testapp.models import Tag

calls: list[str] = []
"""What ran, in order; emptied by the tests."""

troubles: list[BaseException] = []
"""What `stumble` raises, one after the other."""


def stumble() -> None:
    if troubles:
        raise troubles.pop(0)


def note(name: str) -> str:
    calls.append(name)
    return name


def write(name: str) -> str:
    Tag.objects.create(name=name)
    return note(name)


def echo(input_data: dict[str, Any]) -> dict[str, Any]:
    note("echo")
    return {"echo": input_data}


def fail(input_data: dict[str, Any]) -> None:
    Tag.objects.create(name="before the failure")
    raise ValueError("boom\x00" if input_data.get("nul") else "boom")


def break_the_transaction(input_data: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")


def two_steps(input_data: dict[str, Any]) -> dict[str, Any]:
    first = step("first", write, "first")
    stumble()
    second = step("second", write, "second")
    return {"steps": [first, second]}


def return_a_list(input_data: dict[str, Any]) -> Any:
    return [1]


def return_bytes(input_data: dict[str, Any]) -> Any:
    return {"x": b""}


def ask(input_data: dict[str, Any]) -> dict[str, Any]:
    note("asked before")
    try:
        answer = wait_for("approval", timeout=timedelta(days=1), ask=lambda: note("mail"))
    except WaitTimeout:
        return {"answer": "nobody"}
    return {"answer": answer}


def wait_once(input_data: dict[str, Any]) -> dict[str, Any]:
    return {"answer": wait_for("approval")}


def ask_twice(input_data: dict[str, Any]) -> dict[str, Any]:
    return {"first": wait_for("first"), "second": wait_for("second")}


def answer_at_once(input_data: dict[str, Any]) -> dict[str, Any]:
    def answer() -> None:
        get_workflow_engine().resume(str(current_execution_id()), "at once", wait="approval")

    return {"answer": wait_for("approval", ask=answer)}


def nap(input_data: dict[str, Any]) -> dict[str, Any]:
    sleep("a day", timedelta(days=1))
    return {"woke": True}


def charge_once(input_data: dict[str, Any]) -> None:
    step("charge", charge, once=True, atomic=False)


def charge() -> None:
    note("charge")
    stumble()


def start_from_event(event: Any) -> None:
    get_workflow_engine().start(
        WorkflowDefinition("echo", handler=echo),
        {"event": event.event_id},
        correlation_id=event.event_id,
    )


def charge_and_stumble(input_data: dict[str, Any]) -> None:
    step("charge", note, "charge", once=True, atomic=False)
    stumble()


def ask_a_then_b(input_data: dict[str, Any]) -> dict[str, Any]:
    try:
        first = wait_for("a", ask=stumble)
    except ValueError:
        first = "not asked"
    return {"a": first, "b": wait_for("b")}


def charge_then_note(input_data: dict[str, Any]) -> dict[str, Any]:
    charged = step("charge", charge_and_tell, once=True, atomic=False)
    note("paid")
    return {"charged": charged}


def charge_and_tell() -> str:
    charge()
    return "charge"


def fail_after_asking(input_data: dict[str, Any]) -> dict[str, Any]:
    answer = wait_for("approval", ask=lambda: note("mail"))
    stumble()
    return {"answer": answer}


def return_much(input_data: dict[str, Any]) -> None:
    step("much", lambda: write("much") * 25)
