"""Children on real connections: in any order and after any death, the parent goes on once."""

from datetime import timedelta
from functools import partial

import pytest
from django.db import connection
from django.utils import timezone

from general_manager.workflow import WorkflowDefinition
from general_manager.workflow.executions.children import attending
from general_manager.workflow.executions.children.afterwards import attend_left
from general_manager.workflow.executions.runner import run, run_here
from general_manager.workflow.models import (
    WorkflowChildSlot,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowStep,
)
from general_manager.workflow.models.children import look as looks
from general_manager.workflow.models.children.look import look
from general_manager.workflow.models.children.starting import start_chunk
from general_manager.workflow.workers.pruning import prune
from general_manager.workflow.workers.tick import sweep
from tests.integration.conftest import data_statements
from tests.integration.executions.stepping import (
    dying_at_each_statement,
    interleave,
    run_what_is_ready,
)
from tests.testapp import families, plays
from tests.testapp.families import BOOK, PAGE

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HOUR = timedelta(hours=1)
MONTH = timedelta(days=30)
two_connections = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="There, one writer excludes all others"
)


@pytest.fixture(autouse=True)
def _fresh_stage():
    plays.reset()
    yield
    plays.reset()


def rows(**which):
    return WorkflowExecutionRecord.objects.filter(**which).order_by("pk")


def run_parent(engine, count=2, definition=BOOK, **about):
    """A parent that waits for *count* children that have not run."""
    given = {"pages": [{"n": n} for n in range(count)], **about}
    key = engine.start(definition, given).execution_id
    run(key, "default")
    return key


def children(parent):
    return list(rows(parent=parent).values_list("execution_id", flat=True))


def recover(turns=6):
    """Leases end, and what was left by processes that died is due."""
    for _ in range(turns):
        past = timezone.now() - timedelta(seconds=1)
        rows(wake_at__isnull=False).update(wake_at=past)
        sweep(hand_on=False)


def gathered(parent):
    """How often the children of *parent* were found to be over."""
    return WorkflowHistory.objects.filter(
        execution__execution_id=parent, kind="children_ended"
    ).count()


def check_that_it_went_on_once(engine, parent, where, parts=2):
    execution = engine.status(parent)
    assert execution.state == "completed", (where, execution)
    assert len(execution.output_data["parts"]) == parts, where
    assert gathered(parent) == 1, where
    assert rows(parent=parent, wake_at__isnull=False).count() == 0, where


@two_connections
def test_c1_the_two_last_children_do_not_miss_each_other(celery_engine):
    """A look without the parent's lock would find the other one running, each time."""

    def end(child):
        run(child, "default")

    for at in range(100):
        parent = run_parent(celery_engine)
        first, second = children(parent)
        had, statements = interleave(partial(end, first), partial(end, second), at)
        where = f"stopped before statement {at} of {statements}"
        assert gathered(parent) == 1, where
        run_what_is_ready()
        check_that_it_went_on_once(celery_engine, parent, where)
        if not had:
            return
    raise AssertionError("it has too many statements")


@two_connections
@pytest.mark.parametrize("first_is_parent", [True, False])
def test_c1_a_child_that_ends_and_its_parent_that_suspends_do_not_miss_each_other(
    celery_engine, first_is_parent
):
    for at in range(100):
        given = {"pages": [{"n": 1, "id": "p"}]}
        child = celery_engine.start(PAGE, {"n": 1}, correlation_id=f"p{at}").execution_id
        given["pages"][0]["id"] = f"p{at}"
        parent = celery_engine.start(BOOK, given).execution_id
        first, second = partial(run, parent, "default"), partial(run, child, "default")
        if not first_is_parent:
            first, second = second, first
        had, statements = interleave(first, second, at)
        recover(2)
        check_that_it_went_on_once(
            celery_engine, parent, f"stopped before statement {at} of {statements}", parts=1
        )
        if not had:
            return
    raise AssertionError("it has too many statements")


@two_connections
@pytest.mark.parametrize("first_cancels", [True, False])
def test_c1_nothing_runs_on_after_a_cancel_while_children_start(celery_engine, first_cancels):
    for at in range(100):
        given = {"pages": [{"n": n, "waits": True} for n in range(2)], "options": {"at_once": 1}}
        parent = celery_engine.start(BOOK, given).execution_id
        cancels, runs = partial(celery_engine.cancel, parent), partial(run, parent, "default")
        first, second = (cancels, runs) if first_cancels else (runs, cancels)
        had, statements = interleave(first, second, at)
        where = f"stopped before statement {at} of {statements}"
        assert celery_engine.status(parent).state == "cancelled", where
        recover(2)
        assert {one.state for one in rows(parent=parent)} <= {"cancelled"}, where
        if not had:
            return
    raise AssertionError("it has too many statements")


