"""Sagas in runs that are killed at every statement; the rules of the model, on real tables."""

import os
import signal
from contextlib import suppress

import pytest
from django.db import connection, transaction

from general_manager.workflow import (
    Retry,
    WaitTimeout,
    WorkflowDefinition,
    WorkflowInvalidStateError,
    current_execution_id,
    saga,
    step,
    wait_for,
)
from general_manager.workflow.durable.ending import Ending
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.models.executions.ending import request_end
from tests.integration.executions.killing import (
    DEAD,
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
UNDO = Retry(max_attempts=3, base=60, jitter=0)


@pytest.fixture(autouse=True)
def _world(tmp_path):
    world.begin(tmp_path)


def on(name):
    """An effect in the database; not taken back twice, nor before it is there."""
    Tag.objects.create(name=name)
    if name in world.down:
        raise ValueError(f"{name} fails")


def off(name):
    if f"undo {name}" in world.down:
        raise ConnectionError(f"undo of {name} fails")
    Tag.objects.get(name=name).delete()


def on_outside(name):
    world.effect(f"+{name}")
    if name in world.down:
        raise ValueError(f"{name} fails")


def off_outside(name):
    if f"undo {name}" in world.down:
        raise ConnectionError(f"undo of {name} fails")
    world.effect(f"-{name}")


def in_force():
    """What is in force: rows, and outside what was done after it was last undone."""
    lines = world.file.read_text().splitlines()
    last = {line[1:]: line[0] for line in lines}
    return {name for name, sign in last.items() if sign == "+"} | set(
        Tag.objects.values_list("name", flat=True)
    )


def trip(data):
    try:
        with saga("trip") as undo:
            step("a", on, "a")
            undo("undo a", off, "a", retry=UNDO)
            undo("undo b", off_outside, "b", retry=UNDO, atomic=False)
            step("b", on_outside, "b", atomic=False)
            with saga("inner") as inside:
                step("c", on, "c")
                inside("undo c", off, "c", retry=UNDO)
            if data.get("waits"):
                with suppress(WaitTimeout):
                    wait_for("answer", timeout=HOUR / 2)
            undo("undo d", off_outside, "d", retry=UNDO, atomic=False)
            step("d", on_outside, "d", atomic=False)
    except ValueError:
        if not data.get("catches"):
            raise
        step("z", on, "z")
    return {"done": True}


TRIP = WorkflowDefinition("trip", handler=trip)
PATIENT = WorkflowDefinition("trip", handler=trip, retry=Retry(max_attempts=2, base=60, jitter=0))
ALL = {"a", "b", "c", "d"}


def require_whole(state, data, moment):
    """Everything is in force, or nothing, or what follows the saga that was undone."""
    forces = {"completed": [ALL, *([{"z"}] if data.get("catches") else [])]}
    assert in_force() in forces.get(state, [set()]), (moment, state)


@pytest.mark.parametrize(
    ("definition", "data"),
    [
        (TRIP, {}),
        (TRIP, {"catches": True, "waits": True}),
        (PATIENT, {}),
    ],
    ids=["fails", "is caught", "is retried"],
)
def test_s1_wherever_a_run_is_killed_everything_is_in_force_or_nothing(
    celery_engine, tmp_path, definition, data
):
    """The service answers again once the run is dead."""

    def start():
        world.begin(tmp_path)
        Tag.objects.all().delete()
        world.down.add("d")
        return celery_engine.start(definition, data).execution_id

    def live(execution_id):
        run_here(execution_id)
        pass_time()

    seen = set()
    for execution_id, moment in lives(start, live):
        world.down.clear()
        state = state_at_the_end(execution_id)
        seen.add(state)
        require_whole(state, data, moment)
        assert not WorkflowStep.objects.filter(
            execution__execution_id=execution_id, status__in=("saga", "undoing")
        ).exists(), moment
    assert "completed" in seen
    assert ("failed" in seen) == (not data.get("catches"))


def test_s1_a_compensating_cancel_at_any_moment_of_a_run_leaves_all_or_nothing(
    celery_engine, tmp_path
):
    """It comes between two runs, of which the first was killed."""

    def start():
        world.begin(tmp_path)
        Tag.objects.all().delete()
        return celery_engine.start(TRIP).execution_id

    seen = set()
    for execution_id, moment in lives(start, run_here):
        with suppress(WorkflowInvalidStateError):
            celery_engine.cancel(execution_id, compensate=True)
        state = state_at_the_end(execution_id)
        seen.add(state)
        assert state in ("cancelled", "completed"), moment
        require_whole(state, {}, moment)
    assert seen == {"cancelled", "completed"}


def test_s1_killed_while_it_is_undone_for_a_cancel(celery_engine, tmp_path):
    def start():
        world.begin(tmp_path)
        Tag.objects.all().delete()
        key = celery_engine.start(TRIP, {"waits": True}).execution_id
        run_here(key)
        assert celery_engine.cancel(key, compensate=True).state == "pending"
        return key

    for execution_id, moment in lives(start, run_here):
        assert state_at_the_end(execution_id) == "cancelled", moment
        assert in_force() == set(), moment
        done = WorkflowStep.objects.filter(saga="trip", status="done").values_list("name")
        names = {name for (name,) in done}
        assert {"undo a", "undo b", "undo c"} <= names, moment


@pytest.mark.parametrize("dies_undoing", [False, True])
def test_s1_an_execution_that_kills_its_worker_is_undone_before_it_fails(
    celery_engine, dies_undoing
):
    """With a fresh count of crashes; when that is spent too, it says what is left."""
    if dies_undoing:
        world.down.add("undoing")
    definition = WorkflowDefinition("poison", handler=poison)
    key = celery_engine.start(definition).execution_id
    deaths = 0
    while WorkflowExecutionRecord.objects.get().ended_at is None and deaths < 20:
        deaths += is_killed(10_000, lambda: run_here(key)) == DEAD
        WorkflowExecutionRecord.objects.filter(state="running").update(
            wake_at="2020-01-01T00:00:00Z"
        )
        WorkflowExecutionRecord.objects.wake_due(10)
    row = WorkflowExecutionRecord.objects.get()
    assert (row.state, deaths) == ("failed", 6 if dies_undoing else 3)
    assert "3 times" in str(row.error)
    assert in_force() == ({"a"} if dies_undoing else set())
    if dies_undoing:
        assert "compensation incomplete: not undone: 'undo a'" in str(row.error)


def poison(data):
    with saga("trip") as undo:
        step("a", on, "a")
        undo("undo a", die_or_undo, "a")
        step("poison", die)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_or_undo(name):
    if "undoing" in world.down:
        die()
    off(name)


def ends_with(data):
    with saga("trip") as undo:
        undo("undo a", off, "a")
        step("a", on_and, "a")
    if data["after"]:
        step("b", on_and, "b", atomic=False)
    return {"done": True}


@pytest.mark.parametrize("during", ["a", "b"])
def test_a_request_in_the_last_step_keeps_the_execution_from_completing(
    celery_engine, monkeypatch, during
):
    """A saga that was closed by then is not reopened; one that was not is undone."""
    monkeypatch.setattr(Meanwhile, "at", during)
    definition = WorkflowDefinition("w", handler=ends_with)
    key = celery_engine.start(definition, {"after": during == "b"}).execution_id
    run(key, "default")
    assert WorkflowExecutionRecord.objects.get().state == "pending"
    assert state_at_the_end(key) == "cancelled"
    assert in_force() == (set() if during == "a" else {"a", "b"})


@pytest.mark.parametrize("during", ["a", "b", "between", "wait"])
def test_s1_a_cancel_during_a_run_leaves_nothing_in_force(celery_engine, monkeypatch, during):
    """By the run itself, which is the same to the tables as by anybody else."""
    monkeypatch.setattr(Meanwhile, "at", during)
    definition = WorkflowDefinition("w", handler=interrupted)
    key = celery_engine.start(definition).execution_id
    run(key, "default")
    assert state_at_the_end(key) == "cancelled"
    assert in_force() == set()


class Meanwhile:
    at = ""

    @classmethod
    def comes(cls, where):
        """As from another process: the run is not told."""
        if cls.at == where:
            rows = WorkflowExecutionRecord.objects
            with transaction.atomic():
                record = rows.select_for_update().by_id(str(current_execution_id()))
                request_end(rows, record, Ending(WorkflowState.CANCELLED, "enough"))


def interrupted(data):
    with saga("trip") as undo:
        step("a", on_and, "a")
        undo("undo a", off, "a")
        undo("undo b", off_outside, "b", atomic=False)
        step("b", on_outside_and, "b", atomic=False)
        Meanwhile.comes("between")
        step("c", on, "c")
        undo("undo c", off, "c")
        Meanwhile.comes("wait")
        wait_for("answer")


def on_and(name):
    on(name)
    Meanwhile.comes(name)


def on_outside_and(name):
    on_outside(name)
    Meanwhile.comes(name)


def test_an_atomic_step_that_began_after_the_request_is_rolled_back(celery_engine, monkeypatch):
    monkeypatch.setattr(Meanwhile, "at", "between")
    key = celery_engine.start(WorkflowDefinition("w", handler=interrupted)).execution_id
    run(key, "default")
    assert state_at_the_end(key) == "cancelled"
    names = set(WorkflowStep.objects.values_list("name", flat=True))
    assert "c" not in names
    assert {"a", "b"} <= names


def test_a_saga_costs_a_row_and_its_closing_and_nothing_else_changes(celery_engine):
    from django.test.utils import CaptureQueriesContext

    counts = []
    for handler in (plainly, in_a_saga):
        for _ in range(2):
            key = celery_engine.start(WorkflowDefinition("w", handler=handler)).execution_id
            with CaptureQueriesContext(connection) as asked:
                run(key, "default")
            assert celery_engine.status(key).state == "completed"
        words = ("SAVEPOINT", "RELEASE", "BEGIN", "COMMIT")
        counts.append(sum(not one["sql"].startswith(words) for one in asked))
    assert counts[1] - counts[0] <= 3


def plainly(data):
    step("a", len, "a")
    step("b", len, "b")


def in_a_saga(data):
    with saga("s") as undo:
        step("a", len, "a")
        undo("undo a", len, "a")
        step("b", len, "b")
