"""Deliveries in order: what the models of the protocol found, on real tables."""

from datetime import timedelta
from threading import Barrier, Event, Thread
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.utils import timezone

from general_manager.workflow import PermanentFailure, WorkflowEvent
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowHistory,
    WorkflowLane,
    WorkflowOutbox,
)
from general_manager.workflow.models.lane import LaneQuerySet
from general_manager.workflow.models.sql.due import ANY_AGE, Share
from general_manager.workflow.outbox.deliver_again import deliver_again
from general_manager.workflow.outbox.drain import claim_due, deliver_claim, drain
from general_manager.workflow.outbox.order import deliver_lanes
from general_manager.workflow.workers.work import empty
from tests.integration.conftest import data_statements
from tests.integration.executions.stepping import Died, interleave
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

needs_connections = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite has one writer at a time"
)


def event(event_id: str, key: str | None = "a") -> WorkflowEvent:
    return WorkflowEvent(event_id, "shop.changed", {}, "changed", ordering_key=key)


class Shop:
    """An ordered handler that writes what it got, and can be made to fail."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.failing: dict[str, Any] = {}

    def handle(self, event: WorkflowEvent) -> None:
        self.heard.append(event.event_id)
        Tag.objects.create(name=event.event_id)
        trouble = self.failing.get(event.event_id)
        if callable(trouble):
            trouble()
        elif trouble:
            raise trouble

    @property
    def kept(self) -> list[str]:
        return list(Tag.objects.order_by("pk").values_list("name", flat=True))


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def registered(outbox, shop):
    """Register the shop's handler; one pass makes a dead letter."""

    def register(registry=outbox, **options):
        options = {"in_order": True, "registration_id": "shop", **options}
        return registry.register("changed", handler=shop.handle, **options)

    return register


def drain_entries() -> None:
    """Deliver the entries that are due, and leave the lanes."""
    while (claim := claim_due("default", ANY_AGE, 50)).size:
        deliver_claim("default", claim)


def deliver_in_order(limit: int = 50) -> int:
    """What a worker does with the lanes that are due."""
    delivered = 0
    while (found := deliver_lanes("default", ANY_AGE, limit)) is not None:
        delivered += found.delivered
    return delivered


def let_time_pass() -> None:
    past = timezone.now() - timedelta(seconds=1)
    for table in (WorkflowOutbox, WorkflowLane, WorkflowDeliveryAttempt):
        table._default_manager.filter(available_at__isnull=False).update(available_at=past)


def items() -> list[tuple[str, str]]:
    rows = WorkflowDeliveryAttempt.objects.order_by("pk")
    return list(rows.values_list("outbox__event__event_id", "status"))


def lane() -> WorkflowLane:
    return WorkflowLane.objects.get()


def die_for_good(shop: Shop, *ids: str) -> None:
    """Their deliveries become dead letters."""
    shop.failing.update({one: ValueError(one) for one in ids})
    for _ in range(3):
        drain()
        let_time_pass()
    drain()


# What the publisher writes, and what a drain does with it


def test_q1_the_publisher_queues_the_event_so_that_a_later_one_cannot_come_first(
    outbox, registered, shop
):
    """The entry of the second event is drained first."""
    registered()
    outbox.publish(event("a0"))
    WorkflowOutbox.objects.update(available_at=timezone.now() + timedelta(hours=1))
    outbox.publish(event("a1"))
    drain()
    assert shop.heard == ["a0", "a1"]
    let_time_pass()
    drain()
    assert shop.heard == ["a0", "a1"]
    assert not WorkflowLane.objects.exists()


