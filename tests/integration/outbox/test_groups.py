"""Deliveries that share a transaction, and all that can go wrong in the middle of it."""

from collections import Counter
from contextlib import suppress
from datetime import timedelta
from itertools import count
from threading import Barrier, BrokenBarrierError, Thread

import pytest
from django.core.management import call_command
from django.db import DatabaseError, OperationalError, connection, connections, transaction
from django.test import override_settings
from django.utils import timezone

from general_manager.workflow import WorkflowEvent
from general_manager.workflow.models import WorkflowDeliveryAttempt, WorkflowHistory, WorkflowOutbox
from general_manager.workflow.outbox import chunk, group
from general_manager.workflow.outbox.drain import drain
from tests.integration.conftest import data_statements
from tests.integration.executions.killing import is_killed
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
PATIENCE = 60
needs_rows = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite has one writer and locks no rows"
)


def publish(outbox, names):
    outbox.publish_many(WorkflowEvent(str(one), "a.b", {}, event_name="x") for one in names)


def write(event):
    Tag.objects.create(name=event.event_id)


def tags():
    return sorted(Tag.objects.values_list("name", flat=True))


def end_leases():
    past = timezone.now() - timedelta(seconds=1)
    WorkflowOutbox.objects.filter(available_at__isnull=False).update(available_at=past)


def require_uncharged(expected):
    """Every effect once, every delivery completed at its first pass, nothing in the history."""
    assert tags() == sorted(expected)
    rows = WorkflowDeliveryAttempt.objects.values_list(
        "status", "attempts", "crashes", "first_failed_at"
    )
    assert list(rows) == [("completed", 1, 0, None)] * len(expected)
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}
    assert not WorkflowHistory.objects.exists()


@pytest.fixture(autouse=True)
def _time_for_groups(monkeypatch):
    """However slow the machine is."""
    assert group.GROUP_SECONDS == 0.1
    monkeypatch.setattr(group, "GROUP_SECONDS", PATIENCE)


@pytest.fixture
def commits(monkeypatch):
    """The number of commits of transactions, in a list of one."""
    found, commit = [0], connection.commit

    def count_one():
        found[0] += 1
        commit()

    monkeypatch.setattr(connection, "commit", count_one)
    return found


def test_deliveries_of_a_chunk_share_a_transaction_twenty_at_a_time(outbox, commits):
    outbox.register("x", handler=write, grouped=True)
    names = [f"{number:02}" for number in range(45)]
    publish(outbox, names)
    commits[0] = 0
    with data_statements() as statements:
        drain("default")
    require_uncharged(names)
    if connection.vendor == "postgresql":
        assert commits == [3]
        # An insert of the handler each, one mark a group; claims, the chunk's load, the settlement.
        assert len(statements) <= 45 + 3 + 6, statements
    else:
        assert commits[0] <= 3 + 4


def test_a_group_is_closed_after_a_tenth_of_a_second(outbox, commits, monkeypatch):
    monkeypatch.setattr(group, "GROUP_SECONDS", -1)
    outbox.register("x", handler=write, grouped=True)
    publish(outbox, range(5))
    commits[0] = 0
    drain("default")
    require_uncharged([str(number) for number in range(5)])
    assert commits[0] >= 5


def test_only_events_whose_handlers_are_all_grouped_and_fresh_share_it(outbox, commits, workers):
    outbox.register("x", handler=write, grouped=True)
    outbox.register("y", handler=write, grouped=True)
    outbox.register("y", handler=lambda event: None, registration_id="alone")
    outbox.publish_many(
        WorkflowEvent(str(number), "a.b", {}, event_name="xy"[number % 2]) for number in range(6)
    )
    commits[0] = 0
    drain("default")
    assert commits[0] >= 3 * 2 + 3
    assert tags() == [str(number) for number in range(6)]


def test_the_work_of_one_that_died_is_delivered_alone(outbox, commits):
    outbox.register("x", handler=write, grouped=True)
    publish(outbox, range(4))
    WorkflowOutbox.objects.update(status="claimed", claim_token="dead", started=True)
    end_leases()
    commits[0] = 0
    drain("default")
    require_uncharged([str(number) for number in range(4)])
    assert commits[0] >= 4


def test_a_callers_transaction_holds_no_group(outbox):
    outbox.register("x", handler=write, grouped=True)
    publish(outbox, range(3))
    with transaction.atomic():
        drain("default")
        assert connection.savepoint_ids == []
    require_uncharged(["0", "1", "2"])


