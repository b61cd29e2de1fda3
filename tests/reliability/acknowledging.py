"""A client that goes on while the database crashes, and writes down what was acknowledged to it.

Run as a process of a site until the mark `enough` is there.
"""

import json
import os
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import django
from django.db import Error, connections

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowEvent,
    get_event_registry,
    get_workflow_engine,
)


def go_on(marks: Path, definition: WorkflowDefinition, *names: str) -> None:
    """Publish, start and ask, again and again; each acknowledgement is a line of JSON."""
    registry, engine = get_event_registry(), get_workflow_engine()
    with (marks / "acknowledged").open("a", buffering=1) as acknowledged:

        def note(what: str, *facts: Any) -> None:
            acknowledged.write(json.dumps([what, *facts]) + "\n")

        for number in count():
            if (marks / "enough").exists():
                return
            for name in names:
                event = WorkflowEvent(f"{name} {number}", "a.b", {}, event_name=name)
                insist(partial(registry.publish, event))
                note("published", event.event_id)
            start = partial(engine.start, definition, {"n": number}, correlation_id=str(number))
            insist(start)
            note("started", number)
            for earlier in range(max(0, number - 30), number, 10):
                which = {"workflow": definition.workflow_id, "correlation_id": str(earlier)}
                seen = insist(partial(engine.status, **which))
                if seen.state == "completed":
                    note("completed", earlier, seen.output_data)


def insist(ask: Callable[[], Any]) -> Any:
    """What *ask* gives, as soon as the database answers."""
    while True:
        try:
            return ask()
        except Error:
            connections.close_all()
            time.sleep(0.5)


if __name__ == "__main__":
    django.setup()
    from tests.reliability.crashes.workflows import CHARGE, GROUPED, PLAIN

    go_on(Path(os.environ["TEST_MARKS"]), CHARGE, PLAIN, GROUPED)
