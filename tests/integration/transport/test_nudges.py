"""How many messages and statements the work of a queue costs: the hot paths, counted."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.test import override_settings
from django.utils import timezone

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowEvent,
)
from general_manager.workflow.core import limits
from general_manager.workflow.executions.runner import run
from general_manager.workflow.executions.store import DatabaseRunStore
from general_manager.workflow.models import (
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowQueue,
)
from general_manager.workflow.models.executions.claims import begin, take_ready
from general_manager.workflow.models.queue import BUSY_SECONDS, is_any_due
from general_manager.workflow.models.sql.due import ANY_AGE, Share
from general_manager.workflow.outbox.drain import deliver_claim, drain
from general_manager.workflow.transport import broker, nudges
from general_manager.workflow.transport.base import WORK
from general_manager.workflow.transport.throttle import Throttle
from general_manager.workflow.workers import work
from general_manager.workflow.workers.busy import Busy
from general_manager.workflow.workers.pace import Pace
from general_manager.workflow.workers.tick import sweep
from general_manager.workflow.workers.work import empty
from tests.integration.conftest import data_statements
from tests.servers import wait_until
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
MINUTE = timedelta(minutes=1)


@pytest.fixture
def sent(monkeypatch):
    """Messages instead of a broker: their queues."""
    said: list[str] = []

    def publish(app, task, arguments, queue):
        assert (task, arguments) == (WORK, ["default", queue])
        said.append(queue)

    monkeypatch.setattr(broker, "has_app", lambda *_: True)
    monkeypatch.setattr(broker, "_publish", publish)
    monkeypatch.setattr(nudges, "nudge_throttle", Throttle(0))
    broker.broker.answered()
    return said


@pytest.fixture
def _slow_soon(monkeypatch):
    monkeypatch.setattr(work, "SLOW_SECONDS", 0.05)


def publish(outbox, number, key="x"):
    outbox.publish_many(
        WorkflowEvent(f"{key}{number}-{one}", "a.b", {}, event_name=key) for one in range(number)
    )


def start(engine, number=1, **options):
    definition = WorkflowDefinition("w", handler=flows.echo, **options)
    return [engine.start(definition).execution_id for _ in range(number)]


def queue_row():
    return WorkflowQueue.objects.get(name="")


def test_an_idle_drain_is_one_statement(outbox):
    with data_statements() as statements:
        assert drain("default") == 0
    assert len(statements) == 1


def test_an_idle_look_is_one_statement_for_each_kind(outbox, sent, monkeypatch):
    monkeypatch.setattr(limits, "_declared", {})  # where a workflow has a rate, its lines are read
    with data_statements() as statements:
        empty("default")
    # Elsewhere a claim of executions opens a transaction of its own.
    assert len(statements) == 3, statements


def test_after_a_small_turn_one_statement_says_that_nothing_is_left(
    outbox, celery_engine, sent, monkeypatch
):
    """Not a claim of each kind, which costs five times as much."""
    monkeypatch.setattr(limits, "_declared", {})
    start(celery_engine)
    with data_statements() as statements:
        empty("default")
    takes = [one for one in statements if "locked" in one or "FOR UPDATE" in one]
    if connection.vendor == "postgresql":
        assert len(takes) == 2, takes
    assert statements[-1].startswith("SELECT EXISTS")
    assert celery_engine.executions()[0].state == "completed"


@pytest.mark.skipif(connection.vendor == "sqlite", reason="a file has no connection to lose")
def test_a_connection_that_is_lost_before_the_last_look_is_replaced(outbox, sent, monkeypatch):
    monkeypatch.setattr(limits, "_declared", {})  # where a workflow has a rate, it takes a turn
    looks = []

    def lose_the_connection(*arguments):
        looks.append(arguments)
        if len(looks) == 1:
            connection.connection.close()
        return is_any_due(*arguments)

    monkeypatch.setattr(work, "is_any_due", lose_the_connection)
    outbox.register("x", handler=lambda event: None)
    publish(outbox, 1)
    empty("default")
    assert len(looks) == 2
    assert WorkflowOutbox.objects.get().status == "processed"


@pytest.mark.parametrize("is_inside", [False, True])
def test_what_commits_before_the_next_look_needs_no_hook_for_its_commit(
    outbox, celery_engine, sent, is_inside
):
    """But one that commits after it, with the transaction in which the worker looks."""
    hooks: list[Any] = []

    def start_another(_):
        celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
        hooks.extend(connection.run_on_commit)

    outbox.register("shop.order.paid", handler=start_another)
    outbox.publish(WorkflowEvent("1", "shop.order.paid", {}))
    sent.clear()
    if is_inside:
        with transaction.atomic():
            empty("default")
            assert sent == []
    else:
        empty("default")
    assert bool(hooks) is is_inside
    assert bool(sent) is is_inside


def test_what_came_during_a_small_turn_is_found_after_it(outbox, celery_engine, sent):
    """Of either kind; each nudge is left out, for this worker looks again."""
    calls = []

    def handle(event):
        calls.append(event.event_id)
        if len(calls) < 3:
            publish(outbox, len(calls) + 1)
            celery_engine.start(WorkflowDefinition("w", handler=flows.echo))

    outbox.register("x", handler=handle, registration_id="r")
    publish(outbox, 1)
    empty("default")
    assert len(calls) == WorkflowOutbox.objects.filter(status="processed").count() == 6
    assert {one.state for one in celery_engine.executions()} == {"completed"}


def test_one_event_from_claim_to_settled_takes_few_statements(outbox, celery_engine, sent):
    outbox.register("x", handler=flows.start_from_event)
    publish(outbox, 1)
    with data_statements() as statements:
        assert drain("default") == 1
    # The queues, a claim, the chunk's events, who waits for one of them, the start, who is busy,
    # the delivery's row, the outcome, an empty claim; elsewhere a claim is a SELECT and an UPDATE.
    assert len(statements) == (9 if connection.vendor == "postgresql" else 10), statements
    assert WorkflowOutbox.objects.get().status == "processed"


def test_an_event_and_its_execution_take_one_message_and_say_nothing_of_being_busy(
    outbox, celery_engine, sent
):
    outbox.register("x", handler=flows.start_from_event)
    publish(outbox, 1)
    assert sent == [""]
    empty("default")
    assert sent == [""]
    assert set(WorkflowExecutionRecord.objects.values_list("state", flat=True)) == {"completed"}
    assert not WorkflowQueue.objects.exists()


def test_a_worker_that_finds_many_calls_one_more_and_says_that_it_is_busy(outbox, sent):
    busy = []
    outbox.register(
        "x", handler=lambda event: busy.append(sum(sent.count(one) for one in sent)),
        registration_id="r",
    )  # fmt: skip
    publish(outbox, 60)
    sent.clear()
    empty("default")
    assert WorkflowOutbox.objects.filter(status="processed").count() == 60
    assert sent == [""], "one message for all"
    assert busy[0] == 1, "and before the work"
    assert queue_row().busy_until is None, "it has stopped"


def test_nobody_sends_a_message_to_a_queue_in_which_a_worker_is_busy(outbox, sent):
    WorkflowQueue.objects.say_busy("")
    publish(outbox, 1)
    assert sent == []
    WorkflowQueue.objects.update(busy_until=F("busy_until") - timedelta(seconds=BUSY_SECONDS))
    publish(outbox, 2)
    assert sent == [""], "it may have died"


def test_a_commit_reads_once_whether_a_worker_is_busy(celery_engine, sent):
    start(celery_engine)
    with data_statements() as alone:
        start(celery_engine)
    with data_statements() as statements, transaction.atomic():
        start(celery_engine, 3)
    assert len([one for one in alone if "workflowqueue" in one]) == 1
    assert len([one for one in statements if "workflowqueue" in one]) == 1


def test_what_comes_while_a_worker_clears_busy_is_found_by_its_last_look(outbox, sent, monkeypatch):
    """The publisher has read that somebody is busy, so it sends nothing."""
    outbox.register("x", handler=lambda event: None, registration_id="r")
    publish(outbox, 60)
    clear = Busy.clear

    def publish_before(self):
        if not WorkflowOutbox.objects.filter(event__event_id__startswith="x7").exists():
            publish(outbox, 7)
        clear(self)

    monkeypatch.setattr(Busy, "clear", publish_before)
    empty("default")
    assert WorkflowOutbox.objects.exclude(status="processed").count() == 0
    assert WorkflowOutbox.objects.count() == 67


def test_after_a_slice_a_worker_calls_another_and_ends(outbox, sent, monkeypatch):
    monkeypatch.setattr(work, "SLICE_SECONDS", 0)
    outbox.register("x", handler=lambda event: None, registration_id="r")
    publish(outbox, 60)
    sent.clear()
    empty("default")
    assert WorkflowOutbox.objects.filter(status="pending").count() == 10
    assert sent == ["", ""], "one to help, one to go on"


def test_o6_after_a_slice_nobody_relies_on_the_worker_that_has_ended(outbox, sent, monkeypatch):
    """The next one may find nothing: it does not know what this one has said."""
    monkeypatch.setattr(work, "SLICE_SECONDS", 0)
    outbox.register("x", handler=lambda event: None, registration_id="r")
    publish(outbox, 12)
    empty("default")
    assert WorkflowOutbox.objects.filter(status="processed").count() == 12
    empty("default")
    sent.clear()
    publish(outbox, 1)
    assert sent == [""], "it would wait for the next tick"


def test_o6_what_a_worker_has_said_last_stays_when_another_one_ends_its_slice(
    outbox, sent, monkeypatch
):
    monkeypatch.setattr(work, "SLICE_SECONDS", 0)
    outbox.register("x", handler=lambda event: None, registration_id="r")
    publish(outbox, 12)
    say = work._Shift._say_busy

    def both_say(self, found):
        say(self, found)
        self._busy._said_at -= 0.5  # and half a second later
        WorkflowQueue.objects.say_busy("")

    monkeypatch.setattr(work._Shift, "_say_busy", both_say)
    empty("default")
    assert WorkflowQueue.objects.is_busy("")


@pytest.mark.usefixtures("_slow_soon")
def test_what_a_slow_handler_holds_back_is_given_to_others(
    outbox, celery_engine, sent, monkeypatch
):
    """Entries and executions; and publishers may not rely on this worker's next look."""
    looks = []

    def wait(event):
        if looks:
            return
        looks.append(1)
        wait_until(lambda: len(sent) > 1, "a message")
        looks.append(WorkflowOutbox.objects.filter(status="pending").count())
        looks.append(WorkflowQueue.objects.is_busy(""))
        monkeypatch.setattr(work, "SLOW_SECONDS", 3600)  # the others are not, however busy this is

    outbox.register("x", handler=wait, registration_id="r", atomic=False)
    publish(outbox, 12)
    sent.clear()
    empty("default")
    assert looks == [1, 11, False]
    assert WorkflowOutbox.objects.filter(status="processed").count() == 12


