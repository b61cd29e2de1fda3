"""Steps that fail in runs that are killed at every statement, and what the sweep does for them."""

from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from general_manager.workflow import (
    Retry,
    StepFailed,
    WaitTimeout,
    WorkflowDefinition,
    step,
    wait_for,
)
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.workers.tick import sweep
from tests.integration.executions.killing import (
    HOUR,
    World,
    is_killed,
    lives,
    pass_time,
    run_here,
    state_at_the_end,
)
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

world = World()
BUDGET = 2
AGAIN = Retry(max_attempts=5, base=60, factor=1, jitter=0)


@pytest.fixture(autouse=True)
def _world(tmp_path):
    world.begin(tmp_path)


def write(name):
    Tag.objects.create(name=name)
    return name


def call_bank():
    world.effect("bank")
    if "bank" in world.down:
        raise ConnectionError("no answer")
    return "paid"


def book(data):
    options = {"atomic": data["atomic"]}
    if data["budget"]:
        options["retry"] = Retry(max_attempts=data["budget"], base=60, jitter=0)
    if data["limited"]:
        options["timeout"] = timedelta(minutes=10)
    try:
        step("charge", call_bank, **options)
    except (ConnectionError, StepFailed):
        branch = "apologise"
    else:
        branch = "confirm"
    follow(branch, data["then"])
    step("end", world.effect, "end")


def follow(branch, then):
    if then == "atomic":
        step(branch, write, branch)
    elif then == "not atomic":
        step(branch, world.effect, branch, atomic=False)
    elif then == "once":
        step(branch, world.effect, branch, atomic=False, once=True)
    else:
        with suppress(WaitTimeout):
            wait_for(branch, timeout=HOUR / 2, ask=lambda: world.effect(branch))


BOOKING = WorkflowDefinition("booking", handler=book, retry=AGAIN)
KINDS = [
    # budget, limited, atomic, what follows the failure
    (0, False, True, "atomic"),
    (0, False, False, "not atomic"),
    (0, False, True, "once"),
    (0, False, False, "wait"),
    (1, False, True, "not atomic"),
    (BUDGET, False, False, "not atomic"),
    (BUDGET, False, True, "atomic"),
    (BUDGET, True, False, "wait"),
    (BUDGET, True, True, "not atomic"),
]


@pytest.mark.parametrize(("budget", "limited", "atomic", "then"), KINDS)
def test_t1_the_branch_that_was_taken_is_taken_again_wherever_a_run_is_killed(
    celery_engine, tmp_path, budget, limited, atomic, then
):
    """The service answers again once the run is dead, so a forgotten failure would show."""
    data = {"budget": budget, "limited": limited, "then": then, "atomic": atomic}

    def start():
        world.begin(tmp_path)
        Tag.objects.all().delete()
        world.down.add("bank")
        return celery_engine.start(BOOKING, data).execution_id

    def live(execution_id):
        run_here(execution_id)
        if budget == BUDGET:
            pass_time()

    ways = set()
    for execution_id, moment in lives(start, live):
        world.down.clear()
        state = state_at_the_end(execution_id)
        effects = world.effects
        branches = {"confirm", "apologise"} & {
            *effects, *Tag.objects.values_list("name", flat=True)
        }  # fmt: skip
        assert len(branches) <= 1, moment
        ways |= branches
        assert effects["bank"] <= max(budget, 1) + 1, moment
        steps = WorkflowStep.objects.filter(execution__execution_id=execution_id)
        if then == "once" and state == "failed":
            assert steps.get(status="started").name in {"confirm", "apologise"}, moment
            continue
        assert state == "completed", moment
        assert branches, moment
        assert not steps.filter(status__in=("running", "retrying")).exists(), moment
    assert ways == {"confirm", "apologise"}, "both happen, but never for one execution"


def test_t1_attempts_are_counted_over_deaths(celery_engine):
    """Two deaths, each in the middle of an attempt; the budget is what it was."""
    world.down.add("bank")
    data = {"budget": BUDGET, "limited": False, "then": "atomic", "atomic": False}
    key = celery_engine.start(BOOKING, data).execution_id
    for deaths in (1, 2):
        number = next(n for n in range(99) if die_after_the_call(n, key, deaths))
        assert number < 98
        WorkflowExecutionRecord.objects.update(wake_at="2020-01-01T00:00:00Z")
        WorkflowExecutionRecord.objects.wake_due(10)
    assert state_at_the_end(key) == "completed"
    assert world.effects["bank"] == 2 + BUDGET
    assert Tag.objects.get().name == "apologise"


def make_ready(**values):
    due = {"ready": True, "wake_at": "2020-01-01T00:00:00Z"}
    WorkflowExecutionRecord.objects.update(state="pending", claim_token=None, **due, **values)


def die_after_the_call(number, key, calls):
    """Whether a process that is killed at this moment has called the bank, and recorded nothing."""
    before = world.file.read_text()
    assert is_killed(number, lambda: run_here(key))
    if world.effects["bank"] == calls:
        return True
    world.file.write_text(before)
    make_ready(crashes=0)
    return False


