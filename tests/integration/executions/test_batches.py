"""Executions that a worker begins with one statement, and completes with one."""

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from threading import Event, Thread, Timer, current_thread, main_thread
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.db import connection, transaction
from django.db.models import F
from django.test import override_settings

from general_manager.workflow import (
    Limit,
    WorkflowDefinition,
    child,
    gather,
    get_workflow_engine,
    step,
)
from general_manager.workflow.executions.runner import run_begun
from general_manager.workflow.executions.runs import batch as batches
from general_manager.workflow.executions.runs.batch import Batch
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.models.executions.batches import begin_together, complete_together
from general_manager.workflow.models.executions.claims import begin, take_ready
from general_manager.workflow.models.sql.due import ANY_AGE
from general_manager.workflow.signals import execution_changed
from general_manager.workflow.transport import broker, nudges
from general_manager.workflow.transport.throttle import Throttle
from general_manager.workflow.workers import running, work
from general_manager.workflow.workers.tick import sweep
from general_manager.workflow.workers.work import empty
from tests.integration.conftest import data_statements
from tests.integration.executions.killing import is_killed
from tests.servers import wait_until
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL has batches"),
]
MINUTE = timedelta(minutes=1)
ROWS = WorkflowExecutionRecord.objects


@pytest.fixture(autouse=True)
def _without_a_broker(monkeypatch):
    monkeypatch.setattr(broker, "has_app", lambda *_: True)
    monkeypatch.setattr(broker, "_publish", lambda *_: None)
    monkeypatch.setattr(nudges, "nudge_throttle", Throttle(0))
    monkeypatch.setattr(batches, "BATCH_SECONDS", 60)  # however busy this machine is
    monkeypatch.setattr(running, "WORTH_SECONDS", 60)
    monkeypatch.setattr(work, "SLOW_SECONDS", 60)
    broker.broker.answered()


def start(engine: Any, handler: Callable[..., Any], number: int = 1, **options: Any) -> list[str]:
    definition = WorkflowDefinition("w", handler=handler, **options)
    return [engine.start(definition, {"number": one}).execution_id for one in range(number)]


def states() -> dict[str, str]:
    return dict(ROWS.values_list("execution_id", "state"))


def value(execution_id: str, *names: str) -> Any:
    return ROWS.values_list(*names).get(execution_id=execution_id)


def in_another_session(act: Callable[[], Any]) -> Any:
    """What *act* returns, called in a thread with a connection of its own."""
    found: list[Any] = []

    def call() -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '10s'")
            found.append(act())
        finally:
            connection.close()

    thread = Thread(target=call)
    thread.start()
    thread.join()
    return found[0]


def test_executions_that_do_nothing_in_the_database_cost_no_statement_each(celery_engine):
    start(celery_engine, flows.echo, 18)
    with data_statements() as statements:
        empty("default")
    assert set(states().values()) == {"completed"}
    # Two claims, the second of which finds nothing; a begin, the ends, and who waits for them.
    assert len([one for one in statements if "workflowexecutionrecord" in one]) <= 5, statements


def test_each_keeps_its_own_output(celery_engine):
    ids = start(celery_engine, flows.echo, 7)
    empty("default")
    for number, one in enumerate(ids):
        found = celery_engine.status(one)
        assert found.output_data == {"echo": {"number": number}}
        assert found.started_at <= found.ended_at


def test_steps_waits_and_failures_in_a_batch_come_to_what_they_come_to_alone(celery_engine):
    ids = [
        start(celery_engine, handler)[0]
        for handler in (flows.echo, flows.two_steps, flows.ask, flows.fail, flows.nap, flows.echo)
    ]
    empty("default")
    found = states()
    assert [found[one] for one in ids] == [
        "completed", "completed", "waiting", "failed", "waiting", "completed",
    ]  # fmt: skip
    assert Tag.objects.filter(name="second").count() == 1


def take() -> Any:
    return take_ready(ROWS.all(), 10, ANY_AGE)