@pytest.mark.usefixtures("_slow_soon")
def test_what_a_slow_execution_holds_back_is_given_to_others(celery_engine, sent, monkeypatch):
    given = []

    def wait(input_data):
        if not given:
            given.append(0)
            others = WorkflowExecutionRecord.objects.runnable()
            wait_until(lambda: others.count() == 2, "the others")
            wait_until(lambda: sent, "a message")
            monkeypatch.setattr(work, "SLOW_SECONDS", 3600)

    ids = start(celery_engine, 3)
    sent.clear()
    monkeypatch.setattr(flows, "echo", wait)
    empty("default")
    assert {celery_engine.status(one).state for one in ids} == {"completed"}


@pytest.mark.usefixtures("_slow_soon")
def test_slow_handlers_do_not_keep_a_worker_from_executions(
    outbox, celery_engine, sent, monkeypatch
):
    monkeypatch.setattr(work, "SLICE_SECONDS", 0)
    handled, before = [], []

    def wait(event):
        wait_until(lambda: len(sent) > len(before), "a message")
        handled.append(event.event_id)

    outbox.register("x", handler=wait, registration_id="r", atomic=False)
    publish(outbox, 3)
    [execution_id] = start(celery_engine)
    before += sent
    empty("default")
    assert (len(handled), celery_engine.status(execution_id).state) == (1, "pending")
    empty("default")
    assert celery_engine.status(execution_id).state == "completed"