@two_connections
def test_c1_of_two_that_join_each_other_one_is_refused(celery_engine):
    for at in range(100):
        ids = {"a": f"a{at}", "b": f"b{at}"}
        first = celery_engine.start(
            families.RING, {"next": ids["b"]}, correlation_id=ids["a"]
        ).execution_id
        second = celery_engine.start(
            families.RING, {"next": ids["a"]}, correlation_id=ids["b"]
        ).execution_id
        had, statements = interleave(
            partial(run, first, "default"), partial(run, second, "default"), at
        )
        recover(3)
        states = {celery_engine.status(one).state for one in (first, second)}
        assert states == {"failed"}, f"stopped before statement {at} of {statements}"
        if not had:
            return
    raise AssertionError("it has too many statements")


@two_connections
def test_two_parents_start_the_same_children_in_one_order(celery_engine):
    """In the orders of their lists, each would wait for a key that the other has inserted."""
    for at in range(100):
        ids = [f"{at} x", f"{at} y"]
        parents = [
            celery_engine.start(
                BOOK, {"pages": [{"n": 1, "id": one} for one in order]}
            ).execution_id
            for order in (ids, ids[::-1])
        ]
        first, second = (partial(run, one, "default") for one in parents)
        had, statements = interleave(first, second, at)
        recover(2)
        for one in parents:
            where = f"stopped before statement {at} of {statements}"
            assert celery_engine.status(one).state == "completed", where
        if not had:
            return
    raise AssertionError("it has too many statements")


@pytest.mark.parametrize("options", [{}, {"at_once": 1}], ids=["all at once", "one at a time"])
def test_c1_a_death_between_a_childs_commit_and_its_look_is_made_up_for(celery_engine, options):
    """Without the `wake_at` that its end leaves, the parent would wait indefinitely."""

    def prepare():
        return run_parent(celery_engine, options=options)

    def work(parent):
        run(children(parent)[0], "default")

    for parent, at in dying_at_each_statement(prepare, work):
        recover()
        check_that_it_went_on_once(celery_engine, parent, f"died at statement {at}")


def test_c1_a_parent_that_dies_while_it_starts_children_starts_each_once(
    celery_engine, monkeypatch
):
    monkeypatch.setattr("general_manager.workflow.models.children.states.CHILDREN_CHUNK", 1)

    def prepare():
        given = {"pages": [{"n": n} for n in range(2)]}
        return celery_engine.start(BOOK, given).execution_id

    for parent, at in dying_at_each_statement(prepare, lambda key: run(key, "default")):
        recover()
        check_that_it_went_on_once(celery_engine, parent, f"died at statement {at}")
        assert len(children(parent)) == 2, at


def test_a_canceller_that_dies_leaves_the_children_to_the_sweep(celery_engine):
    def prepare():
        return run_parent(celery_engine)

    for parent, at in dying_at_each_statement(prepare, celery_engine.cancel):
        recover()
        if celery_engine.status(parent).state == "cancelled":
            assert {one.state for one in rows(parent=parent)} == {"cancelled"}, at
        else:
            check_that_it_went_on_once(celery_engine, parent, f"died at statement {at}")
        assert not rows(wake_at__isnull=False).exists(), at


def test_a_worker_that_dies_while_a_failure_stops_the_others_is_made_up_for(celery_engine):
    def prepare():
        given = {"pages": [{"n": 1, "fails": True}, {"n": 2, "waits": True}]}
        key = celery_engine.start(BOOK, given).execution_id
        run(key, "default")
        run(children(key)[1], "default")
        return key

    def work(parent):
        run(children(parent)[0], "default")

    for parent, at in dying_at_each_statement(prepare, work):
        recover()
        assert celery_engine.status(parent).state == "failed", at
        assert [one.state for one in rows(parent=parent)] == ["failed", "cancelled"], at
        assert gathered(parent) == 1, at


def test_the_successor_of_a_failed_child_takes_its_place_while_the_slot_is_open(celery_engine):
    plays.stage.failing.add("0")
    parent = run_parent(celery_engine, 1)
    child = children(parent)[0]
    with pytest.MonkeyPatch.context() as patch:  # the worker dies before the look
        patch.setattr("general_manager.workflow.executions.runner.attend_to", lambda *_: None)
        run(child, "default")
    plays.stage.failing.clear()
    fresh = celery_engine.retry_from_checkpoint(child)
    recover()
    assert celery_engine.status(parent).output_data == {"parts": [{"n": 0}]}
    assert WorkflowChildSlot.objects.get().ended_as == fresh.execution_id


