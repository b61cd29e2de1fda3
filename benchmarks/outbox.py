"""Publishing, delivering and running on PostgreSQL, beside the floor, in one run.

Run with ``tox run -e bench`` or ``python -m benchmarks.outbox``. A PostgreSQL is started from its
wheel. One process, no broker; the handler starts a workflow with a correlation id. Absolute rates
are this machine's at this moment: compare the ratios.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
os.environ["TEST_DATABASE"] = "postgresql"

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.test import override_settings  # noqa: E402

from benchmarks.floor import Floor  # noqa: E402
from benchmarks.handlers import handle  # noqa: E402
from general_manager.workflow import (  # noqa: E402
    WorkflowDefinition,
    WorkflowEvent,
    configure_event_registry,
    configure_workflow_engine,
    dispatch,
    get_workflow_engine,
)
from general_manager.workflow.backends.celery import CeleryWorkflowEngine  # noqa: E402
from general_manager.workflow.event_registry.database import DatabaseEventRegistry  # noqa: E402
from general_manager.workflow.executor import run  # noqa: E402
from general_manager.workflow.models import WorkflowExecutionRecord  # noqa: E402
from general_manager.workflow.outbox import drain  # noqa: E402
from tests.servers import postgres_uri  # noqa: E402

EVENTS = 500
ROUNDS = 5
PAYLOAD: dict[str, Any] = {"manager": "Project", "identification": {"id": 42}}


WORKFLOW = WorkflowDefinition("w", handler=handle, metadata={})


def start(event: WorkflowEvent) -> None:
    get_workflow_engine().start(WORKFLOW, event.payload, correlation_id=event.event_id)


class Ours:
    """Our own path, with every message kept instead of sent."""

    def __init__(self) -> None:
        self.registry = DatabaseEventRegistry()
        self.registry.register("order_paid", handler=start)
        configure_event_registry(self.registry)
        configure_workflow_engine(CeleryWorkflowEngine())
        self.executions: list[str] = []
        setattr(dispatch, "_publish", self._keep)  # noqa: B010 - the no-op broker
        setattr(dispatch, "has_app", lambda: True)  # noqa: B010

    def _keep(self, _: Any, task: str, arguments: list[Any]) -> None:
        if task == dispatch.RUN:
            self.executions += arguments[0]

    def publish(self, event_id: str, payload: dict[str, Any]) -> None:
        with transaction.atomic():
            self.registry.publish(event_of(event_id, payload))

    def publish_many(self, ids: list[str]) -> None:
        with transaction.atomic():
            self.registry.publish_many(event_of(one, PAYLOAD) for one in ids)

    def deliver_and_run(self) -> None:
        drain("default", hand_on=False)
        for execution_id in self.executions:
            run(execution_id, "default")
        self.executions.clear()


def event_of(event_id: str, payload: dict[str, Any]) -> WorkflowEvent:
    return WorkflowEvent(event_id, "shop.order.paid", payload, event_name="order_paid")


def rate(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return EVENTS / (perf_counter() - started)


def new_ids(numbers: Iterator[int]) -> list[str]:
    return [f"e{next(numbers)}" for _ in range(EVENTS)]


def each(publish: Callable[[str, dict[str, Any]], None], ids: list[str]) -> None:
    for event_id in ids:
        publish(event_id, PAYLOAD)


def statements(work: Callable[[], object]) -> int:
    count = 0

    def tally(execute: Any, sql: str, *arguments: Any) -> Any:
        nonlocal count
        count += not sql.startswith(("SAVEPOINT", "RELEASE", "BEGIN"))
        return execute(sql, *arguments)

    with connection.execute_wrapper(tally):
        work()
    return count


def main() -> None:
    call_command("migrate", verbosity=0)
    floor, ours = Floor(postgres_uri()), Ours()
    numbers = iter(range(10**9))
    publishes, runs, manys = [], [], []
    for _ in range(ROUNDS):
        theirs = rate(partial(each, floor.publish, new_ids(numbers)))
        theirs_run = rate(lambda: floor.deliver_and_run(50))
        mine = rate(partial(each, ours.publish, new_ids(numbers)))
        mine_run = rate(ours.deliver_and_run)
        many = rate(partial(ours.publish_many, new_ids(numbers)))
        ours.deliver_and_run()
        publishes.append((mine, theirs))
        runs.append((mine_run, theirs_run))
        manys.append((many, mine))
    failed = WorkflowExecutionRecord.objects.exclude(state="completed").count()
    if failed:
        raise SystemExit(f"{failed} executions did not complete: the rates mean nothing")
    ours.publish_many([f"e{next(numbers)}" for _ in range(50)])
    count = statements(ours.deliver_and_run)
    show("publish", publishes, "the floor")
    show("claim to completed execution", runs, "the floor")
    show("publish_many", manys, "publishing one by one")
    print(f"{'data statements an event, chunk of 50':<42} {count / 50:.2f}")
    floor.close()


def show(what: str, pairs: list[tuple[float, float]], beside: str) -> None:
    ratio = median(one / other for one, other in pairs)
    one, other = (median(values) for values in zip(*pairs, strict=True))
    print(f"{what:<30} {one:8.0f} /s   {beside} {other:8.0f} /s   ratio {ratio:.2f}")


if __name__ == "__main__":
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}):
        main()