@pytest.mark.usefixtures("_slow_soon")
def test_a_message_does_not_wait_for_the_end_of_a_slow_handler(outbox, celery_engine, sent):
    """It has started an execution, which another worker can run meanwhile."""

    def start_and_wait(event):
        flows.start_from_event(event)

    def wait(event):
        wait_until(lambda: sent, "the message")

    outbox.register("x", handler=start_and_wait, registration_id="r")
    outbox.register("x", handler=wait, registration_id="s")
    publish(outbox, 1)
    sent.clear()
    empty("default")
    assert sent


def test_what_a_slow_chunk_gives_back_is_announced(outbox, sent, monkeypatch):
    outbox.register("x", handler=lambda event: None, registration_id="r")
    publish(outbox, 3)
    sent.clear()
    monkeypatch.setattr(
        "general_manager.workflow.outbox.chunk.monotonic", iter(range(0, 10**6, 1000)).__next__
    )
    claim = WorkflowOutbox.objects.claim(3, lease=MINUTE, begin=3)
    deliver_claim("default", claim)
    assert WorkflowOutbox.objects.filter(status="pending").count() == 2
    assert sent == [""]


def test_x6_an_answer_that_comes_while_the_run_suspends_sends_a_message(
    celery_engine, sent, monkeypatch
):
    started = celery_engine.start(WorkflowDefinition("w", handler=flows.ask))
    opened = DatabaseRunStore.settle_wait

    def answer_after_it_looked(self, name):
        wait = opened(self, name)
        celery_engine.resume(started.execution_id, "late", wait=name)
        return wait

    monkeypatch.setattr(DatabaseRunStore, "settle_wait", answer_after_it_looked)
    sent.clear()
    run(started.execution_id, "default")
    assert WorkflowExecutionRecord.objects.get().state == "pending"
    assert sent == [""]