def test_an_event_in_order_is_one_insert_more_and_another_none(outbox, registered):
    def statements():
        with data_statements() as made:
            outbox.publish_many([event(f"{key}{n}{len(made)}", key) for key in keys for n in "01"])
        return [one for one in made if "INSERT" in one]

    keys: list[Any] = ["p", "q"]
    plain = statements()
    outbox.publish(event("x"))
    registered()
    with data_statements() as made:
        outbox.publish(event("y"))
    assert sum("workflowdeliveryattempt" in one for one in made) == 1
    assert not any("workflowlane" in one for one in made)  # no shared row is touched
    keys = ["r", "s"]
    assert len(statements()) == len(plain) + 1
    with data_statements() as made:
        outbox.publish(event("z", None))
    assert not any("workflowdeliveryattempt" in one for one in made)


def test_q1_the_entry_is_settled_though_its_event_waits_and_is_not_pruned(outbox, registered, shop):
    registered()
    outbox.publish_many([event("a0"), event("a1")])
    shop.failing["a0"] = ValueError("not now")
    drain()
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}
    assert items() == [("a0", "failed"), ("a1", "queued")]
    old = timezone.now() - timedelta(days=9)
    WorkflowOutbox.objects.update(settled_at=old)
    call_command("workflow_prune", older_than="1d", include_failed=True)
    assert WorkflowOutbox.objects.count() == 2
    shop.failing.clear()
    let_time_pass()
    drain()
    assert shop.kept == ["a0", "a1"]
    call_command("workflow_prune", older_than="1d")
    assert WorkflowOutbox.objects.count() == WorkflowDeliveryAttempt.objects.count() == 0


def test_q1_an_event_whose_publisher_did_not_know_the_registration_gets_the_place_of_the_drain(
    outbox, registered, shop
):
    outbox.publish(event("a0"))
    registered()
    outbox.publish(event("a1"))
    drain()
    assert shop.heard == ["a1", "a0"]
    late = WorkflowDeliveryAttempt.objects.filter(late_at__isnull=False)
    assert late.get().outbox.event.event_id == "a0"


def test_a_late_event_that_is_not_wanted_leaves_no_trace(outbox, registered, shop):
    outbox.publish(event("a0"))
    registered(when=lambda event: False)
    drain()
    assert (shop.heard, items()) == ([], [])
    assert not WorkflowLane.objects.exists()


def test_an_event_that_was_not_wanted_is_not_queued_again_at_a_later_visit(
    outbox, registered, shop
):
    """Its entry is visited again for another handler, which failed."""
    asked = []
    registered(when=lambda event: asked.append(event.event_id))
    flows.troubles.append(ValueError("once"))
    outbox.register("changed", handler=lambda event: flows.stumble(), registration_id="other")
    outbox.publish(event("a0"))
    drain()
    let_time_pass()
    drain()
    assert WorkflowOutbox.objects.get().status == "processed"
    assert (shop.heard, asked) == ([], ["a0"])
    assert not WorkflowLane.objects.exists()


def test_a_handler_that_becomes_ordered_finishes_what_it_began_without_an_order(
    outbox, registered, shop
):
    registration = registered(in_order=False)
    outbox.publish(event("a0"))
    shop.failing["a0"] = ValueError("once")
    drain()
    outbox.unregister(registration)
    registered()
    shop.failing.clear()
    let_time_pass()
    drain()
    assert shop.heard == ["a0", "a0"]
    assert items() == [("a0", "completed")]


def test_events_queued_in_order_are_delivered_though_the_option_is_gone(outbox, registered, shop):
    registration = registered()
    outbox.publish_many([event("a0"), event("a1")])
    outbox.unregister(registration)
    registered(in_order=False)
    drain()
    assert shop.heard == ["a0", "a1"]


def test_a_process_that_does_not_know_the_registration_leaves_the_lane_to_another(
    outbox, registered, shop
):
    registration = registered()
    outbox.publish(event("a0"))
    outbox.unregister(registration)
    drain()
    assert items() == [("a0", "queued")]
    assert not WorkflowLane.objects.due().exists()
    registered()
    let_time_pass()
    drain()
    assert shop.heard == ["a0"]


def test_a_worker_delivers_the_lanes_of_its_queue_only(outbox, registered, shop):
    registered(queue="erp")
    outbox.publish(event("a0"))
    empty("default")
    assert shop.heard == []
    empty("default", "erp")
    assert shop.heard == ["a0"]