def test_e9_a_worker_that_dies_in_a_batch_charges_none_of_it_and_each_runs_alone_next(
    celery_engine, workers
):
    ids = start(celery_engine, flows.echo, 3)
    taken = take()
    Batch("default", taken.token, taken.calm)
    workers.let_rest_pass()  # and its worker is dead
    sweep()
    assert set(ROWS.values_list("crashes", "run_alone", "state")) == {(0, True, "pending")}
    again = take()
    assert (again.calm, len(again.suspect)) == ((), 3)
    begin(ROWS.all(), again.suspect[0], again.token, lease=MINUTE)
    workers.let_rest_pass()
    sweep()
    assert sorted(ROWS.values_list("crashes", flat=True)) == [0, 0, 1], ids


def test_e9_x7_a_handler_that_kills_its_worker_is_stopped_and_only_it_is_charged(celery_engine):
    """In a batch with others that are quick, and have come to their ends already."""
    ids = start(celery_engine, die_if_third, 6)
    deaths = 0
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}):
        while set(states().values()) & {"pending", "running"}:
            with suppress(AssertionError):  # it has exited by itself
                is_killed(10_000, lambda: empty("default"))
            deaths += 1
            assert deaths < 12, states()
            ROWS.filter(state="running").update(wake_at=F("wake_at") - timedelta(hours=1))
            sweep()
    assert [states()[one] for one in ids].count("completed") == 5
    assert value(ids[2], "state", "crashes") == ("failed", 3)
    assert set(ROWS.exclude(execution_id=ids[2]).values_list("crashes", flat=True)) == {0}


def die_if_third(input_data: dict[str, Any]) -> None:
    if input_data["number"] == 2:
        os._exit(9)


def test_only_the_next_run_after_a_death_in_a_batch_is_alone(celery_engine):
    [one, _] = start(celery_engine, step_and_ask, 2)
    ROWS.update(run_alone=True)
    empty("default")
    assert value(one, "state", "run_alone") == ("waiting", False)


def step_and_ask(input_data: dict[str, Any]) -> dict[str, Any]:
    step("first", flows.note, "first")
    return flows.ask(input_data)


def test_x2_what_is_cancelled_while_its_batch_runs_is_not_completed(celery_engine):
    ids = start(celery_engine, cancel_all, 3)
    empty("default")
    assert [states()[one] for one in ids] == ["cancelled"] * 3
    assert set(ROWS.values_list("output_data", flat=True)) == {None}


def test_x2_what_is_cancelled_before_its_batch_calls_it_takes_no_step(celery_engine):
    """Its handler is called all the same, as it was running."""
    ids = start(celery_engine, cancel_the_last_or_step, 3)
    empty("default")
    assert [states()[one] for one in ids] == ["completed", "completed", "cancelled"]
    assert flows.calls == ["step 1", "called 2"]


def cancel_the_last_or_step(input_data: dict[str, Any]) -> None:
    number = input_data["number"]
    if number == 0:
        [last] = ROWS.order_by("-pk").values_list("execution_id", flat=True)[:1]
        get_workflow_engine().cancel(last)
        return
    if number == 2:
        flows.note("called 2")
    step("first", flows.note, f"step {number}", atomic=False)


def cancel_all(input_data: dict[str, Any]) -> None:
    """The last one cancels those whose handlers have returned, and itself."""
    if input_data["number"] == 2:
        for one in list(ROWS.values_list("execution_id", flat=True)):
            get_workflow_engine().cancel(one, reason="enough")