def test_the_tick_sends_one_message_for_each_queue_in_which_something_is_due(
    outbox, celery_engine, sent
):
    outbox.register("x", handler=lambda event: None, queue="slow", registration_id="r")
    publish(outbox, 5)
    start(celery_engine, 14)
    start(celery_engine, 2, queue="gpu")
    start(celery_engine, 2, queue="busy")
    WorkflowQueue.objects.say_busy("busy")
    sent.clear()
    assert sweep() == 0
    assert sent == ["", "gpu", "slow"]


def test_the_tick_sends_nothing_where_nothing_is_due(outbox, celery_engine, sent):
    sweep()
    assert sent == []


def test_e9_what_lost_its_worker_runs_alone(celery_engine, sent):
    """An execution that kills its worker again must not keep others waiting for a lease."""
    ids = start(celery_engine, 5)
    died = [ids[0], ids[3]]
    WorkflowExecutionRecord.objects.filter(execution_id__in=died).update(crashes=1)
    taken = take_ready(WorkflowExecutionRecord.objects.all(), 10, ANY_AGE)
    keys = dict(WorkflowExecutionRecord.objects.values_list("pk", "execution_id"))
    assert [keys[one] for one in taken.suspect] == died
    assert [keys[one] for one in taken.calm] == [ids[1], ids[2], ids[4]]


