"""Pauses of workflows, on every engine: what is paused waits, and nothing is lost or charged."""

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from general_manager.workflow import Limit, PauseKind, Retry, WorkflowDefinition, acting_as
from tests.testapp import plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def define(handler=plays.note_it, name="w", **options):
    return WorkflowDefinition(name, handler=handler, **options)


def state(engine, key):
    found = engine.status(key)
    return found.state, found.paused_since is not None


def test_what_is_paused_does_not_start_and_all_of_it_runs_when_it_is_unpaused(
    engine, driver, started
):
    engine.pause("w", reason="the ERP is down")
    keys = [started(define(), {"n": n}).execution_id for n in range(3)]
    assert [state(engine, key) for key in keys] == [("pending", True)] * 3
    assert plays.stage.calls == []
    assert engine.unpause("w") is True
    driver.settle()
    assert [state(engine, key) for key in keys] == [("completed", False)] * 3
    assert plays.stage.calls == ["noted"] * 3


def test_another_workflow_runs_on(engine, started):
    engine.pause(define(name="other"))
    assert started(define()).state == "completed"
    assert engine.unpause("w") is False


def test_a_pause_shows_since_when_by_whom_why_and_how_much_it_holds(engine, driver, started):
    before = driver.now() - timedelta(seconds=5)
    with acting_as("ada"):
        engine.pause("w", reason="the ERP is down")
    started(define())
    started(define())
    with acting_as("bob"):
        again = engine.pause("w", reason="something else")
    [pause] = engine.pauses()
    assert again == pause
    assert (pause.kind, pause.name) == (PauseKind.WORKFLOW, "w")
    assert (pause.by, pause.reason) == ("ada", "the ERP is down")
    assert (pause.parked, pause.running) == (2, 0)
    assert before <= pause.since <= driver.now() + timedelta(seconds=5)
    engine.unpause("w")
    assert engine.pauses() == []


def test_what_runs_when_it_is_paused_runs_on_and_is_counted(engine, started):
    def pause(*_):
        plays.stage.seen.append(engine.pause("w").running)

    plays.stage.meanwhile = pause
    assert started(define(plays.do_meanwhile)).state == "completed"
    assert plays.stage.seen == [1]


def test_a_step_is_the_last_thing_a_paused_execution_does_before_its_wait(engine, driver, started):
    key = started(define(plays.ask_for_one)).execution_id
    engine.pause("w")
    engine.resume(key, "yes")
    driver.settle()
    assert state(engine, key) == ("pending", True)
    engine.unpause("w")
    driver.settle()
    assert state(engine, key) == ("completed", False)


def test_the_timeout_of_a_wait_still_happens(engine, driver, started):
    key = started(define(plays.ask_for_one), {"timeout": 600}).execution_id
    engine.pause("w")
    driver.pass_time(timedelta(seconds=601))
    driver.settle()
    assert state(engine, key) == ("pending", True)
    assert engine.status(key).waiting_for is None
    assert [one.kind for one in engine.history(key)] == ["wait_timed_out"]
    engine.unpause("w")
    driver.settle()
    assert engine.status(key).output_data == {"paid": "nobody"}


def test_a_deadline_stands_still_while_an_execution_is_parked(engine, driver, started):
    engine.pause("w")
    key = started(define(plays.ask_for_one, deadline=HOUR)).execution_id
    assert engine.status(key).deadline is None
    driver.pass_time(2 * HOUR)
    driver.settle()
    assert state(engine, key) == ("pending", True)
    engine.unpause("w")
    driver.settle()
    left = engine.status(key).deadline - driver.now()
    assert HOUR - MINUTE < left <= HOUR
    driver.pass_time(HOUR)
    driver.settle()
    assert state(engine, key) == ("failed", False)


def test_a_deadline_that_passed_before_ends_what_is_paused(engine, driver, started):
    key = started(define(plays.ask_for_one, deadline=HOUR)).execution_id
    engine.pause("w")
    driver.pass_time(HOUR + MINUTE)
    driver.settle()
    assert state(engine, key) == ("failed", False)


