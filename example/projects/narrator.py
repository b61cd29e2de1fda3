"""Prints what happens as it happens. It only observes: without it everything would be the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from general_manager.workflow import Registration, WorkflowEvent, WorkflowExecution
from general_manager.workflow.signals import (
    event_dead,
    event_delivered,
    event_published,
    execution_changed,
)


class Narrator:
    """Writes one line for each event, delivery and change of an execution's state."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    @contextmanager
    def listening(self) -> Iterator[None]:
        receivers = (
            (event_published, self._published),
            (event_delivered, self._delivered),
            (event_dead, self._dead),
            (execution_changed, self._changed),
        )
        for signal, receiver in receivers:
            signal.connect(receiver)
        try:
            yield
        finally:
            for signal, receiver in receivers:
                signal.disconnect(receiver)

    def _published(self, event: WorkflowEvent, **_: Any) -> None:
        details = [
            f"{name}: {change['old']} -> {change['new']}"
            for name, change in event.payload.get("changes", {}).items()
        ]
        if "amount" in event.payload:
            details.append(f"amount: {event.payload['amount']}")
        who = f"{event.payload.get('manager')} {event.payload.get('identification', {}).get('id')}"
        self._line("event", f"{event.event_name}  {who}  {', '.join(details)}")

    def _delivered(self, registration: Registration, **_: Any) -> None:
        self._line("handled by", _name(registration))

    def _dead(self, registration: Registration, exception: Exception, **_: Any) -> None:
        attempts = registration.retries + 1
        self._line("dead letter", f"{_name(registration)} failed {attempts} times: {exception}")

    def _changed(self, execution: WorkflowExecution, **_: Any) -> None:
        text = f"{execution.workflow_id} {execution.execution_id[:8]} is {execution.state}"
        self._line("execution", text)
        if execution.state == "completed":
            self._line("result", str(execution.output_data))
        elif execution.state == "failed":
            self._line("error", str(execution.error))

    def _line(self, kind: str, text: str) -> None:
        self._write(f"     {kind:<12} {text}")


def _name(registration: Registration) -> str:
    handler = registration.handler
    return f"{handler.__module__}.{getattr(handler, '__qualname__', repr(handler))}"