def test_e9_the_executions_taken_with_one_that_kills_its_worker_are_not_charged(
    celery_engine, sent, workers
):
    ids = start(celery_engine, 3)
    rows = WorkflowExecutionRecord.objects.all()
    taken = take_ready(rows, 10, ANY_AGE)
    begin(rows, taken.calm[0], taken.token, lease=MINUTE)
    workers.let_rest_pass()  # and its worker is dead
    sweep(hand_on=False)
    crashes = dict(rows.values_list("execution_id", "crashes"))
    assert crashes == {ids[0]: 1, ids[1]: 0, ids[2]: 0}
    assert set(rows.values_list("state", flat=True)) == {"completed"}


def test_e5_a_worker_begins_nothing_that_it_holds_no_longer(celery_engine, sent, workers):
    start(celery_engine)
    rows = WorkflowExecutionRecord.objects.all()
    first = take_ready(rows, 10, ANY_AGE)
    workers.let_rest_pass()
    second = take_ready(rows, 10, ANY_AGE)
    assert second.size == 1
    assert begin(rows, first.calm[0], first.token, lease=MINUTE) is None
    assert begin(rows, second.calm[0], second.token, lease=MINUTE).state == "running"
    assert begin(rows, second.calm[0], second.token, lease=MINUTE) is None


def test_x2_what_is_cancelled_after_it_was_taken_does_not_run(celery_engine, sent):
    [execution_id] = start(celery_engine)
    rows = WorkflowExecutionRecord.objects.all()
    taken = take_ready(rows, 10, ANY_AGE)
    celery_engine.cancel(execution_id)
    assert begin(rows, taken.calm[0], taken.token, lease=MINUTE) is None


