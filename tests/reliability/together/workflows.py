"""What depends on others, and leaves a row, and a line outside, for each thing that it does."""

from typing import Any

from general_manager.workflow import (
    Limit,
    WorkflowDefinition,
    WorkflowEvent,
    child,
    current_execution_id,
    gather,
    get_event_registry,
    get_workflow_engine,
    step,
    wait_for_event,
)
from general_manager.workflow.models import WorkflowExecutionRecord
from tests.acceptance.production.shop.effects import inside, outside

PARTS = 6
AT_ONCE = 3
SLOTS = 2
CUSTOMERS = 10
PAID, MOVED = "together_paid", "together_moved"


def part(data: dict[str, Any]) -> dict[str, Any]:
    name = f"part {data['n']}-{data['part']}"
    step("inside", inside, name)
    step("outside", outside, name, atomic=False)
    return {"part": data["part"]}


def family(data: dict[str, Any]) -> dict[str, Any]:
    children = [child(PART, {"n": data["n"], "part": number}) for number in range(PARTS)]
    parts = gather("parts", children, at_once=AT_ONCE)
    step("joined", inside, f"joined {data['n']}")
    return {"parts": [one["part"] for one in parts]}


def paid(data: dict[str, Any]) -> dict[str, Any]:
    """Two payments for one order, each taken once, in the order in which they came."""
    match = {"order": data["n"]}
    amounts = [wait_for_event(name, PAID, match=match)["amount"] for name in ("first", "second")]
    step("outside", outside, f"paid {data['n']}", atomic=False)
    return {"amounts": amounts}


def limited(data: dict[str, Any]) -> dict[str, Any]:
    for number in range(3):
        step(f"count {number}", count_slots, data["customer"])
    step("outside", outside, f"limited {data['n']}", atomic=False)
    return {}


def count_slots(customer: int) -> None:
    """How many hold a slot of the limit now, as everybody sees it."""
    rows = WorkflowExecutionRecord.objects
    slot = rows.get(execution_id=current_execution_id()).holds_slot
    if slot is not None:  # otherwise this run has lost its claim, and nothing of it is kept
        inside(f"slots {customer}: {rows.filter(holds_slot=slot).count()}")


def move(event: WorkflowEvent) -> None:
    inside(f"moved {event.payload['customer']}-{event.payload['number']}")


PART = WorkflowDefinition("part", handler=part)
FAMILY = WorkflowDefinition("family", handler=family)
PAYMENT = WorkflowDefinition("payment", handler=paid)
LIMITED = WorkflowDefinition("limited", handler=limited, limit=Limit(SLOTS, key="customer"))
get_event_registry().register(MOVED, handler=move, in_order=True)


def start_all(count: int) -> None:
    """*count* of each kind, mixed; the second payment comes when others have begun."""
    engine, registry = get_workflow_engine(), get_event_registry()

    def publish(name: str, key: str, payload: dict[str, Any], lane: str | None = None) -> None:
        event = WorkflowEvent(key, f"shop.{name}", payload, event_name=name, ordering_key=lane)
        registry.publish(event)

    for n in range(count):
        customer = n % CUSTOMERS
        engine.start(FAMILY, {"n": n})
        engine.start(PAYMENT, {"n": n})
        engine.start(LIMITED, {"n": n, "customer": customer})
        publish(PAID, f"first {n}", {"order": n, "amount": 1})
        moved = {"customer": customer, "number": n // CUSTOMERS}
        publish(MOVED, f"moved {n}", moved, f"customer {customer}")
        if n >= CUSTOMERS:
            before = n - CUSTOMERS
            publish(PAID, f"second {before}", {"order": before, "amount": 2})
    for n in range(max(0, count - CUSTOMERS), count):
        publish(PAID, f"second {n}", {"order": n, "amount": 2})
