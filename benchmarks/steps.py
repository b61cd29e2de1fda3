"""Workflows of two durable steps: ours beside DBOS and Absurd, on one PostgreSQL, in one run.

Run with ``tox run -e bench`` or ``python -m benchmarks.steps``. Each rate counts from the first
start to the last result. DBOS is asked directly, and through its queue, which takes
all it finds and looks more often than by default; Absurd is worked off in batches of fifty.
"""

import os
from functools import partial
from statistics import median

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command
from django.test import override_settings

from benchmarks.handlers import TWO_STEPS
from benchmarks.measuring import rate, show, statements
from benchmarks.outbox import UNWAITED
from benchmarks.rivals import AbsurdQueue, Dbos
from benchmarks.settings import POSTGRES
from benchmarks.site import PROCESSES, broker, messages_kept, until, worker
from general_manager.workflow import get_workflow_engine
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.workers.work import empty

WORKFLOWS = 300
ROUNDS = 3

executions = WorkflowExecutionRecord.objects


def start_and_run(count: int) -> None:
    engine = get_workflow_engine()
    for _ in range(count):
        run(engine.start(TWO_STEPS).execution_id, "default")


def start_and_work_off(count: int) -> None:
    """As a worker does, and as Absurd is measured here: all of them, in batches."""
    engine = get_workflow_engine()
    for _ in range(count):
        engine.start(TWO_STEPS)
    empty("default")


def start_for_workers(count: int) -> None:
    goal = executions.filter(state="completed").count() + count
    engine = get_workflow_engine()
    for _ in range(count):
        engine.start(TWO_STEPS)
    until(lambda: executions.filter(state="completed").count() >= goal, pause=0.02)


class Rates:
    def __init__(self) -> None:
        self._of: dict[str, list[float]] = {}

    def add(self, who: str, value: float) -> None:
        self._of.setdefault(who, []).append(value)

    def show(self) -> None:
        ours = self._of[OURS]
        for who, rates in self._of.items():
            ratio = median(one / other for one, other in zip(ours, rates, strict=True))
            print(f"{who:<42} {median(rates):8.0f} /s   {OURS} beside it {ratio:.2f}")


OURS = "ours, one process"


def add_round(rates: Rates, absurd: AbsurdQueue, dbos: Dbos) -> None:
    with messages_kept():
        rates.add(OURS, rate(WORKFLOWS, partial(start_and_work_off, WORKFLOWS)))
        rates.add(
            "ours, each run once it is started", rate(WORKFLOWS, partial(start_and_run, WORKFLOWS))
        )
        with override_settings(GENERAL_MANAGER=UNWAITED):
            rates.add("ours, unwaited", rate(WORKFLOWS, partial(start_and_work_off, WORKFLOWS)))
    rates.add("absurd-sdk, one process", rate(WORKFLOWS, partial(absurd.run, WORKFLOWS)))
    with dbos:
        rates.add("dbos, direct, one process", rate(WORKFLOWS, partial(dbos.run, WORKFLOWS)))
        queued = rate(WORKFLOWS, partial(dbos.run_in_queue, WORKFLOWS))
        rates.add("dbos, its queue, one process", queued)
    with worker(reuse=1_000):
        start_for_workers(20)
        sent = rate(WORKFLOWS, partial(start_for_workers, WORKFLOWS))
        rates.add(f"ours, a worker, {PROCESSES} processes", sent)


def statements_of_a_run() -> int:
    with messages_kept():
        start_and_run(1)
        execution_id = get_workflow_engine().start(TWO_STEPS).execution_id
        return statements(lambda: run(execution_id, "default"))


def main() -> None:
    call_command("migrate", verbosity=0)
    absurd, dbos, rates = AbsurdQueue(POSTGRES), Dbos(POSTGRES), Rates()
    with broker():
        show("data statements of a run, two steps", statements_of_a_run(), "wanted: at most 8")
        for _ in range(ROUNDS):
            add_round(rates, absurd, dbos)
    rates.show()
    absurd.close()


if __name__ == "__main__":
    main()