def test_what_is_over_when_the_timeout_is_written_wins(celery_engine):
    parent = run_parent(celery_engine, 1, hours=1, catches=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("general_manager.workflow.executions.runner.attend_to", lambda *_: None)
        run(children(parent)[0], "default")
    past = timezone.now() - HOUR
    WorkflowStep.objects.update(until=past)
    rows(execution_id=parent).update(wake_at=past)
    sweep(hand_on=False)
    assert celery_engine.status(parent).output_data == {"parts": [{"n": 0}]}


def test_outcomes_outlive_their_children(celery_engine):
    parent = run_parent(celery_engine, 2, then=True)
    first, second = children(parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("general_manager.workflow.executions.runner.attend_to", lambda *_: None)
        run(first, "default")
    rows(execution_id=first).update(ended_at=timezone.now() - 2 * MONTH)
    list(prune(MONTH))
    assert rows(execution_id=first).exists()  # the parent has not copied its outcome yet
    run(second, "default")
    recover()
    rows(parent=parent).update(ended_at=timezone.now() - 2 * MONTH)
    list(prune(MONTH))
    assert not children(parent)
    celery_engine.resume(parent, 1)
    recover()
    assert celery_engine.status(parent).output_data == {"parts": [{"n": 0}, {"n": 10}]}
    rows(execution_id=parent).update(ended_at=timezone.now() - 2 * MONTH)
    list(prune(MONTH))
    assert not WorkflowChildSlot.objects.exists()


def test_a_child_whose_row_was_deleted_counts_as_failed(celery_engine):
    parent = run_parent(celery_engine, 1, options={"on_failure": "collect"})
    rows(parent=parent).delete()
    look(WorkflowExecutionRecord.objects.all(), rows(execution_id=parent).get().pk, "pages")
    run_what_is_ready()
    parts = celery_engine.status(parent).output_data["parts"]
    assert parts == [{"key": "0", "state": "failed", "error": "Its row was deleted."}]


def test_an_end_that_nobody_waits_for_leaves_nothing_and_costs_nothing_more(celery_engine):
    alone = celery_engine.start(WorkflowDefinition("alone", handler=plays.nothing)).execution_id
    with data_statements() as statements:
        run(alone, "default")
    assert len(statements) == (4 if connection.vendor == "mysql" else 2), statements
    assert rows(execution_id=alone).get().wake_at is None
    with data_statements() as statements:
        attend_left("default", run_here)
    assert len(statements) == 1, statements


def test_children_that_end_in_one_turn_have_their_parent_look_once(celery_engine):
    parent = run_parent(celery_engine, 10)
    with data_statements() as statements:
        sweep(hand_on=False)
        run_what_is_ready()
    locks = [one for one in statements if "FOR UPDATE" in one and "_workflowexecution" in one]
    assert celery_engine.status(parent).state == "completed"
    assert len(locks) < 40


def test_ten_thousand_children_start_in_bounded_transactions(celery_engine, monkeypatch):
    sizes = []

    def note(executions, record, gather, new, **options):
        sizes.append(len(new))
        return start_chunk(executions, record, gather, new, **options)

    monkeypatch.setattr("general_manager.workflow.executions.children.store.start_chunk", note)
    with data_statements() as statements:
        parent = run_parent(celery_engine, 1_200, options={"at_once": 2})
    assert sizes == [500, 500, 200]
    assert len(statements) < 60
    states = rows(parent=parent)
    assert states.filter(ready=True).count() == 2
    assert states.filter(ready=False, wake_at=None, state="pending").count() == 1_198


def undo_slowly(*keys):
    """These children were asked to end, and take their time."""
    rows(execution_id__in=keys).update(state="waiting", runs=1, ending_at=timezone.now())


def test_a_parent_that_fails_asks_each_child_however_many_undo_already(celery_engine, monkeypatch):
    monkeypatch.setattr(attending, "STOPS_AT_ONCE", 2)
    parent = run_parent(celery_engine, 5)
    *first, fourth, fifth = children(parent)
    undo_slowly(*first)
    past = timezone.now() - timedelta(seconds=1)
    rows(execution_id=parent).update(state="failed", ended_at=past, wake_at=past)
    attend_left("default", run_here)
    assert [celery_engine.status(one).state for one in (fourth, fifth)] == ["cancelled"] * 2
    assert [celery_engine.status(one).state for one in first] == ["waiting"] * 3


def test_a_gather_that_fails_stops_each_child_however_many_undo_already(celery_engine, monkeypatch):
    monkeypatch.setattr(attending, "STOPS_AT_ONCE", 2)
    monkeypatch.setattr(looks, "STOPS_AT_ONCE", 2)
    parent = run_parent(celery_engine, 7)
    *first, fourth, fifth, sixth, bad = children(parent)
    undo_slowly(*first)
    plays.stage.failing.add("6")
    run(bad, "default")
    others = (fourth, fifth, sixth)
    assert [celery_engine.status(one).state for one in others] == ["cancelled"] * 3
    assert [celery_engine.status(one).state for one in first] == ["waiting"] * 3