def test_t2_steps_that_wait_for_their_next_attempt_hold_no_worker(celery_engine):
    world.down.add("bank")
    data = {"budget": 3, "limited": False, "then": "atomic", "atomic": True}
    keys = [celery_engine.start(BOOKING, data).execution_id for _ in range(1_000)]
    for key in keys:
        run_here(key)
    resting = WorkflowExecutionRecord.objects.filter(state="pending", ready=False)
    assert resting.filter(claim_token=None, wake_at__isnull=False).count() == 1_000
    assert sweep(hand_on=False) == 0, "nothing is due, so nobody looks at them"
    with CaptureQueriesContext(connection) as asked:
        assert WorkflowExecutionRecord.objects.wake_due(10).ready == 0
    assert len(asked) <= 4


# The sweep


def take_long(data):
    try:
        step("slow", Hang.call, atomic=data["atomic"], retry=AGAIN if data.get("retry") else None,
             timeout=timedelta(minutes=1))  # fmt: skip
    except StepFailed as failure:
        return {"failed": failure.error}


class Hang:
    """While the step hangs, its time ends, and a sweep comes by."""

    during = staticmethod(lambda: None)

    @classmethod
    def call(cls):
        world.effect("call")
        Tag.objects.create(name="late")
        cls.during()


@pytest.mark.parametrize("retry", [True, False])
def test_the_sweep_takes_an_attempt_that_takes_too_long_and_charges_no_crash(
    celery_engine, monkeypatch, retry
):
    definition = WorkflowDefinition("slow", handler=take_long)
    key = celery_engine.start(definition, {"atomic": False, "retry": retry}).execution_id
    seen: list[tuple[object, ...]] = []

    def sweep_comes():
        if world.effects["call"] > 1:
            return
        WorkflowExecutionRecord.objects.update(
            wake_at="2020-01-01T00:00:00Z", step_deadline="2020-01-01T00:00:00Z"
        )
        found = WorkflowExecutionRecord.objects.wake_due(10)
        row = WorkflowExecutionRecord.objects.get()
        seen.append((found.ready, found.died, found.timed_out, row.state, row.crashes))
        record = row.steps.get()
        kind = (record.failure or {"kind": ""})["kind"]
        seen.append((record.status, record.attempts, kind.rpartition(".")[2]))

    monkeypatch.setattr(Hang, "during", sweep_comes)
    run(key, "default")
    assert seen == [(1, [], [key], "pending", 0), ("retrying", 1, "StepTimeout")]
    late = WorkflowStep.objects.get()
    assert (late.status, late.attempts) == ("retrying", 1), "the late code writes nothing"
    assert state_at_the_end(key) == "completed"
    assert world.effects["call"] == (2 if retry else 1)
    end = celery_engine.status(key)
    if retry:
        assert end.output_data == {}
    else:
        assert "took longer than its timeout" in end.output_data["failed"]
    entries = [(one.kind, one.step, one.number) for one in celery_engine.history(key)]
    assert entries == [("attempt_failed", "slow", 1)]


def test_a_lease_is_not_renewed_past_the_time_limit_of_a_step(celery_engine, monkeypatch):
    key = celery_engine.start(
        WorkflowDefinition("slow", handler=take_long), {"atomic": False}
    ).execution_id
    rows = WorkflowExecutionRecord.objects

    def renew():
        row = rows.get()
        lease = timedelta(hours=1)
        assert rows.renew(row, lease=lease) == 1
        assert rows.get().wake_at == row.step_deadline
        rows.update(step_deadline="2020-01-01T00:00:00Z")
        assert rows.renew(row, lease=lease) == 0
        rows.update(step_deadline=row.step_deadline)

    monkeypatch.setattr(Hang, "during", renew)
    run(key, "default")
    row = rows.get()
    assert (row.state, row.step_deadline) == ("completed", None)


def test_a_worker_that_dies_in_an_attempt_with_time_left_has_died(celery_engine):
    data = {"budget": 0, "limited": True, "then": "atomic", "atomic": False}
    key = celery_engine.start(BOOKING, data).execution_id
    assert any(is_killed_in_the_attempt(number, key) for number in range(60))
    assert WorkflowStep.objects.get().status == "running"
    WorkflowExecutionRecord.objects.update(wake_at="2020-01-01T00:00:00Z")
    found = WorkflowExecutionRecord.objects.wake_due(10)
    assert (found.died, found.timed_out) == ([key], [])
    assert WorkflowExecutionRecord.objects.get().crashes == 1
    assert state_at_the_end(key) == "completed"


def is_killed_in_the_attempt(number, key):
    assert is_killed(number, lambda: run_here(key))
    if WorkflowStep.objects.filter(status="running").exists():
        return True
    make_ready()
    return False


def test_steps_without_a_budget_cost_the_statements_they_did(celery_engine):
    """One for an atomic step, which is its checkpoint; the check before, if it is not atomic."""
    definition = WorkflowDefinition("two", handler=two_steps)
    for _ in range(2):
        key = celery_engine.start(definition).execution_id
        with CaptureQueriesContext(connection) as asked:
            run(key, "default")
    steps = [one["sql"] for one in asked if "gm_" in one["sql"] or "workflowstep" in one["sql"]]
    assert sum("INSERT INTO" in one for one in steps) == 2
    bound = {"BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "SET"}
    real = [one["sql"] for one in asked if one["sql"].split()[0] not in bound]
    claim = 2 if connection.vendor == "mysql" else 1
    assert len(real) <= claim + 2 + 1 + 1, real


def two_steps(data):
    step("atomic", world.effect, "a")
    step("not atomic", world.effect, "b", atomic=False)
