"""Executions under every interleaving of runs, answers, cancellations, crashes and time.

Hypothesis draws what happens, also in the middle of a run; after each step the rules must hold.
"""

from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import ClassVar

import pytest
from django.db import transaction
from django.test import override_settings
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from general_manager.workflow import (
    Retry,
    WorkflowDefinition,
    WorkflowInvalidStateError,
    configure_workflow_engine,
    step,
    wait_for,
)
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.exceptions import WaitTimeout
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.transport import broker
from general_manager.workflow.workers.tick import sweep
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

TERMINAL = ("completed", "failed", "cancelled")
HOUR = timedelta(hours=1)


class Died(SystemExit):
    """The process ended here."""


class Script:
    """What is to happen inside the handler, moment by moment; set by the machine."""

    events: ClassVar[list[str]] = []
    machine: "Executions | None" = None

    @classmethod
    def moment(cls):
        if cls.events and cls.machine is not None:
            cls.machine.inside(cls.events.pop(0))


def flow(data):
    Script.moment()
    step("one", write, "one")
    Script.moment()
    try:
        answer = wait_for("go", timeout=HOUR, ask=Script.moment)
    except WaitTimeout:
        answer = "nobody"
    step("two", write, f"two {answer}")
    Script.moment()
    return {"answer": answer}


def write(name):
    Tag.objects.create(name=name)
    Script.moment()
    return name


DEFINITION = WorkflowDefinition("flow", handler=flow, retry=Retry(max_attempts=4, base=60))
INSIDE = st.lists(
    st.sampled_from(
        ["nothing", "fail", "die", "cancel", "resume", "lease ends", "another takes over"]
    ),
    max_size=6,
)


class Executions(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.engine = CeleryWorkflowEngine()
        configure_workflow_engine(self.engine)
        self.depth = 0
        self.final = {}
        self.outcomes = {}
        self.answers = []
        Script.machine, Script.events = self, []
        for table in (WorkflowExecutionRecord, Tag):
            table.objects.all().delete()
        self.id = self.engine.start(DEFINITION, correlation_id="key").execution_id

    def teardown(self):
        Script.machine, Script.events = None, []
        configure_workflow_engine(None)

    @property
    def row(self):
        return WorkflowExecutionRecord.objects.get(execution_id=self.id)

    @rule(inside=INSIDE)
    def a_message_comes(self, inside):
        Script.events = inside
        with suppress(Died):
            run(self.id, "default")
        Script.events = []

    @rule(inside=INSIDE)
    def beat_sweeps(self, inside):
        Script.events = inside
        with suppress(Died):
            sweep(hand_on=False)
        Script.events = []

    @rule()
    def time_passes(self):
        past = timezone.now() - timedelta(seconds=1)
        WorkflowStep.objects.filter(until__isnull=False).update(until=past)
        WorkflowExecutionRecord.objects.filter(wake_at__isnull=False).update(wake_at=past)

    @rule(value=st.integers(0, 3))
    def somebody_answers(self, value):
        self.answer(value)

    @rule()
    def somebody_cancels(self):
        self.cancel()

    @rule()
    def somebody_starts_it_again(self):
        before = self.row
        again = self.engine.start(DEFINITION, correlation_id="key")
        if before.state in ("failed", "cancelled"):
            assert again.execution_id != self.id
            self.engine.cancel(again.execution_id)
        else:
            assert again.execution_id == self.id

    @precondition(lambda self: self.row.state == "failed")
    @rule()
    def an_operator_continues_it(self):
        kept = set(self.row.steps.filter(status="done").values_list("name", flat=True))
        self.id = self.engine.retry_from_checkpoint(self.id).execution_id
        carried = set(self.row.steps.values_list("name", flat=True))
        assert {"one", "two"} & kept == {"one", "two"} & carried

    def cancel(self):
        with suppress(WorkflowInvalidStateError):
            self.engine.cancel(self.id)
        self.x2_terminal_is_final()

    def inside(self, event):
        """What happens in the middle of a run, at one of its moments."""
        if event == "fail":
            raise ValueError("boom")
        if event == "die":
            raise Died
        if transaction.get_connection().in_atomic_block:
            return  # what others do would become a part of this run's transaction
        if event == "cancel":
            self.cancel()
        elif event == "resume":
            self.answer(9)
        elif event == "lease ends":
            self.end_leases()
        elif event == "another takes over" and self.depth < 2:
            self.end_leases()
            self.depth += 1
            with suppress(Died):
                run(self.id, "default")
            self.depth -= 1
            self.x2_terminal_is_final()

    def end_leases(self):
        past = timezone.now() - timedelta(seconds=1)
        WorkflowExecutionRecord.objects.filter(state="running").update(wake_at=past)
        WorkflowExecutionRecord.objects.wake_due(10)

    def answer(self, value):
        with suppress(WorkflowInvalidStateError):
            self.engine.resume(self.id, value)
            self.answers.append(value)

    @invariant()
    def x2_terminal_is_final(self):
        for row in WorkflowExecutionRecord.objects.filter(state__in=TERMINAL):
            steps = sorted(row.steps.filter(status="done").values_list("name", flat=True))
            told = (row.state, row.output_data, row.error, row.ended_at, steps)
            assert self.final.setdefault(row.execution_id, told) == told
        assert set(self.final) <= set(
            WorkflowExecutionRecord.objects.filter(state__in=TERMINAL).values_list(
                "execution_id", flat=True
            )
        )

    @invariant()
    def x3_one_has_the_key(self):
        holders = WorkflowExecutionRecord.objects.exclude(state__in=("failed", "cancelled"))
        assert holders.count() <= 1

    @invariant()
    def x4_a_finished_step_has_written_once_and_an_unfinished_one_nothing(self):
        written = Counter(Tag.objects.values_list("name", flat=True))
        assert all(count == 1 for count in written.values())
        done = set(WorkflowStep.objects.filter(status="done").values_list("name", flat=True))
        assert ("one" in written) == ("one" in done)
        assert any(name.startswith("two") for name in written) == ("two" in done)

    @invariant()
    def x6_the_outcome_of_a_wait_stands(self):
        for wait in WorkflowStep.objects.filter(name="go").exclude(status="open"):
            told = (wait.status, wait.result)
            assert self.outcomes.setdefault(wait.execution_id, told) == told
        answered = WorkflowStep.objects.filter(name="go", status="done")
        assert all(one.result in self.answers for one in answered)

    @invariant()
    def x1_what_is_active_is_either_held_or_looked_after(self):
        row = self.row
        if row.state in ("pending", "running"):
            assert row.wake_at is not None
        if row.state == "waiting":
            assert row.wake_at is not None, "this wait has a timeout"
        assert (row.claim_token is not None) == (row.state == "running")


def test_x2_to_x6_hold_under_every_interleaving(monkeypatch):
    monkeypatch.setattr(broker, "has_app", lambda *_: False)
    monkeypatch.setattr(broker.broker, "is_away", lambda: True)
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_MAX_CRASHES": 4}
    ):
        run_state_machine_as_test(
            Executions,
            settings=settings(
                max_examples=100,
                stateful_step_count=14,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
