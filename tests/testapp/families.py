"""Handlers with children, for the contract of every engine and the tests of the tables.

At the top level of a module, as workers need them. What they do is in their input, or on stage.
"""

from datetime import timedelta
from typing import Any

from general_manager.workflow import (
    ChildFailed,
    PermanentFailure,
    WaitTimeout,
    WorkflowDefinition,
    agather,
    child,
    child_result,
    continue_as_new,
    gather,
    saga,
    step,
    wait_for,
)
from tests.testapp.plays import note, stage

HOUR = timedelta(hours=1)


def page(data: dict[str, Any]) -> dict[str, Any]:
    """Ends at once, fails, or waits for an answer, as its input says."""
    name = f"page {data['n']}"
    note(name)
    if data.get("fails") or str(data["n"]) in stage.failing:
        raise PermanentFailure(f"{name} is torn")
    if data.get("waits"):
        return {"n": wait_for("go", timeout=data.get("limit") and HOUR)}
    return {"n": data["n"] * 10}


PAGE = WorkflowDefinition("page", handler=page)


def book(data: dict[str, Any]) -> dict[str, Any]:
    """Gathers ``pages`` with the ``options`` of its input, and says what it got."""
    note("book")
    hours = data.get("hours")
    try:
        parts = gather(
            "pages",
            [
                child(
                    PAGE,
                    one,
                    key=one.get("key"),
                    correlation_id=one.get("id"),
                    abandon=one.get("abandon", False),
                )
                for one in data["pages"]
            ],
            timeout=None if hours is None else hours * HOUR,
            **data.get("options", {}),
        )
    except (ChildFailed, WaitTimeout) as error:
        note(f"caught {type(error).__name__}")
        if not data.get("catches"):
            raise
        return {"caught": str(error)}
    note("bound")
    if data.get("then"):
        wait_for("then")
    if data.get("ends") == "badly":
        raise PermanentFailure("the binding broke")
    return {"parts": [one if isinstance(one, dict) else told(one) for one in parts]}


def told(failed: ChildFailed) -> dict[str, Any]:
    return {"key": failed.key, "state": failed.state, "error": failed.error}


BOOK = WorkflowDefinition("book", handler=book)


async def abook(data: dict[str, Any]) -> dict[str, Any]:
    parts = await agather("pages", [child(PAGE, {"n": n}) for n in data["numbers"]])
    return {"parts": parts}


ABOOK = WorkflowDefinition("abook", handler=abook)


def shelf(data: dict[str, Any]) -> dict[str, Any]:
    """One child that has children."""
    return {"book": child_result("book", BOOK, data, correlation_id=data.get("book id"))}


SHELF = WorkflowDefinition("shelf", handler=shelf)


def descend(data: dict[str, Any]) -> dict[str, Any]:
    if data["left"] == 0:
        return {"depth": 0}
    below = child_result("below", DESCEND, {"left": data["left"] - 1})
    return {"depth": below["depth"] + 1}


DESCEND = WorkflowDefinition("descend", handler=descend)


def ring(data: dict[str, Any]) -> dict[str, Any]:
    """Waits, then for the execution with the correlation id that its input names."""
    if data.get("first"):
        wait_for("go")
    return {"got": child_result("next", RING, {"next": "x"}, correlation_id=data["next"])}


RING = WorkflowDefinition("ring", handler=ring)


def renewing_page(data: dict[str, Any]) -> dict[str, Any]:
    if data["left"]:
        wait_for("go")
        continue_as_new({"left": data["left"] - 1})
    return {"n": 7}


RENEWING_PAGE = WorkflowDefinition("renewing page", handler=renewing_page)


def patient_book(data: dict[str, Any]) -> dict[str, Any]:
    return child_result("page", RENEWING_PAGE, {"left": data["left"]})


PATIENT_BOOK = WorkflowDefinition("patient book", handler=patient_book)


def undoing_page(data: dict[str, Any]) -> dict[str, Any]:
    with saga("page") as undo:
        undo(f"unprint {data['n']}", note, f"unprinted {data['n']}")
        step("print", note, f"printed {data['n']}")
        wait_for("go")
    return {}


UNDOING_PAGE = WorkflowDefinition("undoing page", handler=undoing_page)


def undoing_book(data: dict[str, Any]) -> dict[str, Any]:
    with saga("book") as undo:
        undo("unbind", note, "unbound")
        step("bind", note, "bound")
        gather("pages", [child(UNDOING_PAGE, {"n": n}) for n in data["numbers"]])
    return {}


UNDOING_BOOK = WorkflowDefinition("undoing book", handler=undoing_book)


def bad_gather(data: dict[str, Any]) -> dict[str, Any]:
    wrong = data["wrong"]
    if wrong == "key used twice":
        gather("pages", [child(PAGE, {}, key="a"), child(PAGE, {}, key="a")])
    if wrong == "inside a step":
        step("outer", lambda: gather("pages", []))
    if wrong == "no child":
        gather("pages", [PAGE])  # type: ignore[list-item]
    if wrong == "none at once":
        gather("pages", [], at_once=0)
    if wrong == "on failure":
        gather("pages", [], on_failure="shrug")
    if wrong == "name used twice":
        gather("pages", [])
        gather("pages", [])
    return {}


BAD_GATHER = WorkflowDefinition("bad gather", handler=bad_gather)


def two_gathers(data: dict[str, Any]) -> dict[str, Any]:
    first = gather("first", [child(PAGE, {"n": n}) for n in (1, 2)])
    second = gather("second", [child(PAGE, {"n": one["n"]}) for one in first])
    return {"parts": second}


TWO_GATHERS = WorkflowDefinition("two gathers", handler=two_gathers)
NOTHING = WorkflowDefinition("no handler")
NOWHERE = WorkflowDefinition("nowhere", metadata={"handler_path": "tests.nowhere.handler"})


def odd_children(data: dict[str, Any]) -> dict[str, Any]:
    parts = gather("odd", [child(NOTHING), child(NOWHERE)], on_failure="collect")
    return {"parts": [one if isinstance(one, dict) else told(one) for one in parts]}


ODD_CHILDREN = WorkflowDefinition("odd children", handler=odd_children)