def test_x1_an_end_whose_row_is_locked_does_not_hold_up_the_others(celery_engine, monkeypatch):
    ids = start(celery_engine, flows.echo, 3)
    seen: list[dict[str, str]] = []
    alone = Batch._complete_alone

    def look_and_let_go(self: Batch, *arguments: Any) -> None:
        seen.append(in_another_session(states))
        unlock.append(1)
        alone(self, *arguments)

    unlock: list[int] = []
    monkeypatch.setattr(Batch, "_complete_alone", look_and_let_go)

    def lock_the_second() -> None:
        with transaction.atomic():
            list(ROWS.select_for_update().filter(execution_id=ids[1]))
            locked.append(1)
            wait_until(lambda: unlock, "the batch that passes over the row")
        connection.close()

    locked: list[int] = []
    taken = take()
    batch = Batch("default", taken.token, taken.calm)
    thread = Thread(target=lock_the_second)
    thread.start()
    wait_until(lambda: locked, "the lock")
    while (record := batch.next()) is not None:
        run_begun(record, "default")
    batch.write(deque())
    thread.join()
    assert seen == [{ids[0]: "completed", ids[1]: "running", ids[2]: "completed"}]
    assert set(states().values()) == {"completed"}


def test_what_is_locked_by_others_is_not_begun_with_the_others(celery_engine):
    ids = start(celery_engine, flows.echo, 3)
    taken = take()
    with transaction.atomic():
        list(ROWS.select_for_update().filter(execution_id=ids[1]))
        batch = in_another_session(lambda: Batch("default", taken.token, taken.calm))
    keys = dict(ROWS.values_list("execution_id", "pk"))
    assert batch.keys == {keys[ids[0]], keys[ids[2]]}


def test_a_slow_handler_holds_up_neither_the_ends_of_its_batch_nor_what_was_not_called(
    celery_engine, monkeypatch
):
    monkeypatch.setattr(work, "SLOW_SECONDS", 0.05)
    start(celery_engine, wait_if_second, 4)
    empty("default")
    assert looks == [["completed", "running", "pending", "pending"]]
    assert set(states().values()) == {"completed"}
    assert set(ROWS.values_list("runs", flat=True)) == {1}


looks: list[list[str]] = []


def wait_if_second(input_data: dict[str, Any]) -> None:
    if input_data["number"] == 0:
        looks.clear()
    if input_data["number"] == 1:
        wait_until(lambda: "pending" in states().values(), "what is given back")
        wait_until(lambda: "completed" in states().values(), "the end of the first")
        looks.append(list(ROWS.order_by("pk").values_list("state", flat=True)))


def test_what_is_given_back_is_as_if_it_had_not_been_begun(celery_engine):
    [one, _] = start(celery_engine, flows.echo, 2, priority=3)
    names = [field.attname for field in WorkflowExecutionRecord._meta.concrete_fields]
    not_kept = {"wake_at", "claimed_by", "in_batch"}
    before = ROWS.values(*(name for name in names if name not in not_kept)).get(execution_id=one)
    taken = take()
    Batch("default", taken.token, taken.calm).give_back()
    after = ROWS.values(*before).get(execution_id=one)
    assert after == before
    assert len(take().calm) == 2


def test_after_its_time_no_further_handler_of_a_batch_is_called(celery_engine, monkeypatch):
    """It may have been cancelled since it was begun, or its lease be over."""
    monkeypatch.setattr(batches, "BATCH_SECONDS", 0)
    start(celery_engine, flows.echo, 2)
    taken = take()
    batch = Batch("default", taken.token, taken.calm)
    assert batch.next() is None
    batch.give_back()
    assert set(ROWS.values_list("state", "runs")) == {("pending", 0)}


def test_slow_executions_are_begun_one_by_one(celery_engine, monkeypatch):
    monkeypatch.setattr(running, "WORTH_SECONDS", 0)
    begun: list[Any] = []
    monkeypatch.setattr(running, "Batch", lambda *_: begun.append(1))
    start(celery_engine, flows.echo, 3)
    empty("default")
    assert (begun, set(states().values())) == ([], {"completed"})


@pytest.mark.parametrize("options", [{"timeout": MINUTE}, {"limit": Limit(5)}])
def test_what_has_a_limit_of_its_own_is_begun_alone(celery_engine, options):
    """Its time would begin before its handler is called; its slot would be kept after that."""
    start(celery_engine, flows.echo, 2, **options)
    taken = take()
    assert Batch("default", taken.token, taken.calm).keys == frozenset()
    empty("default")