def test_a_lane_follows_its_registration_to_another_queue(outbox, registered, shop):
    registration = registered(queue="erp")
    outbox.publish(event("a0"))
    drain_entries_of("erp")
    outbox.unregister(registration)
    registered(queue="other")
    empty("default", "erp")
    assert (shop.heard, lane().queue) == ([], "other")
    empty("default", "other")
    assert shop.heard == ["a0"]


def drain_entries_of(queue):
    claim = claim_due("default", Share(queue), 50)
    deliver_claim("default", claim, queue=queue)


# Failures


def test_q1_a_failing_head_delays_its_own_lane_only(outbox, registered, shop):
    registered()
    shop.failing["a0"] = ValueError("not now")
    outbox.publish_many([event("a0"), event("a1"), event("b0", "b"), event("b1", "b")])
    drain()
    assert shop.kept == ["b0", "b1"]
    assert not WorkflowLane.objects.due().exists()
    outbox.publish(event("a2"))
    drain()  # more events do not make it due
    assert shop.kept == ["b0", "b1"]
    shop.failing.clear()
    let_time_pass()
    drain()
    assert shop.kept == ["b0", "b1", "a0", "a1", "a2"]


def test_q1_a_dead_head_blocks_its_lane_until_it_is_requeued_in_its_old_place(
    outbox, registered, shop
):
    registered()
    outbox.publish_many([event("a0"), event("a1"), event("b0", "b")])
    die_for_good(shop, "a0")
    assert shop.kept == ["b0"]
    assert lane().blocked_since is not None
    assert WorkflowOutbox.objects.get(event__event_id="a0").status == "dead_letter"
    outbox.publish(event("a2"))
    drain()
    assert shop.kept == ["b0"]
    shop.failing.clear()
    assert WorkflowDeliveryAttempt.objects.all().requeue_dead() == (1, 1)
    assert WorkflowOutbox.objects.get(event__event_id="a0").status == "processed"
    drain()
    assert shop.kept == ["b0", "a0", "a1", "a2"]
    assert not WorkflowLane.objects.exists()


def test_q1_a_dead_head_that_is_discarded_lets_its_lane_go_on(outbox, registered, shop):
    registered()
    outbox.publish_many([event("a0"), event("a1")])
    die_for_good(shop, "a0")
    assert WorkflowDeliveryAttempt.objects.all().discard("wrong address") == 1
    assert items() == [("a0", "discarded"), ("a1", "queued")]
    drain()
    assert shop.kept == ["a1"]
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}


def test_q1_a_dead_head_can_be_passed_over_and_stays_a_dead_letter(outbox, registered, shop):
    registered()
    outbox.publish_many([event("a0"), event("a1")])
    die_for_good(shop, "a0")
    assert WorkflowDeliveryAttempt.objects.all().pass_over("it can wait") == 1
    drain()
    assert shop.kept == ["a1"]
    assert items() == [("a0", "dead_letter"), ("a1", "completed")]
    note = WorkflowHistory.objects.get(kind="passed_over")
    assert note.detail == "it can wait"
    shop.failing.clear()
    WorkflowDeliveryAttempt.objects.all().requeue_dead()
    drain()
    assert shop.kept == ["a1", "a0"]


def test_q1_with_skip_a_requeued_dead_letter_comes_before_what_is_still_undelivered(
    outbox, registered, shop
):
    registered(on_dead="skip")
    outbox.publish_many([event("a0"), event("a1")])
    die_for_good(shop, "a0")
    assert shop.kept == ["a1"]
    shop.failing.clear()
    outbox.publish(event("a2"))
    WorkflowDeliveryAttempt.objects.all().requeue_dead()
    drain()
    assert shop.kept == ["a1", "a0", "a2"]


