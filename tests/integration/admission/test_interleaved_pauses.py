"""Pausing and unpausing beside a worker, stepped statement by statement, and killed at each one.

The traces that lose something were found by a model: a worker that parks and does not look again, a
death between the two, and pauses that a process remembers.
"""

from datetime import timedelta
from itertools import count
from threading import Event

import pytest
from django.db import connection, transaction
from django.utils import timezone

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.admission.pausing import release_lifted
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox, WorkflowPause
from general_manager.workflow.models.executions.claims import take_ready
from general_manager.workflow.models.executions.parking import look_again
from general_manager.workflow.models.sql.due import ANY_AGE
from general_manager.workflow.models.timing import LIFTED_KEPT
from general_manager.workflow.workers.tick import sweep
from general_manager.workflow.workers.work import empty
from tests.integration.executions.stepping import (
    PATIENCE,
    Stepped,
    dying_at_each_statement,
    interleave,
)
from tests.testapp import plays

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.usefixtures("outbox", "celery_engine"),
]
not_in_sqlite = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="There, one writer excludes all others"
)
FLOW = WorkflowDefinition("w", handler=plays.note_it)


def work():
    empty("default")


@pytest.fixture(autouse=True)
def _clean():
    plays.reset()


@pytest.fixture(params=["workflow", "registration"])
def kind(request):
    return request.param


@pytest.fixture
def named(kind):
    return {"workflow": "w"} if kind == "workflow" else {"registration": "a"}


@pytest.fixture
def ask(kind, celery_engine, outbox):
    """Asks for one more of what may be paused; beside it, an event is for another handler too."""
    outbox.register("paid", handler=lambda event: plays.note("a"), registration_id="a")
    outbox.register("paid", handler=lambda event: plays.note("b"), registration_id="b")
    numbers = count()

    def ask():
        if kind == "workflow":
            celery_engine.start(FLOW)
        else:
            outbox.publish(WorkflowEvent(str(next(numbers)), "a.b", {}, event_name="paid"))

    return ask


def done(kind):
    return plays.stage.calls.count("noted" if kind == "workflow" else "a")


def parked():
    executions = WorkflowExecutionRecord.objects.filter(parked_at__isnull=False)
    return executions.count() + WorkflowOutbox.objects.filter(status="paused").count()


def let_leases_end():
    """A worker that died has lost what it held."""
    past = timezone.now()
    WorkflowOutbox.objects.filter(available_at__isnull=False).update(available_at=past)
    WorkflowExecutionRecord.objects.filter(wake_at__isnull=False).update(wake_at=past)
    sweep(hand_on=False)
    work()


def forget(celery_engine, named):
    celery_engine.unpause(**named)
    for table in (WorkflowPause, WorkflowExecutionRecord, WorkflowOutbox):
        table._default_manager.all().delete()
    plays.reset()


@not_in_sqlite
@pytest.mark.parametrize("worker_first", [True, False])
def test_a_pause_that_is_lifted_while_a_worker_parks_holds_nothing_back(
    celery_engine, kind, named, ask, worker_first
):
    """Without a tick: by the look of the worker, or by the release of who unpauses."""
    for at in count():
        celery_engine.pause(**named)
        ask()
        acts = [work, lambda: celery_engine.unpause(**named)]
        first, second = acts if worker_first else reversed(acts)
        had, _ = interleave(first, second, at)
        work()
        assert (done(kind), parked()) == (1, 0), at
        forget(celery_engine, named)
        if not had:
            break
    assert at > 3


@not_in_sqlite
def test_a_claim_that_commits_after_the_release_is_looked_at_by_its_worker(celery_engine):
    """Its statement saw the pause; the one who unpauses did not see what it parked."""
    executions = WorkflowExecutionRecord.objects
    has_claimed, may_commit = Event(), Event()

    def park():
        with transaction.atomic():
            taken = take_ready(executions, 10, ANY_AGE)
            has_claimed.set()
            assert may_commit.wait(PATIENCE)
        assert taken.parked
        assert parked() == 1
        look_again(executions, taken.parked)

    celery_engine.pause("w")
    celery_engine.start(FLOW)
    worker = Stepped(park)
    assert has_claimed.wait(PATIENCE)
    celery_engine.unpause("w")
    may_commit.set()
    worker.finish()
    assert parked() == 0
    work()
    assert plays.stage.calls == ["noted"]


