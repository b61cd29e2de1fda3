"""Limits under every order of starts, runs, deaths, answers, cancellations and time.

Hypothesis draws what happens, also in the middle of a run; after each step the rules must hold, and
at the end everybody has left the line.
"""

from contextlib import suppress
from datetime import timedelta
from typing import ClassVar

import pytest
from django.db.models import Count, Q
from django.test import override_settings
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from general_manager.workflow import (
    Limit,
    Rate,
    Retry,
    WorkflowDefinition,
    WorkflowInvalidStateError,
    configure_workflow_engine,
    sleep,
    step,
    wait_for,
)
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.exceptions import WaitTimeout
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowLimitKey, WorkflowStep
from general_manager.workflow.transport import broker
from general_manager.workflow.workers.tick import sweep

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HOUR = timedelta(hours=1)
MOST = 2
ROWS = WorkflowExecutionRecord


class Died(SystemExit):
    """The process ended here."""


class Script:
    """What is to happen inside the handlers, moment by moment; set by the machine."""

    events: ClassVar[list[str]] = []
    machine: "Lines | None" = None

    @classmethod
    def moment(cls):
        if cls.events and cls.machine is not None:
            cls.machine.inside(cls.events.pop(0))


def flow(data):
    Script.moment()
    if data["kind"] == "sleeps":
        sleep("a while", HOUR)
    elif data["kind"] == "asks":
        with suppress(WaitTimeout):
            wait_for("go", timeout=HOUR)
    step("work", Script.moment, atomic=False)
    return {}


LIMITED = WorkflowDefinition(
    "limited", handler=flow, limit=Limit(MOST, key="key"), retry=Retry(max_attempts=9, base=60)
)
RATED = WorkflowDefinition(
    "rated", handler=flow, limit=Limit(MOST, key="key"), rate=Rate(3, per=HOUR, key="key")
)
INSIDE = st.lists(
    st.sampled_from(["nothing", "fail", "die", "cancel", "start", "lease ends", "look is lost"]),
    max_size=5,
)


class Lines(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.engine = CeleryWorkflowEngine()
        configure_workflow_engine(self.engine)
        for one in (LIMITED, RATED):  # defined for this test, too
            WorkflowDefinition(one.workflow_id, limit=one.limit, rate=one.rate, handler=flow)
        Script.machine, Script.events = self, []
        for table in (ROWS, WorkflowLimitKey):
            table.objects.all().delete()

    def teardown(self):
        Script.events = []
        for _ in range(60):
            if not ROWS.objects.filter(state__in=("pending", "running", "waiting")).exists():
                break
            self.time_passes()
            sweep(hand_on=False)
        stuck = ROWS.objects.filter(state__in=("pending", "running", "waiting"))
        assert not stuck.exists(), list(stuck.values())
        Script.machine = None
        configure_workflow_engine(None)

    @rule(
        key=st.integers(0, 1),
        kind=st.sampled_from(["works", "sleeps", "asks"]),
        workflow=st.sampled_from([LIMITED, RATED]),
    )
    def somebody_starts_one(self, key, kind, workflow):
        self.engine.start(workflow, {"key": key, "kind": kind})

    @rule(number=st.integers(0, 9), inside=INSIDE)
    def a_worker_runs_one(self, number, inside):
        Script.events = inside
        with suppress(Died):
            run(self.any(number, "pending", "waiting"), "default")
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
        for name in ("wake_at", "rate_until", "slot_until"):
            ROWS.objects.filter(**{f"{name}__isnull": False}).update(**{name: past})
        WorkflowLimitKey.objects.filter(look_at__isnull=False).update(look_at=past)

    @rule(number=st.integers(0, 9))
    def somebody_answers(self, number):
        with suppress(WorkflowInvalidStateError):
            self.engine.resume(self.any(number, "waiting"))

    @rule(number=st.integers(0, 9))
    def somebody_cancels(self, number):
        with suppress(WorkflowInvalidStateError):
            self.engine.cancel(self.any(number, "pending", "waiting", "running"))

    @rule()
    def every_look_is_lost(self):
        """Processes died after their commits, before their looks."""
        WorkflowLimitKey.objects.all().delete()

    def any(self, number, *states):
        ids = ROWS.objects.filter(state__in=states).order_by("pk")
        found = list(ids.values_list("execution_id", flat=True))
        return found[number % len(found)] if found else self._one_that_is_over()

    def _one_that_is_over(self):
        found = self.engine.start(WorkflowDefinition("nothing"))
        return found.execution_id

    def inside(self, event):
        if event == "fail":
            raise ValueError("boom")
        if event == "die":
            raise Died
        if event == "cancel":
            self.somebody_cancels(1)
        elif event == "start":
            self.somebody_starts_one(0, "works", LIMITED)
        elif event == "lease ends":
            past = timezone.now() - timedelta(seconds=1)
            ROWS.objects.filter(state="running").update(wake_at=past)
            ROWS.objects.wake_due(10)
        elif event == "look is lost":
            self.every_look_is_lost()

    @invariant()
    def l1_never_more_hold_a_slot_than_there_are(self):
        held = Q(slot_until=None) | Q(slot_until__gt=timezone.now())
        counts = ROWS.objects.filter(held, holds_slot__isnull=False).values("holds_slot")
        assert all(one["n"] <= MOST for one in counts.annotate(n=Count("pk")))

    @invariant()
    def l1_nothing_runs_or_is_due_without_a_slot(self):
        limited = ROWS.objects.filter(slot_key__isnull=False)
        assert not limited.filter(state="running", holds_slot=None).exists()
        assert not limited.filter(waits_slot__isnull=False, wake_at__isnull=False).exists()
        assert not limited.filter(waits_slot__isnull=False, holds_slot__isnull=False).exists()

    @invariant()
    def l1_what_waits_in_line_is_pending(self):
        assert not ROWS.objects.filter(waits_slot__isnull=False).exclude(state="pending").exists()
        resting = ROWS.objects.filter(state="waiting")
        assert not resting.filter(holds_slot__isnull=False).exists()

    @invariant()
    def a_rate_is_never_exceeded(self):
        counts = ROWS.objects.filter(holds_rate__isnull=False).filter(
            Q(rate_until=None) | Q(rate_until__gt=timezone.now())
        )
        per_key = counts.values("holds_rate").annotate(n=Count("pk"))
        assert all(one["n"] <= 3 for one in per_key)


def test_l1_limits_hold_and_lines_move_under_every_interleaving(monkeypatch):
    monkeypatch.setattr(broker, "has_app", lambda *_: False)
    monkeypatch.setattr(broker.broker, "is_away", lambda: True)
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_MAX_CRASHES": 50}
    ):
        run_state_machine_as_test(
            Lines,
            settings=settings(
                max_examples=60,
                stateful_step_count=14,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