def test_a_lane_that_is_released_after_a_deploy_says_skip_passes_its_dead_letter(
    outbox, registered, shop
):
    registration = registered()
    outbox.publish_many([event("a0"), event("a1")])
    die_for_good(shop, "a0")
    outbox.unregister(registration)
    registered(on_dead="skip")
    WorkflowLane.objects.all().unblock([lane().lane])
    drain()
    assert shop.kept == ["a1"]


def test_a_dead_letter_in_order_is_one_of_its_entry_though_that_is_settled_later(
    outbox, registered, shop
):
    """The lane is drained while the entry is still with a worker, that of another handler."""
    registered(on_dead="skip")

    def meanwhile(event):
        assert deliver_in_order() == 1

    outbox.register("changed", handler=meanwhile, atomic=False)
    shop.failing["a0"] = PermanentFailure("dead")
    outbox.publish(event("a0"))
    drain_entries()
    assert WorkflowOutbox.objects.get().status == "dead_letter"


def test_an_event_in_order_can_be_delivered_again(outbox, registered, shop):
    registered()
    outbox.publish(event("a0"))
    drain()
    record = WorkflowOutbox.objects.get().event
    assert deliver_again(record, ["shop"]) == 1
    drain()
    assert shop.heard == ["a0", "a0"]
    assert not WorkflowLane.objects.exists()


def test_an_event_that_an_ordered_handler_refused_can_be_delivered_to_it_on_request(
    outbox, registered, shop
):
    """Its publisher had queued it; a deploy changes what the handler wants."""
    registration = registered(when=lambda event: False)
    outbox.publish(event("a0"))
    drain()
    outbox.unregister(registration)
    registered()
    record = WorkflowOutbox.objects.get().event
    assert deliver_again(record, ["shop"]) == 1
    drain()
    assert shop.heard == ["a0"]
    assert WorkflowOutbox.objects.get().status == "processed"
    assert not WorkflowLane.objects.exists()


# Claims


@needs_connections
def test_q1_e5_a_worker_that_lost_its_lane_writes_nothing(outbox, registered, shop):
    registered()
    outbox.publish_many([event("a0"), event("a1")])
    drain_entries()
    calls = []

    def take_over():
        try:
            WorkflowLane.objects.update(available_at=timezone.now() - timedelta(seconds=1))
            deliver_in_order()
        finally:
            connections.close_all()

    def lapse():
        if not calls:
            calls.append("first")
            thread = Thread(target=take_over)
            thread.start()
            thread.join(30)
            assert shop.heard == ["a0", "a0", "a1"]

    shop.failing["a0"] = lapse
    deliver_in_order()
    assert shop.heard == ["a0", "a0", "a1"]
    assert shop.kept == ["a0", "a1"]
    assert [status for _, status in items()] == ["completed"] * 2


def test_q1_e9_a_lane_whose_worker_died_charges_exactly_the_event_that_ran(
    outbox, registered, shop, monkeypatch
):
    registered()
    outbox.publish_many([event("a0"), event("a1"), event("b0", "b")])
    drain_entries()

    def die():
        monkeypatch.setattr(LaneQuerySet, "release", lambda *_, **__: 0)  # a dead process does not
        raise Died

    shop.failing["a1"] = die
    deaths = 0
    for _ in range(10):
        try:
            deliver_in_order()
            break
        except Died:
            deaths += 1
            monkeypatch.undo()
            expire()
    assert deaths == 4  # the first is not charged: nothing was known of the event then
    rows = {row.outbox.event.event_id: row for row in WorkflowDeliveryAttempt.objects.all()}
    assert {key: row.crashes for key, row in rows.items()} == {"a0": 0, "a1": 3, "b0": 0}
    assert rows["a1"].status == "dead_letter"
    assert sorted(shop.kept) == ["a0", "b0"]
    assert lane().blocked_since is not None


def expire():
    held = WorkflowLane.objects.filter(claim_token__isnull=False)
    held.update(available_at=timezone.now() - timedelta(seconds=1))