@not_in_sqlite
def test_no_claim_that_begins_after_the_pause_runs_what_is_paused(celery_engine, kind, named, ask):
    for at in count():
        ask()
        had, statements = interleave(work, lambda: celery_engine.pause(**named), at)
        table = "workflowexecutionrecord" if kind == "workflow" else "workflowoutbox"
        claims = [n for n, sql in enumerate(statements) if table in sql and "SKIP LOCKED" in sql]
        has_claimed = claims[0] < at
        assert done(kind) <= has_claimed, at
        work()
        assert done(kind) + parked() == 1, at
        forget(celery_engine, named)
        if not had:
            break
    assert at > 3


def test_a_worker_that_dies_while_it_parks_loses_nothing_and_nothing_is_charged(
    celery_engine, kind, named, ask
):
    def prepare():
        forget(celery_engine, named)
        celery_engine.pause(**named)
        ask()

    for _, at in dying_at_each_statement(prepare, lambda _: work()):
        celery_engine.unpause(**named)
        let_leases_end()
        release_lifted("default")
        work()
        assert (done(kind), parked()) == (1, 0), at
        crashes = WorkflowExecutionRecord.objects.values_list("crashes", flat=True)
        assert set(crashes) <= {0}


def test_one_who_dies_while_it_unpauses_is_followed_by_the_tick(celery_engine, kind, named, ask):
    def prepare():
        forget(celery_engine, named)
        celery_engine.pause(**named)
        ask()
        work()
        assert parked() == 1

    for _, at in dying_at_each_statement(prepare, lambda _: celery_engine.unpause(**named)):
        is_lifted = not WorkflowPause.objects.on().exists()
        sweep(hand_on=False)
        work()
        assert done(kind) == is_lifted, at
        assert parked() == (not is_lifted), at


def test_a_tick_finds_what_was_parked_for_a_pause_that_was_lifted_long_ago(
    celery_engine, kind, named, ask
):
    celery_engine.pause(**named)
    ask()
    work()
    WorkflowPause.objects.update(lifted_at=timezone.now() - 2 * LIFTED_KEPT)
    assert len(release_lifted("default").ids) == 1
    assert WorkflowPause.objects.get().released_at is None
    work()
    assert done(kind) == 1
    assert release_lifted("default").ids == []
    assert WorkflowPause.objects.get().released_at is not None
    assert WorkflowPause.objects.lifted() == []


def test_a_pause_that_was_just_lifted_is_looked_at_again(celery_engine, named, ask):
    """A claim that saw it may not have committed yet."""
    celery_engine.pause(**named)
    celery_engine.unpause(**named)
    release_lifted("default")
    assert len(WorkflowPause.objects.lifted()) == 1


def test_what_is_paused_again_is_not_released(celery_engine, kind, named, ask):
    celery_engine.pause(**named)
    ask()
    work()
    WorkflowPause.objects.update(lifted_at=timezone.now())
    celery_engine.pause(**named)
    release_lifted("default")
    work()
    assert (done(kind), parked()) == (0, 1)


def test_what_is_released_comes_after_newer_work(celery_engine, kind, named, ask):
    celery_engine.pause(**named)
    ask()
    work()
    before = timezone.now()
    WorkflowPause.objects.update(lifted_at=before)
    release_lifted("default")
    since = before - timedelta(seconds=5)
    executions = WorkflowExecutionRecord.objects.filter(wake_at__gt=since)
    assert executions.count() + WorkflowOutbox.objects.filter(available_at__gt=since).count() == 1


@not_in_sqlite
def test_two_who_unpause_release_each_row_once(celery_engine, kind, named, ask):
    for at in count():
        celery_engine.pause(**named)
        for _ in range(3):
            ask()
        work()
        unpause = lambda: celery_engine.unpause(**named)  # noqa: E731 - the same for both
        had, _ = interleave(unpause, lambda: release_lifted("default"), at)
        sweep(hand_on=False)
        work()
        assert (done(kind), parked()) == (3, 0), at
        forget(celery_engine, named)
        if not had:
            break
