"""Prints events, deliveries and states as they happen. It only observes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from general_manager.workflow import Registration, WorkflowEvent, WorkflowExecution
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
)
from general_manager.workflow.signals import (
    event_dead,
    event_delivered,
    event_published,
    execution_changed,
)
from projects.processes import shown


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
        self._line("event", _described(event))

    def _delivered(self, registration: Registration, **_: Any) -> None:
        self._line("handled by", _name(registration))

    def _dead(self, registration: Registration, exception: Exception, **_: Any) -> None:
        attempts = registration.retries + 1
        self._line("dead letter", f"{_name(registration)} failed {attempts} times: {exception}")

    def _changed(self, execution: WorkflowExecution, **_: Any) -> None:
        text = f"{execution.workflow_id} {execution.execution_id[-8:]} is {execution.state}"
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


def _described(event: WorkflowEvent) -> str:
    details = [
        f"{name}: {change['old']} -> {change['new']}"
        for name, change in event.payload.get("changes", {}).items()
    ]
    if "amount" in event.payload:
        details.append(f"amount: {event.payload['amount']}")
    who = f"{event.payload.get('manager')} {event.payload.get('identification', {}).get('id')}"
    return f"{event.event_name}  {who}  {', '.join(details)}"


class RowNarrator:
    """Reports the work of other processes from the rows that they wrote."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._told: set[object] = set()

    def until(self, is_reached: Callable[[], object], *, seconds: float = 60) -> None:
        """Report news until *is_reached*. Raises `CommandError` if that takes too long."""
        deadline = monotonic() + seconds
        while not is_reached():
            if monotonic() > deadline:
                log = shown(Path(settings.VAR_DIR / "worker.log"))
                raise CommandError(f"The workers did not finish in time. Check {log}")
            self.tell_news()
            sleep(0.1)
        self.tell_news()

    def tell_news(self) -> None:
        for record in WorkflowEventRecord.objects.order_by("pk"):
            self._say("event", _described(record.to_event()), key=record.event_id)
        for row in WorkflowDeliveryAttempt.objects.order_by("pk"):
            handler = row.registration_id.split(":")[1]
            if row.status == "completed":
                self._say("handled by", handler, key=(row.pk, row.status))
            elif row.status != "running":
                text = f"{handler} {row.status}, pass {row.attempts}: {row.error}"
                self._say("delivery", text, key=(row.pk, row.status, row.attempts))
        for row in WorkflowExecutionRecord.objects.order_by("pk"):
            text = f"{row.workflow_id} {row.execution_id[-8:]} is {row.state}"
            if row.state == "waiting":
                text += f" for {row.waiting_for}"
            self._say("execution", text, key=(row.execution_id, row.state))
            if row.state == "completed":
                self._say("result", str(row.output_data), key=(row.execution_id, "result"))

    def _say(self, kind: str, text: str, *, key: object) -> None:
        if key not in self._told:
            self._told.add(key)
            self._write(f"     {kind:<12} {text}")
