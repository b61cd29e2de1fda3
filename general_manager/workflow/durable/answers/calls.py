"""The calls of a handler that wait for events, for objects, or for the first of several things."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Model

from general_manager.workflow.core.coroutines import require_a_thread
from general_manager.workflow.durable.answers.objects import state_of
from general_manager.workflow.durable.answers.sources import (
    Source,
    SourceKind,
    branches,
    on_event,
)
from general_manager.workflow.durable.calls import checked_timeout, run_of

__all__ = ["first_of", "wait_for_event", "wait_until"]

RESUMED = "resumed"
"""The name that `first_of` returns for an answer by `resume`, if it has no `answer` source."""


def wait_for_event(
    name: str,
    event: str,
    *,
    match: Mapping[str, Any] | None = None,
    since: datetime | None = None,
    timeout: timedelta | None = None,
) -> Any:
    """Wait for an event, and return its payload.

    *event* is a type or a name, as in `register`. *match* has values by their paths into the
    payload: ``{"order_id": 7, "changes.status.new": "paid"}``; all must be equal.

    The stored events are the mailbox. The earliest one that matches answers, once: a later wait for
    the same *event* and *match*, in this execution or in one that continues it, takes the next. An
    event counts if no worker had claimed it before the execution was started (the first one, if it
    was continued), or before *since*, an aware time. So an event that comes first is not missed,
    and the event whose handler started the execution is not its own answer. `resume` can answer
    too.

    Raises `WaitTimeout` if none comes within *timeout*, `StepUsageError` if events are not kept
    where the execution is, `TypeError` or `ValueError` for a wrong argument.
    """
    require_a_thread("wait_for_event()", "await await_for_event(...)")
    source = on_event(event, match=match, since=since)
    return _wait("wait_for_event", name, [source], timeout)


def first_of(name: str, *, timeout: timedelta | None = None, **sources: Source) -> tuple[str, Any]:
    """Wait for the first of several *sources*; returns its name and what it gave.

    ::

        which, value = first_of(
            "outcome",
            paid=on_event("payment_received", match={"order_id": 7}),
            hurry=on_signal("hurry"),
            said=answer("boss", ask=send_mail),
            timeout=timedelta(days=2),
        )

    Of those that are there already, the one that was stored first wins; the others stay for later
    waits. The wait has the name of its `answer` source, which `resume` asks for; without one its
    name is *name*, and an answer by `resume` comes as ``("resumed", value)``. Raises what
    `wait_for_event` raises.
    """
    require_a_thread("first_of()", "await afirst_of(...)")
    found = branches(sources)
    asked = next((one for one in found if one.kind is SourceKind.ANSWER), None)
    record = run_of("first_of").wait(
        name if asked is None else asked.name,
        checked_timeout(timeout),
        None if asked is None else asked.ask,
        sources=found,
    )
    by_hand = RESUMED if asked is None else asked.branch
    return record.branch or by_hand, record.own_result()


def wait_until(
    name: str,
    model: type[Model],
    key: object,
    state: Mapping[str, Any],
    *,
    timeout: timedelta | None = None,
) -> Any:
    """Wait until the row *key* of *model* has the values *state*; returns them, encoded.

    ``wait_until("paid", Invoice, 7, {"status": "paid"})`` opens the wait for the object's events,
    commits, then reads the row: true already, or true by a later change, the wait is answered. A
    row that is created later counts too. For a change that was taken back before anybody looked,
    the event counts, if it has all the values.

    The model must emit events: see `track_changes` and `WORKFLOW_SIGNAL_BRIDGE`. Raises
    `StepUsageError` if it does not, or is in another database than the execution; and what
    `wait_for_event` raises.
    """
    require_a_thread("wait_until()", "await await_until(...)")
    run = run_of("wait_until")
    return _wait("wait_until", name, state_of(model, key, state, run.using), timeout)


def _wait(function: str, name: str, sources: list[Source], timeout: timedelta | None) -> Any:
    run = run_of(function)
    return run.wait(name, checked_timeout(timeout), None, sources=sources).own_result()