def test_without_workers_the_publisher_delivers_in_groups(outbox, commits):
    outbox.register("x", handler=write, grouped=True)
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    with override_settings(GENERAL_MANAGER=settings):
        commits[0] = 0
        publish(outbox, range(10))
        assert commits[0] <= 5
    require_uncharged([str(number) for number in range(10)])


# --- Any trouble that is not the handler's own exception -----------------------------------------


def in_threads(*works):
    threads = [Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@needs_rows
@pytest.mark.parametrize("kind", ["raised", "caught", "covered"])
def test_k2_two_groups_that_deadlock_are_charged_to_nobody(outbox, kind):
    """Whether the handler lets the deadlock through, catches it, or raises something else.

    InnoDB rolls back everything, also what was done before the savepoint.
    """
    a, b = (Tag.objects.create(name=f"row {name}").pk for name in "ab")
    both, ready, deadlocks = Barrier(2), Barrier(2), []
    locks = {"one 1": a, "one 2": b, "two 1": b, "two 2": a}

    def lock(name):
        if name.endswith("2"):
            with suppress(BrokenBarrierError):  # delivered again, alone
                both.wait(5)
        list(Tag.objects.select_for_update().filter(pk=locks[name]))

    def handle(event):
        write(event)
        try:
            lock(event.event_id)
        except DatabaseError as error:
            deadlocks.append(error)
            if kind == "raised":
                raise
            if kind == "covered":
                raise ValueError("something else") from None

    def deliver():
        try:
            ready.wait(PATIENCE)
            drain("default", limit=2)
        finally:
            connections.close_all()

    outbox.register("x", handler=handle, grouped=True, registration_id="r")
    publish(outbox, locks)
    in_threads(deliver, deliver)
    drain("default")
    assert deadlocks, "the test has made none"
    Tag.objects.filter(name__startswith="row").delete()
    require_uncharged(locks)


def another_takes(entry):
    """Another worker claims *entry*, as after the end of a lease, on a connection of its own."""

    def take():
        try:
            WorkflowOutbox.objects.filter(pk=entry).update(
                claim_token="another", available_at=timezone.now() + timedelta(hours=1)
            )
        finally:
            connections.close_all()

    in_threads(take)


@needs_rows
def test_k2_a_claim_that_is_lost_in_the_middle_undoes_the_group_and_only_its_entry(outbox):
    calls = []

    def handle(event):
        calls.append(event.event_id)
        write(event)
        if calls == ["0", "1", "2"]:
            another_takes(WorkflowOutbox.objects.get(event__event_id="1").pk)

    outbox.register("x", handler=handle, grouped=True, registration_id="r")
    publish(outbox, range(4))
    drain("default")
    assert tags() == ["0", "2", "3"]
    assert Counter(calls)["3"] == 2
    stolen = WorkflowOutbox.objects.get(event__event_id="1")
    assert (stolen.status, stolen.claim_token) == ("claimed", "another")
    end_leases()
    drain("default")
    require_uncharged(["0", "1", "2", "3"])


@pytest.mark.parametrize("is_committed", [True, False])
def test_k2_a_group_whose_commit_is_not_answered_is_done_once(outbox, monkeypatch, is_committed):
    calls, commit, left = [], connection.commit, [1]

    def handle(event):
        calls.append(event.event_id)
        write(event)

    outbox.register("x", handler=handle, grouped=True, registration_id="r")
    publish(outbox, range(4))

    def lose_the_answer():
        if calls and left:
            left.clear()
            if is_committed:
                commit()
            else:
                connection.rollback()
            raise OperationalError("the connection was lost")
        commit()

    monkeypatch.setattr(connection, "commit", lose_the_answer)
    drain("default")
    require_uncharged(["0", "1", "2", "3"])
    assert len(calls) == (4 if is_committed else 8)


@pytest.mark.parametrize("error", [OperationalError("lock timeout"), ValueError("own")])
def test_k2_a_database_error_that_stays_is_the_handlers_own_failure(outbox, workers, error):
    """The group is rolled back once; alone, the failure is charged as ever."""
    calls = []

    def handle(event):
        calls.append(event.event_id)
        write(event)
        if event.event_id == "1":
            raise error

    outbox.register("x", handler=handle, grouped=True, registration_id="r")
    publish(outbox, range(3))
    drain("default")
    assert tags() == ["0", "2"]
    failed = WorkflowDeliveryAttempt.objects.get(outbox__event__event_id="1")
    assert (failed.status, failed.attempts) == ("failed", 1)
    is_trouble = isinstance(error, OperationalError)
    assert Counter(calls) == ({"0": 2, "1": 2, "2": 1} if is_trouble else {"0": 1, "1": 1, "2": 1})


def test_k2_a_commit_that_a_constraint_refuses_is_charged_to_its_handler_alone(outbox, monkeypatch):
    commit, bad = connection.commit, []

    def handle(event):
        write(event)
        if event.event_id == "1":
            bad.append(1)

    def refuse():
        if bad:
            bad.clear()
            connection.rollback()
            raise DatabaseError("a deferred constraint")
        commit()

    outbox.register("x", handler=handle, grouped=True, registration_id="r")
    publish(outbox, range(3))
    monkeypatch.setattr(connection, "commit", refuse)
    drain("default")
    assert tags() == ["0", "2"]
    statuses = dict(
        WorkflowDeliveryAttempt.objects.values_list("outbox__event__event_id", "status")
    )
    assert statuses == {"0": "completed", "1": "failed", "2": "completed"}


def test_k2_a_process_that_is_asked_to_end_gives_back_what_it_undid(outbox):
    def handle(event):
        write(event)
        if event.event_id == "2" and not flows.calls:
            flows.note("ended")
            raise SystemExit

    outbox.register("x", handler=handle, grouped=True, registration_id="r")
    publish(outbox, range(5))
    with pytest.raises(SystemExit):
        drain("default")
    assert tags() == []
    states = dict(WorkflowOutbox.objects.values_list("event__event_id", "status"))
    assert states == {**dict.fromkeys("0134", "pending"), "2": "claimed"}
    end_leases()
    drain("default")
    require_uncharged([str(number) for number in range(5)])


def test_k2_a_time_limit_closes_the_group_and_is_charged_to_the_handler_that_reached_it(
    outbox, monkeypatch
):
    class TimeLimit(Exception):
        pass

    for module in (group, chunk):
        monkeypatch.setattr(module, "is_time_limit", lambda error: isinstance(error, TimeLimit))
    calls = []

    def handle(event):
        calls.append(event.event_id)
        write(event)
        if event.event_id == "1":
            raise TimeLimit

    outbox.register("x", handler=handle, grouped=True, registration_id="r")
    publish(outbox, range(4))
    drain("default", limit=4)
    assert calls == ["0", "1"]
    assert tags() == ["0"]
    states = dict(WorkflowOutbox.objects.values_list("event__event_id", "status"))
    assert states == {"0": "processed", "1": "failed", "2": "pending", "3": "pending"}


def test_k2_a_time_limit_between_two_handlers_of_a_group_ends_the_workers_turn(outbox, monkeypatch):
    """The hard limit follows: what was undone is released, and not delivered one by one."""

    class TimeLimit(Exception):
        pass

    def look(delivery):
        raise TimeLimit

    outbox.register("x", handler=write, grouped=True, registration_id="r")
    publish(outbox, range(4))
    with monkeypatch.context() as patched, pytest.raises(TimeLimit):
        patched.setattr(group, "is_time_limit", lambda error: isinstance(error, TimeLimit))
        patched.setattr(group, "_is_out_of_time", look)
        drain("default")
    assert tags() == []
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"pending"}
    drain("default")
    require_uncharged([str(number) for number in range(4)])


def test_k2_a_worker_that_is_killed_anywhere_in_a_group_loses_and_doubles_nothing(outbox):
    outbox.register("x", handler=write, grouped=True, registration_id="r")
    moments = []
    for number in count():
        for model in (WorkflowDeliveryAttempt, WorkflowOutbox, Tag):
            model.objects.all().delete()
        publish(outbox, [f"{number} {one}" for one in range(3)])
        moment = is_killed(number, lambda: drain("default"))
        end_leases()
        drain("default")
        require_uncharged([f"{number} {one}" for one in range(3)])
        if not moment:
            break
        moments.append(moment)
    assert sum("testapp_tag" in one for one in moments) == 2 * 3
    assert any("COMMIT" in one for one in moments)


def test_registrations_say_that_they_are_grouped(outbox, capsys):
    outbox.register("x", handler=flows.start_from_event, grouped=True)
    call_command("workflow_registrations")
    assert "grouped" in capsys.readouterr().out