@pytest.mark.parametrize("limit", [1, 2, 3, 8])
def test_o6_under_a_backlog_a_quarter_of_what_is_taken_is_new(celery_engine, sent, limit):
    """Old work goes on, and what has just come does not wait for it."""
    old = start(celery_engine, 40)
    WorkflowExecutionRecord.objects.update(wake_at=F("wake_at") - timedelta(hours=1))
    new = set(start(celery_engine, 40))
    rows = WorkflowExecutionRecord.objects.all()
    keys = dict(rows.values_list("pk", "execution_id"))
    found: list[Any] = []
    for number in range(16 // limit):
        taken = take_ready(rows, limit, Share("", is_behind=True, number=number))
        assert taken.size == limit
        found += [keys[one] for one in taken.calm]
    assert len(set(found)) == len(found)
    assert sum(one in new for one in found) == len(found) // 4
    assert [one for one in found if one not in new] == old[: len(found) - len(found) // 4]


@pytest.mark.parametrize("oldest_first", [False, True])
def test_o6_the_newest_part_of_what_is_taken_comes_first(celery_engine, sent, oldest_first):
    """It has waited for the turn; it does not wait for the others as well."""
    old = start(celery_engine, 8)
    WorkflowExecutionRecord.objects.update(wake_at=F("wake_at") - timedelta(hours=1))
    new = start(celery_engine, 3)
    rows = WorkflowExecutionRecord.objects.all()
    keys = dict(rows.values_list("pk", "execution_id"))
    share = Share("", is_behind=True, oldest_first=oldest_first)
    found = [keys[one] for one in take_ready(rows, 8, share).calm]
    assert found == (old[:6] + new[1:] if oldest_first else new[1:] + old[:6])


@pytest.mark.parametrize("was_slow", [False, True])
def test_o6_a_turn_delivers_its_newest_part_first_but_for_the_turn_after_a_slow_one(
    outbox, sent, monkeypatch, was_slow
):
    """Slow handlers of new events do not keep a worker from the old ones."""
    calls: list[str] = []

    def handle(event):
        calls.append(event.event_id)
        if was_slow and len(calls) == 8:
            monkeypatch.setitem(work._begin_with, ("default", ""), 0)

    outbox.register("x", handler=handle, registration_id="r")
    publish(outbox, 20)
    for number, key in enumerate(WorkflowOutbox.objects.order_by("pk").values_list("pk")):
        past = timezone.now() - timedelta(hours=1) + timedelta(seconds=number)
        WorkflowOutbox.objects.filter(pk__in=key).update(available_at=past)
    publish(outbox, 2)
    entries = WorkflowOutbox.objects.order_by("pk")
    ids = list(entries.values_list("event__event_id", flat=True))
    names = ("entries_pace", "lanes_pace", "executions_pace")
    paces = [Pace() for _ in names]
    for name, one in zip(names, paces, strict=True):
        monkeypatch.setattr(work, name, one)
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_OUTBOX_PROCESS_CHUNK_SIZE": 8}
    with override_settings(GENERAL_MANAGER=settings):
        empty("default")
    assert all(is_short(one) != was_slow for one in paces)
    old, new = ids[8:14], ids[20:]
    assert calls[:8] == ids[:8]
    assert calls[8:16] == (old + new if was_slow else new + old)
    assert sorted(calls) == sorted(ids)


def is_short(pace):
    """Whether the next turn is shorter than a later one."""
    with pytest.MonkeyPatch.context() as patched:
        now = pace.size(10**9)
        patched.setattr("general_manager.workflow.workers.pace.monotonic", lambda: float("inf"))
        return now < pace.size(10**9)


def test_o6_turns_are_short_for_a_while_after_new_work_was_met_beside_a_backlog():
    """A turn is what the next event waits for; without new work it may be long."""
    pace = Pace()
    assert not is_short(pace)
    pace.meet_new()
    assert is_short(pace)
    assert pace.size(1000) == 12


def test_o6_what_has_come_together_is_delivered_in_its_order(outbox, sent):
    publish(outbox, 20)
    share = Share("", is_behind=True)
    claim = WorkflowOutbox.objects.claim(8, lease=MINUTE, share=share)
    assert (claim.size, claim.newest) == (8, 0)


@pytest.mark.skipif(connection.vendor == "mysql", reason="A dropped index does not come back there")
def test_o6_a_claim_of_what_has_come_at_one_time_is_full_however_it_is_sorted(outbox, sent):
    """Of equal times a sort may give any row, so the newest may be among the oldest too."""
    publish(outbox, 20)
    WorkflowOutbox.objects.update(available_at=timezone.now() - timedelta(seconds=1))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DROP INDEX gm_outbox_due")  # without its order, there is a sort
        claim = WorkflowOutbox.objects.claim(8, lease=MINUTE, share=Share("", is_behind=True))
        transaction.set_rollback(True)
    assert claim.size == 8


def test_o6_without_new_work_a_claim_takes_old_work_only(outbox, sent):
    publish(outbox, 9)
    WorkflowOutbox.objects.update(available_at=F("available_at") - timedelta(hours=1))
    claim = WorkflowOutbox.objects.claim(8, lease=MINUTE, share=Share("", is_behind=True))
    assert claim.size == 8


def test_a_priority_is_a_minute_of_age_for_each_step(celery_engine, sent):
    """So what has none waits for a bounded time."""
    [old] = start(celery_engine)
    WorkflowExecutionRecord.objects.update(wake_at=F("wake_at") - timedelta(seconds=90))
    [low, high] = start(celery_engine, priority=1) + start(celery_engine, priority=2)
    rows = WorkflowExecutionRecord.objects.all()
    keys = dict(rows.values_list("pk", "execution_id"))
    assert [keys[one] for one in take_ready(rows, 10, ANY_AGE).calm] == [high, old, low]


def test_a_worker_takes_as_much_as_it_does_in_a_fraction_of_a_second():
    pace = Pace()
    assert pace.size(1000) == 50
    assert pace.size(20) == 20
    for _ in range(30):
        pace.learn(1, 2.0)
    assert pace.size(1000) == 1
    for _ in range(30):
        pace.learn(100, 0.1)
    assert pace.size(1000) > 150


def test_what_becomes_ready_now_is_due_now(celery_engine):
    """Also where times are compared as texts, in the same millisecond."""
    for _ in range(50):
        execution_id = celery_engine.start(WorkflowDefinition("w", handler=flows.echo)).execution_id
        assert run(execution_id, "default")