def test_a_lane_whose_worker_died_has_its_turn_beside_a_long_lane(outbox, registered, shop):
    registered()
    outbox.publish_many([event("a0"), *(event(f"b{n}", "b") for n in range(5))])
    drain_entries()
    names = WorkflowLane.objects.filter(ordering_key="a").values_list("lane", flat=True)
    assert WorkflowLane.objects.claim(1, lease=timedelta(hours=1), names=list(names)).lanes
    expire()
    deliver_lanes("default", ANY_AGE, 50, is_late=lambda: len(shop.heard) > 2)
    assert shop.heard == ["b0", "a0"]


def test_a_lane_that_its_worker_gave_back_charges_nobody(outbox, registered, shop):
    registered(atomic=False)
    outbox.publish(event("a0"))
    drain_entries()

    def stop():
        raise Died

    shop.failing["a0"] = stop
    for _ in range(5):
        with pytest.raises(Died):
            deliver_in_order()
    shop.failing.clear()
    deliver_in_order()
    assert WorkflowDeliveryAttempt.objects.get().crashes == 0


# Two at once


@needs_connections
@pytest.mark.parametrize("at", range(14))
def test_q1_an_event_that_comes_while_a_lane_is_let_go_is_delivered(outbox, registered, shop, at):
    """A worker stops before each of its statements while another event is published and drained."""
    registered()
    outbox.publish(event("a0"))
    drain_entries()

    def publish():
        outbox.publish(event("a1"))
        drain_entries()

    interleave(lambda: deliver_lanes("default", ANY_AGE, 1), publish, at)
    deliver_in_order()
    assert shop.kept == ["a0", "a1"]
    assert not WorkflowLane.objects.exists()


@needs_connections
@pytest.mark.parametrize("at", range(12))
def test_q1_a_drain_that_is_stopped_anywhere_wakes_the_lane_all_the_same(
    outbox, registered, shop, at
):
    """The other way round: the drain stops, and a worker empties the lane and lets it go."""
    registered()
    outbox.publish(event("a0"))
    drain_entries()
    outbox.publish(event("a1"))
    interleave(drain_entries, deliver_in_order, at)
    deliver_in_order()
    assert shop.kept == ["a0", "a1"]
    assert not WorkflowLane.objects.exists()


@needs_connections
@pytest.mark.parametrize("act", ["requeue", "discard", "pass over"])
@pytest.mark.parametrize("at", range(10))
def test_q1_an_operators_act_stopped_anywhere_never_leaves_a_lane_stuck(
    outbox, registered, shop, act, at
):
    registered()
    outbox.publish_many([event("a0"), event("a1")])
    die_for_good(shop, "a0")
    shop.failing.clear()
    rows = WorkflowDeliveryAttempt.objects.all()
    acts = {
        "requeue": rows.requeue_dead,
        "discard": lambda: rows.discard("no"),
        "pass over": lambda: rows.pass_over("later"),
    }

    def meanwhile():
        outbox.publish(event("a2"))
        drain()

    interleave(acts[act], meanwhile, at)
    drain()
    expected = ["a0", "a1", "a2"] if act == "requeue" else ["a1", "a2"]
    assert shop.kept == expected
    assert not WorkflowLane.objects.exists()


ACTS = {
    "requeue": (lambda rows: rows.requeue_dead()[0], ["a0", "a1"]),
    "discard": (lambda rows: rows.discard("no"), ["a1"]),
    "pass over": (lambda rows: rows.pass_over("later"), ["a1"]),
}


@pytest.mark.parametrize("act", ACTS)
def test_q1_an_act_in_the_hook_of_a_dying_head_lets_its_lane_go_on(outbox, registered, shop, act):
    """The letter is recorded, and its lane is not blocked yet."""
    perform, expected = ACTS[act]

    def operate(event, error):
        shop.failing.clear()
        assert perform(WorkflowDeliveryAttempt.objects.all()) == 1

    registered(dead_letter_handler=operate)
    outbox.publish_many([event("a0"), event("a1")])
    die_for_good(shop, "a0")
    assert shop.kept == expected
    assert not WorkflowLane.objects.exists()