def test_ends_that_cannot_be_written_together_are_written_one_by_one(celery_engine, monkeypatch):
    def refuse(*_: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1/0")

    monkeypatch.setattr(batches, "complete_together", refuse)
    start(celery_engine, flows.echo, 3)
    empty("default")
    assert set(states().values()) == {"completed"}


def test_x1_ends_survive_the_loss_of_the_connection(celery_engine):
    start(celery_engine, lose_the_connection, 3)
    empty("default")
    assert set(states().values()) == {"completed"}
    assert set(ROWS.values_list("runs", "crashes", "interruptions")) == {(1, 0, 0)}


def lose_the_connection(input_data: dict[str, Any]) -> None:
    if input_data["number"] == 2:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            [[own]] = cursor.fetchall()
        in_another_session(lambda: terminate(own))


def terminate(session: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [session])


def lose_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first ends are committed, and nobody hears of it; an item for each time."""
    times: list[int] = []

    def complete_and_lose(*arguments: Any) -> Any:
        done = complete_together(*arguments)
        times.append(1)
        if len(times) == 1:
            lose_the_connection({"number": 2})
            connection.cursor().execute("SELECT 1")
        return done

    monkeypatch.setattr(batches, "complete_together", complete_and_lose)
    return times


def test_x1_an_end_whose_answer_was_lost_is_not_written_twice(celery_engine, monkeypatch):
    times = lose_the_first_answer(monkeypatch)
    changes: list[str] = []
    with heard(changes):
        start(celery_engine, flows.echo, 2)
        empty("default")
    assert len(times) == 2
    assert changes.count("completed") == 2
    assert set(ROWS.values_list("state", "runs")) == {("completed", 1)}


class heard:
    """The states that receivers of `execution_changed` are told."""

    def __init__(self, states: list[str]) -> None:
        self._states = states

    def _hear(self, execution: Any, **_: Any) -> None:
        self._states.append(str(execution.state))

    def __enter__(self) -> None:
        execution_changed.connect(self._hear)

    def __exit__(self, *_: object) -> None:
        execution_changed.disconnect(self._hear)


def test_receivers_are_told_of_each_end_once_it_is_written(celery_engine):
    changes: list[str] = []
    with heard(changes):
        start(celery_engine, flows.echo, 3)
        changes.clear()
        empty("default")
    assert changes == ["running"] * 3 + ["completed"] * 3


def test_an_end_with_an_event_is_a_commit_of_its_own(celery_engine, outbox):
    heard: list[str] = []
    outbox.register(
        "execution_completed", registration_id="r",
        handler=lambda event: heard.append(event.payload["execution_id"]),
    )  # fmt: skip
    ids = start(celery_engine, flows.echo, 3)
    empty("default")
    assert sorted(heard) == sorted(ids)
    assert set(states().values()) == {"completed"}


def test_a_batch_whose_begin_is_interrupted_is_given_back(celery_engine, monkeypatch):
    """By a time limit, say, when its rows are running already."""

    def begin_and_stop(*arguments: Any, **options: Any) -> Any:
        begin_together(*arguments, **options)
        raise SoftTimeLimitExceeded

    ids = start(celery_engine, flows.echo, 5)
    with monkeypatch.context() as patch:
        patch.setattr(batches, "begin_together", begin_and_stop)
        with pytest.raises(SoftTimeLimitExceeded):
            empty("default")
    assert [value(one, "state", "runs", "claim_token") for one in ids] == [("pending", 0, None)] * 5


@pytest.mark.parametrize("together", [True, False])
def test_x1_a_receiver_that_ends_the_process_leaves_no_end_unwritten(
    celery_engine, monkeypatch, together
):
    if not together:
        monkeypatch.setattr(batches, "complete_together", lambda *_: {})
    told: list[str] = []

    def hear(execution: Any, **_: Any) -> None:
        if str(execution.state) == "completed":
            told.append(execution.execution_id)
            if len(told) == 1:
                raise SystemExit

    ids = start(celery_engine, flows.echo, 5)
    execution_changed.connect(hear)
    try:
        with pytest.raises(SystemExit):
            empty("default")
    finally:
        execution_changed.disconnect(hear)
    assert told == ids
    assert set(ROWS.values_list("state", "runs")) == {("completed", 1)}


PART = WorkflowDefinition("part", handler=flows.echo)


def two_parts(_: dict[str, Any]) -> dict[str, Any]:
    return {"parts": gather("parts", [child(PART, {"part": n}) for n in range(2)])}


def test_a3_a_parent_is_told_though_the_answer_to_the_ends_of_its_children_was_lost(
    celery_engine, monkeypatch
):
    times = lose_the_first_answer(monkeypatch)
    [parent] = start(celery_engine, two_parts)
    for _ in range(3):
        empty("default")
    assert states()[parent] == "completed"
    assert len(times) > 1


def lock_the_first_and_wait(input_data: dict[str, Any]) -> None:
    if input_data["number"] == 1:
        with transaction.atomic():
            list(ROWS.order_by("pk").select_for_update()[:1])
            wait_until(lambda: None in in_another_session(tokens), "what is given back")
            looks.append(in_another_session(tokens))


def tokens() -> list[Any]:
    return list(ROWS.order_by("pk").values_list("claim_token", flat=True))


def test_a_lock_that_a_slow_handler_holds_does_not_keep_others_from_what_is_left(
    celery_engine, monkeypatch
):
    """Another thread gives it back before it writes an end that waits for the lock."""
    monkeypatch.setattr(running, "MOST_IN_A_BATCH", 2)
    monkeypatch.setattr(work, "SLOW_SECONDS", 0.05)
    looks.clear()
    start(celery_engine, lock_the_first_and_wait, 3)
    empty("default")
    assert [token is None for token in looks[0]] == [False, False, True]
    assert set(states().values()) == {"completed"}


def test_a_worker_waits_for_the_thread_that_writes_its_ends(celery_engine, monkeypatch):
    monkeypatch.setattr(work, "SLOW_SECONDS", 0.05)
    gate, is_writing = Event(), Event()
    alone = Batch._complete_alone

    def write_late(self: Batch, *arguments: Any) -> None:
        if current_thread() is not main_thread():
            is_writing.set()
            gate.wait(5)
        alone(self, *arguments)

    def handle(input_data: dict[str, Any]) -> None:
        if input_data["number"] == 1:
            assert is_writing.wait(5)
            Timer(0.2, gate.set).start()

    monkeypatch.setattr(Batch, "_complete_alone", write_late)
    start(celery_engine, flows.ask, 3)
    monkeypatch.setattr(flows, "ask", handle)
    empty("default")
    assert set(states().values()) == {"completed"}


def test_a_process_that_a_handler_forks_calls_nothing_of_the_batch_and_writes_nothing(
    celery_engine,
):
    start(celery_engine, flows.echo, 2)
    taken = take()
    batch = Batch("default", taken.token, taken.calm)
    process = os.fork()
    if process == 0:
        batch.give_back()
        os._exit(0 if batch.next() is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert set(states().values()) == {"running"}
    assert batch.next() is not None


def test_k1_an_end_is_not_built_on_a_step_that_a_crash_of_the_database_has_undone(celery_engine):
    """Its commit did not wait for the disk."""
    relaxed = {"WORKFLOW_MODE": "production", "WORKFLOW_SYNCHRONOUS_COMMIT": False}
    with override_settings(GENERAL_MANAGER=relaxed):
        first, second = start(celery_engine, step_and_crash, 2)
        empty("default")
    assert value(second, "state") == ("completed",)
    assert value(first, "state", "interruptions") == ("pending", 1)


def step_and_crash(input_data: dict[str, Any]) -> None:
    if input_data["number"] == 0:
        step("first", flows.write, "first")
    else:
        WorkflowStep.objects.all().delete()
        lose_the_connection({"number": 2})
        connection.close()