def test_nothing_is_charged(engine, driver, started):
    plays.stage.troubles[:] = [ValueError("one")]
    retry = Retry(max_attempts=2, base=60, jitter=0)
    key = started(define(plays.fail_as_told, retry=retry)).execution_id
    engine.pause("w")
    for _ in range(3):
        driver.pass_time(timedelta(seconds=61))
        driver.settle()
        assert state(engine, key) == ("pending", True)
    assert plays.stage.calls == ["attempt"]
    engine.unpause("w")
    driver.settle()
    assert plays.stage.calls == ["attempt", "attempt"]
    assert engine.status(key).state == "completed"


def test_a_parked_execution_can_be_cancelled(engine, driver, started):
    engine.pause("w")
    key = started(define(deadline=HOUR)).execution_id
    assert engine.cancel(key).state == "cancelled"
    engine.unpause("w")
    driver.settle()
    assert state(engine, key) == ("cancelled", False)
    assert plays.stage.calls == []


def test_a_parked_execution_keeps_its_correlation_id(engine, driver, started):
    engine.pause("w")
    first = started(define(), correlation_id="7").execution_id
    assert engine.start(define(), correlation_id="7").execution_id == first
    engine.unpause("w")
    driver.settle()
    assert plays.stage.calls == ["noted"]


def test_one_that_is_to_start_later_is_parked_when_its_time_has_come(engine, driver):
    engine.pause("w")
    key = engine.start(define(), {}, at=driver.now() + HOUR).execution_id
    driver.settle()
    assert state(engine, key) == ("pending", False)
    driver.pass_time(HOUR + MINUTE)
    driver.settle()
    assert state(engine, key) == ("pending", True)
    engine.unpause("w")
    driver.settle()
    assert state(engine, key) == ("completed", False)


def test_it_can_be_paused_again(engine, driver, started):
    engine.pause("w")
    engine.unpause("w")
    engine.pause("w", reason="again")
    key = started(define()).execution_id
    assert state(engine, key) == ("pending", True)
    assert [one.reason for one in engine.pauses()] == ["again"]


def test_undos_wait_too(engine, driver, started):
    engine.pause("w")
    key = started(define(deadline=HOUR)).execution_id
    engine.cancel(key, compensate=True)
    driver.settle()
    engine.unpause("w")
    driver.settle()
    assert state(engine, key) == ("cancelled", False)


def test_async_code_can_pause(engine, started):
    async def pause():
        await engine.apause("w", reason="x")
        return await engine.apauses()

    [pause_] = async_to_sync(pause)()
    assert pause_.reason == "x"
    assert started(define()).paused_since is not None
    assert async_to_sync(engine.aunpause)("w") is True


@pytest.mark.parametrize(
    ("arguments", "options"),
    [((), {}), (("w",), {"registration": "r"}), ((3,), {}), (("w",), {"reason": 3})],
)
def test_it_says_what_is_wrong_with_its_arguments(engine, arguments, options):
    with pytest.raises(TypeError):
        engine.pause(*arguments, **options)
    assert engine.pauses() == []


def test_in_a_transaction_what_it_releases_follows_the_commit(engine, driver, started):
    engine.pause("w")
    started(define())
    if not engine.supports_tables:
        pytest.skip("memory knows no transactions")
    with transaction.atomic():
        engine.unpause("w")
        assert plays.stage.calls == []
    driver.settle()
    assert plays.stage.calls == ["noted"]


def test_a_wait_that_ends_while_the_rest_of_a_sweep_runs_is_parked_and_the_sweep_ends(
    engine, driver, started
):
    """It became due after the sweep had woken what was due."""
    key = started(define(plays.nap)).execution_id
    engine.pause("w")

    def sleep_ends(*_):
        driver.pass_time(2 * HOUR)

    plays.stage.meanwhile = sleep_ends
    started(define(plays.do_meanwhile, name="other"))
    driver.settle()
    assert state(engine, key) == ("pending", True)
    engine.unpause("w")
    driver.settle()
    assert state(engine, key) == ("completed", False)


def test_what_is_paused_gives_its_slot_to_others_of_its_limit(engine, driver):
    one = define(name="w", limit=Limit(1, name="erp"))
    other = define(name="other", limit=Limit(1, name="erp"))
    engine.pause("w")
    keys = [engine.start(one).execution_id for _ in range(3)]
    last = engine.start(other).execution_id
    driver.settle()
    assert state(engine, last) == ("completed", False)
    assert [state(engine, key) for key in keys] == [("pending", True)] * 3
    engine.unpause("w")
    driver.settle()
    assert [state(engine, key) for key in keys] == [("completed", False)] * 3