@needs_connections
@pytest.mark.parametrize("act", ACTS)
def test_q1_an_act_while_a_head_dies_never_leaves_its_lane_stuck(outbox, registered, shop, act):
    registered()
    perform, expected = ACTS[act]
    for at in range(100):
        for table in (WorkflowEventRecord, WorkflowLane, Tag):
            table.objects.all().delete()
        shop.failing["a0"] = ValueError("a0")
        outbox.publish_many([event("a0"), event("a1")])
        for _ in range(2):
            drain()
            let_time_pass()
        done = []

        def operate(done=done):
            if perform(WorkflowDeliveryAttempt.objects.all()):
                done.append(act)
                shop.failing.clear()

        had, statements = interleave(drain, operate, at)
        if not done:
            operate()
        drain()
        where = f"stopped before statement {at} of {statements}"
        assert (done, shop.kept) == ([act], expected), where
        assert not WorkflowLane.objects.exists(), where
        if not had:
            return
    raise AssertionError("it has too many statements")


@needs_connections
@pytest.mark.parametrize("at", range(12))
def test_q1_a_letter_that_two_requeue_at_once_is_delivered_once(outbox, registered, shop, at):
    registered()
    outbox.publish(event("a0"))
    die_for_good(shop, "a0")
    shop.failing.clear()

    def requeue_and_deliver():
        WorkflowDeliveryAttempt.objects.all().requeue_dead()
        drain()

    interleave(WorkflowDeliveryAttempt.objects.all().requeue_dead, requeue_and_deliver, at)
    drain()
    assert shop.kept == ["a0"]


@needs_connections
def test_q1_a_late_commit_with_a_lower_id_is_not_missed(outbox, registered, shop):
    """Order by what is visible, never by a cursor over ids."""
    registered()
    written, go_on = Event(), Event()

    def publish_slowly():
        try:
            with transaction.atomic():
                outbox.publish(event("a0"))
                written.set()
                assert go_on.wait(30)
        finally:
            connections.close_all()

    thread = Thread(target=publish_slowly)
    thread.start()
    assert written.wait(30)
    outbox.publish(event("a1"))
    drain()
    assert shop.kept == ["a1"]
    go_on.set()
    thread.join(30)
    drain()
    assert shop.kept == ["a1", "a0"]


@needs_connections
def test_q1_publishers_of_the_same_keys_in_any_order_do_not_wait_for_each_other(
    outbox, registered, shop
):
    """Publishing locks nothing that another publisher needs.

    The ids are this test's alone: of those that other tests have deleted, MariaDB may keep old
    versions in the index, and inserting one again locks the gap beside it.
    """
    registered()
    outbox.publish_many([event("a own 0"), event("b own 0", "b")])
    drain_entries()  # the lanes are there

    def other():
        try:
            with transaction.atomic():
                outbox.publish(event("b own 1", "b"))
                outbox.publish(event("a own 1", "a"))
        finally:
            connections.close_all()

    with transaction.atomic():
        outbox.publish(event("a own 2", "a"))
        thread = Thread(target=other)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        outbox.publish(event("b own 2", "b"))
    drain()
    assert [one for one in shop.kept if one[0] == "a"] == ["a own 0", "a own 2", "a own 1"]
    assert sorted(shop.kept) == [f"{key} own {n}" for key in "ab" for n in range(3)]


@needs_connections
def test_q1_four_workers_over_many_lanes_keep_every_order_and_deliver_each_once(
    outbox, registered, shop
):
    registered()
    for n in range(10):
        outbox.publish_many([event(f"{key} {n}", key) for key in "abcdefgh"])
    together = Barrier(4)
    errors: list[BaseException] = []

    def work():
        try:
            together.wait(30)
            for _ in range(3):
                drain()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    drain()
    for key in "abcdefgh":
        of_key = [one for one in shop.kept if one.startswith(key)]
        assert of_key == [f"{key} {n}" for n in range(10)]
    assert not WorkflowLane.objects.exists()
