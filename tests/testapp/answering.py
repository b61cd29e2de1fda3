"""Handlers that wait for events; what they wait for is in their input."""

from datetime import timedelta
from typing import Any

from general_manager.workflow import (
    WaitTimeout,
    answer,
    continue_as_new,
    first_of,
    on_event,
    on_signal,
    wait_for_event,
    wait_until,
)
from tests.testapp.models import Invoice, Tag
from tests.testapp.plays import stage

PAID = "payment_received"


def _timeout(data: dict[str, Any]) -> timedelta | None:
    return None if data.get("timeout") is None else timedelta(seconds=data["timeout"])


def ask_boss() -> None:
    stage.calls.append("asked")


def wait_once(data: dict[str, Any]) -> dict[str, Any]:
    match = data.get("match")
    try:
        paid = wait_for_event("payment", data.get("key", PAID), match=match, timeout=_timeout(data))
    except WaitTimeout:
        return {"paid": "nobody"}
    return {"paid": paid}


def wait_twice(data: dict[str, Any]) -> dict[str, Any]:
    """For the same match, or for two."""
    matches = data.get("matches", [None, None])
    found = [
        wait_for_event(f"payment {number}", PAID, match=match)
        for number, match in enumerate(matches, start=1)
    ]
    return {"paid": found}


def first(data: dict[str, Any]) -> dict[str, Any]:
    try:
        which, value = first_of(
            "outcome",
            paid=on_event(PAID, match={"order_id": 7}),
            gone=on_event("order_cancelled", match={"order_id": 7}),
            hurry=on_signal("hurry"),
            said=answer("boss", ask=ask_boss),
            timeout=_timeout(data),
        )
    except WaitTimeout:
        return {"which": "nobody"}
    return {"which": which, "value": value}


def first_event(data: dict[str, Any]) -> dict[str, Any]:
    """Without a question, and then for what the first did not take."""
    which, value = first_of("outcome", paid=on_event(PAID), gone=on_event("order_cancelled"))
    if data.get("again"):
        other = "order_cancelled" if which == "paid" else PAID
        return {"which": which, "value": value, "then": wait_for_event("then", other)}
    return {"which": which, "value": value}


def count(data: dict[str, Any]) -> dict[str, Any]:
    """An endless workflow: one event for each execution of its chain."""
    paid = wait_for_event("payment", PAID)
    amounts = [*data.get("amounts", []), paid["amount"]]
    if len(amounts) < 2:
        continue_as_new({"amounts": amounts})
    return {"amounts": amounts}


def until(data: dict[str, Any]) -> dict[str, Any]:
    try:
        state = wait_until("paid", Invoice, data["pk"], {"status": "paid"}, timeout=_timeout(data))
    except WaitTimeout:
        return {"state": "never"}
    return {"state": state}


def since_seen(data: dict[str, Any]) -> dict[str, Any]:
    return {"paid": wait_for_event("payment", PAID, since=stage.seen[0])}


def wait_and_fail(data: dict[str, Any]) -> dict[str, Any]:
    amounts = [wait_for_event(f"payment {number}", PAID)["amount"] for number in (1, 2)]
    stage.seen.append(amounts)
    if len(stage.seen) == 1:
        raise ValueError("boom")
    return {}


def until_tag(data: dict[str, Any]) -> dict[str, Any]:
    return {"state": wait_until("named", Tag, 1, {"name": "x"})}


def wait_wrongly(data: dict[str, Any]) -> dict[str, Any]:
    given = dict(stage.seen[-1])
    return {"paid": wait_for_event("payment", given.pop("key", PAID), **given)}


def take_amounts(_: dict[str, Any]) -> dict[str, Any]:
    amounts = [wait_for_event(f"payment {number}", PAID)["amount"] for number in range(3)]
    return {"amounts": amounts}
