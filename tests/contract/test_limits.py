"""`limit=` and `rate=`: how many executions of a key run, or start, at once, on every engine."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from general_manager.workflow import (
    Limit,
    LimitKeyError,
    Rate,
    Retry,
    WorkflowDefinition,
    WorkflowInvalidStateError,
)
from general_manager.workflow.models import WorkflowExecutionRecord
from tests.testapp import limited
from tests.testapp.limited import CALLS, INSIDE

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    limited.reset()
    yield
    limited.reset()


def define(handler=limited.play, *, workflow_id="w", **options):
    options.setdefault("limit", Limit(1, key="key"))
    return WorkflowDefinition(workflow_id, handler=handler, **options)


class Starter:
    def __init__(self, engine):
        self.engine, self.ids = engine, {}

    def __call__(self, name, workflow=None, **options):
        given = {"name": name, "key": 7, **options.pop("more", {})}
        found = self.engine.start(workflow or define(), given, **options)
        self.ids[name] = found.execution_id
        return found


@pytest.fixture
def start(engine):
    """Starts by name, under one key; `ids` has what was started."""

    return Starter(engine)


@pytest.fixture
def state(engine, start):
    def state(name):
        found = engine.status(start.ids[name])
        return "in line" if found.in_line_for is not None else str(found.state)

    return state


@pytest.fixture
def pass_time(driver):
    """Inside a run, whose worker lives and renews its lease."""

    def pass_time(duration):
        driver.pass_time(duration)
        running = WorkflowExecutionRecord.objects.filter(state="running")
        running.update(wake_at=timezone.now() + MINUTE)
        driver.settle()

    return pass_time


@pytest.fixture
def inside(driver, start, state):
    """What *act* returns is collected inside the run of *name*, which holds the slot meanwhile."""
    seen = {}

    def inside(name, act, workflow=None):
        INSIDE[name] = lambda: seen.update({name: act()})
        start(name, workflow)
        driver.settle()
        return seen[name]

    return inside


def test_l1_what_is_over_the_limit_waits_and_runs_in_order(driver, engine, start, inside, state):
    def act():
        names = ["one", "two", "three"]
        for name in names:
            start(name)
        return [state(name) for name in names]

    assert inside("first", act) == ["in line"] * 3
    assert [state(name) for name in start.ids] == ["completed"] * 4
    assert CALLS == ["first", "one", "two", "three"]
    assert limited.MOST[7] == 1


def test_a_snapshot_says_of_which_limit_it_waits_for_a_slot(engine, start, inside):
    found = inside("first", lambda: start("one"))
    assert (found.state, engine.status(found.execution_id).state) == ("pending", "completed")
    named = define(limit=Limit(1, name="erp"))
    [found] = inside("second", lambda: [engine.status(start("two", named).execution_id)], named)
    assert found.in_line_for == "erp"
    other = define(workflow_id="orders")
    [found] = inside("third", lambda: [engine.status(start("t", other).execution_id)], other)
    assert found.in_line_for == "orders: key=7"
    assert engine.status(found.execution_id).in_line_for is None


def test_other_keys_and_other_workflows_do_not_wait(driver, engine, start, inside, state):
    def act():
        start("key", more={"key": 8})
        start("text", more={"key": "7"})
        start("workflow", define(workflow_id="other"))
        return [state(name) for name in ("key", "text", "workflow")]

    assert "in line" not in inside("first", act)
    assert sorted(CALLS) == ["first", "key", "text", "workflow"]


def test_workflows_share_the_slots_of_one_name(driver, start, inside, state):
    shared = Limit(1, name="erp", key="key")
    one, two = define(limit=shared), define(workflow_id="other", limit=shared)
    assert inside("first", lambda: [start("b", two), state("b")][1], one) == "in line"
    assert CALLS == ["first", "b"]


def test_a_key_may_lie_deeper_in_the_input_and_a_limit_may_have_none(driver, start, inside, state):
    deep = define(limit=Limit(1, key="order.customer"))
    more = {"order": {"customer": "ada"}}

    def act():
        start("one", deep, more=more)
        CALLS.append(state("one"))

    INSIDE["first"] = act
    start("first", deep, more=more)
    driver.settle()
    assert CALLS == ["first", "in line", "one"]
    whole = define(workflow_id="whole", limit=Limit(1))
    assert inside("any", lambda: [start("b", whole, more={"key": 9}), state("b")][1], whole) == (
        "in line"
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [({}, "not in its input"), ({"key": {"a": 1}}, "not a single value"), ({"key": [1]}, "single")],
)
def test_an_input_without_the_key_is_refused_at_the_start(engine, driver, given, problem):
    with pytest.raises(LimitKeyError, match=problem) as caught:
        engine.start(define(), {"name": "x", **given})
    assert "Workflow 'w' is limited by 'key'" in str(caught.value)
    assert driver.count() == 0


def test_a_sleep_gives_the_slot_up_and_it_comes_back_in_line(
    driver, start, inside, state, pass_time
):
    start("sleeper", define(limited.rest))
    driver.settle()
    assert state("sleeper") == "waiting"

    def act():
        pass_time(HOUR + SECOND)
        return state("sleeper")

    assert inside("first", act) == "in line"
    assert state("sleeper") == "completed"
    assert CALLS == ["sleeper", "first", "sleeper", "sleeper again"]


@pytest.mark.parametrize("verb", ["resume", "signal", "time_out"])
def test_an_answered_wait_goes_back_to_the_front_of_the_line(
    driver, engine, start, inside, state, verb
):
    start("asker", define(limited.ask))
    driver.settle()
    key = start.ids["asker"]

    def act():
        start("late")
        if verb == "resume":
            engine.resume(key, "yes")
        elif verb == "signal":
            engine.signal(key, "go", "yes")
        else:
            engine.time_out(key)
        return state("asker"), state("late")

    assert inside("first", act) == ("in line", "in line")
    assert CALLS[:3] == ["asker", "first", "asker"]
    assert CALLS[-1] == "late"
    assert state("late") == "completed"


def test_a_delay_between_attempts_gives_the_slot_up(driver, start, inside, state, pass_time):
    retry = Retry(max_attempts=2, base=60, jitter=0)

    def fail():
        raise ValueError("once")

    INSIDE["failing"] = fail
    start("failing", define(retry=retry))
    driver.settle()
    assert state("failing") == "pending"

    def act():
        pass_time(2 * MINUTE)
        return state("failing")

    assert inside("first", act) == "in line"
    assert CALLS == ["failing", "first", "failing"]


def test_a_start_for_later_joins_the_line_when_its_time_has_come(
    driver, start, inside, state, pass_time
):
    start("later", at=driver.now() + HOUR)
    driver.settle()
    assert state("later") == "pending"

    def act():
        before = state("later")
        pass_time(HOUR + SECOND)
        return before, state("later")

    assert inside("first", act) == ("pending", "in line")
    assert (state("later"), CALLS) == ("completed", ["first", "later"])


def test_one_that_is_cancelled_in_line_never_runs_and_holds_up_nobody(
    driver, engine, start, inside, state
):
    def act():
        start("one")
        start("two")
        return engine.cancel(start.ids["one"]).state

    assert inside("first", act) == "cancelled"
    assert CALLS == ["first", "two"]


def test_a_cancelled_run_keeps_its_slot_until_it_notices(driver, engine, start, inside, state):
    def act():
        engine.cancel(start.ids["first"])
        start("one")
        driver.settle()
        return state("first"), state("one")

    INSIDE["first"] = lambda: CALLS.append(act())
    start("first", at=driver.now() + SECOND)
    driver.pass_time(MINUTE)
    driver.settle()
    assert CALLS == ["first", ("cancelled", "in line"), "one"]
    assert limited.MOST[7] == 1


def test_what_waits_without_a_slot_is_cancelled_without_harm(driver, engine, start, state):
    start("asker", define(limited.ask))
    driver.settle()
    engine.cancel(start.ids["asker"])
    start("next")
    driver.settle()
    assert (state("asker"), state("next")) == ("cancelled", "completed")


def test_undoing_takes_a_slot_too(driver, engine, start, inside, state):
    start("trip", define(limited.book))
    driver.settle()

    def act():
        engine.cancel(start.ids["trip"], compensate=True)
        return state("trip")

    assert inside("first", act) == "in line"
    assert (state("trip"), CALLS) == ("cancelled", ["trip", "first", "trip undone"])


def test_a_deadline_passes_in_line(driver, engine, start, inside, state, pass_time):
    limited_time = define(deadline=MINUTE)

    def act():
        start("one", limited_time)
        pass_time(2 * MINUTE)
        return state("one")

    assert inside("first", act) == "failed"
    start("two")
    driver.settle()
    assert CALLS == ["first", "two"]


def test_a_continued_execution_keeps_its_slot(driver, start, inside, state):
    endless = define(limited.go_on)
    INSIDE["e2"] = lambda: start("one")
    start("e", endless, more={"left": 2})
    driver.settle()
    assert CALLS == ["e2", "e1", "e0", "one"]
    assert limited.MOST[7] == 1


def test_a_retry_from_checkpoint_joins_the_line(driver, engine, start, inside, state):
    def fail():
        raise ValueError("once")

    INSIDE["failing"] = fail
    start("failing")
    driver.settle()
    assert state("failing") == "failed"

    def act():
        start.ids["fresh"] = engine.retry_from_checkpoint(start.ids["failing"]).execution_id
        return state("fresh")

    assert inside("first", act) == "in line"
    assert (state("fresh"), CALLS) == ("completed", ["failing", "first", "failing"])


def test_it_cannot_be_woken_in_line(driver, engine, start, inside):
    def act():
        start("one")
        with pytest.raises(WorkflowInvalidStateError, match="not sleeping"):
            engine.wake(start.ids["one"])
        return "refused"

    assert inside("first", act) == "refused"


def test_a_correlation_id_finds_the_one_in_line(driver, engine, start, inside):
    def act():
        ids = {start(name, correlation_id="c").execution_id for name in ("one", "one again")}
        return len(ids)

    assert inside("first", act) == 1
    assert CALLS == ["first", "one"]


def test_a_raised_limit_is_in_force_from_the_next_look(driver, start, inside, state):
    def act():
        start("one")
        start("two", define(limit=Limit(3, key="key")))
        driver.settle()
        return state("one"), state("two")

    assert inside("first", act) == ("completed", "completed")


def test_a_lowered_limit_stops_nobody(driver, start, inside, state):
    wide = define(limit=Limit(3, key="key"))

    def act():
        start("one", define(limit=Limit(1, key="key")))
        return state("one")

    assert inside("first", act, wide) == "in line"
    assert (state("first"), state("one")) == ("completed", "completed")


def test_in_a_transaction_the_line_moves_after_the_commit(driver, engine, start, state):
    with transaction.atomic():
        for name in ("one", "two", "three"):
            start(name)
    driver.settle()
    assert CALLS == ["one", "two", "three"]
    assert limited.MOST[7] == 1


def test_what_is_rolled_back_leaves_no_gap(driver, engine, start, state):
    with transaction.atomic():
        start("gone")
        transaction.set_rollback(True)
    start("next")
    driver.settle()
    assert state("next") == "completed"


# Rates


RATE = Rate(2, per=MINUTE, key="key")


def rated(handler=limited.play, **options):
    return define(handler, limit=None, rate=RATE, **options)


def test_a_rate_lets_so_many_start_in_any_window(driver, start, state):
    for name in "abc":
        start(name, rated())
        driver.settle()
        driver.pass_time(20 * SECOND)  # a at 0, b at 20, and c waits at 40
    driver.settle()
    assert CALLS == ["a", "b", "c"], "a no longer counts at 60"
    start("d", rated())
    driver.settle()
    assert state("d") == "in line", "b at 20 and c at 60 count"
    driver.pass_time(10 * SECOND)
    driver.settle()
    assert state("d") == "in line"
    driver.pass_time(11 * SECOND)
    driver.settle()
    assert state("d") == "completed"


def test_a_burst_is_no_larger_after_a_pause(driver, start, state):
    for name in "abcdef":
        start(name, rated())
        driver.settle()
    assert CALLS == ["a", "b"]
    driver.pass_time(30 * SECOND)  # far from the minute's end, however slow the machine is
    driver.settle()
    assert CALLS == ["a", "b"]
    driver.pass_time(31 * SECOND)
    driver.settle()
    assert sorted(CALLS) == ["a", "b", "c", "d"]
    driver.pass_time(10 * MINUTE)
    driver.settle()
    assert sorted(CALLS) == ["a", "b", "c", "d", "e", "f"]


def test_an_execution_counts_once_however_often_it_runs(driver, start, state):
    for name, handler in (("sleeper", limited.rest), ("b", limited.play), ("c", limited.play)):
        start(name, rated(handler))
        driver.settle()
    assert state("c") == "in line"
    driver.pass_time(61 * SECOND)
    driver.settle()
    start("d", rated())
    driver.settle()
    start("e", rated())
    driver.settle()
    assert CALLS == ["sleeper", "b", "c", "d"]
    driver.pass_time(HOUR)
    driver.settle()
    assert CALLS[4:] in (["e", "sleeper", "sleeper again"], ["sleeper", "sleeper again", "e"])


def test_one_that_has_started_needs_no_start_again_while_others_wait(driver, engine, start, state):
    start("asker", rated(limited.ask))
    for name in "bcd":
        start(name, rated())
    driver.settle()
    assert state("c") == "in line"
    engine.resume(start.ids["asker"], "yes")
    driver.settle()
    assert state("asker") == "completed"
    assert state("c") == "in line"


def test_one_that_was_cancelled_before_it_started_does_not_count(driver, engine, start, state):
    for name in "abc":
        start(name, rated())
        driver.settle()
    engine.cancel(start.ids["c"])
    driver.pass_time(61 * SECOND)
    driver.settle()
    for name in "de":
        start(name, rated())
        driver.settle()
    assert CALLS == ["a", "b", "d", "e"]


def test_limit_and_rate_hold_together(driver, start, inside, state):
    both = define(limit=Limit(1, key="key"), rate=RATE)

    def act():
        for name in ("one", "two"):
            start(name, both)
        driver.settle()
        return state("one"), state("two")

    assert inside("first", act, both) == ("in line", "in line")
    assert (state("one"), state("two")) == ("completed", "in line")
    driver.pass_time(61 * SECOND)
    driver.settle()
    assert CALLS == ["first", "one", "two"]


def test_a_continued_execution_needs_no_start(driver, start, state):
    start("e", rated(limited.go_on), more={"left": 3})
    driver.settle()
    assert CALLS == ["e3", "e2", "e1", "e0"]
    for name in "ab":
        start(name, rated())
    driver.settle()
    assert CALLS[4:] == ["a"]
