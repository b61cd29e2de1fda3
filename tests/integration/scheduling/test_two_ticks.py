"""Two ticks, and what else happens to a schedule, stepped statement by statement.

One thread is stopped before each of its statements in turn; meanwhile another does all that it
wants to do, or comes to its own stop. The rules that break such traces were found by a model.
"""

from contextlib import suppress
from datetime import timedelta
from threading import Event, Thread

import pytest
from django.db import connection, connections
from django.utils import timezone

from general_manager.workflow import (
    WorkflowExecutionRecord,
    WorkflowSchedule,
    pause_schedule,
    run_schedule,
    schedule,
    unpause_schedule,
)
from general_manager.workflow.schedules import ScheduleRefusedError, forget_schedules
from general_manager.workflow.scheduling.firing import fire_due
from tests.integration.scheduling.hours import ECHO, come_due, hour, hourly

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.usefixtures("outbox", "celery_engine", "quiet_hour"),
    pytest.mark.skipif(
        connection.vendor == "sqlite", reason="There, one writer excludes all others"
    ),
]
HOUR = timedelta(hours=1)
PATIENCE = 30
BLOCKED = 0.4
"""Seconds without an end, after which a thread is taken to wait for a lock."""


class Stopped(Thread):
    """Does *work* up to its statement number *at*, and the rest once it may `go_on`."""

    def __init__(self, work, at=None):
        super().__init__(daemon=True)
        self.work, self.at, self.error = work, at, None
        self.is_at_the_stop, self.may_go_on, self.is_done = Event(), Event(), Event()
        self.count = 0

    def run(self):
        try:
            with connection.execute_wrapper(self.around):
                self.work()
        except BaseException as error:
            self.error = error
        finally:
            self.is_done.set()
            self.is_at_the_stop.set()
            connections.close_all()

    def around(self, execute, sql, *arguments):
        if self.count == self.at:
            self.is_at_the_stop.set()
            assert self.may_go_on.wait(PATIENCE)
        self.count += 1
        return execute(sql, *arguments)

    def go(self):
        self.start()
        assert self.is_at_the_stop.wait(PATIENCE)
        return not self.is_done.is_set()

    def end(self):
        self.may_go_on.set()
        self.join(PATIENCE)
        assert self.is_done.is_set()
        if self.error is not None:
            raise self.error


def each_moment(before, work, meanwhile):
    """Stop *work* before each of its statements, do *meanwhile*, let it go on; yields after each.

    Also stops *meanwhile* before each of its own, so that *work* ends in the middle of it.
    """
    at = 0
    while True:
        inner = None  # first, all of it at once
        while True:
            before()
            one, two = Stopped(work, at), Stopped(meanwhile, inner)
            is_stopped = one.go()
            two.start()
            two.is_at_the_stop.wait(BLOCKED)  # it may wait for the other's lock
            one.may_go_on.set()
            one.is_done.wait(BLOCKED)  # this one too
            two.end()
            one.end()
            if not is_stopped or (inner is not None and two.count <= inner):
                break
            yield at, inner
            inner = 0 if inner is None else inner + 1
        if not is_stopped:
            return
        at += 1


def anew(**options):
    def prepare():
        forget_schedules()
        WorkflowSchedule.objects.all().delete()
        WorkflowExecutionRecord.objects.all().delete()
        hourly(**options)
        come_due()

    return prepare


def starts():
    rows = WorkflowExecutionRecord.objects.exclude(correlation_id__contains="now:")
    return rows.filter(correlation_id__contains="@").count()


def row():
    return WorkflowSchedule.objects.get(name="report")


def fail_all():
    WorkflowExecutionRecord.objects.update(state="failed", dedup_key=None, wake_at=None)


def test_z1_of_two_ticks_at_any_moment_one_starts_the_slot():
    moments = 0
    for moment in each_moment(anew(), fire_due, fire_due):
        assert starts() == 1, moment
        assert row().next_at == hour() + HOUR, moment
        moments += 1
    assert moments > 12


def test_z1_a_frozen_tick_does_not_start_a_slot_again_that_has_failed_meanwhile():
    def tick_and_fail():
        fire_due()
        fail_all()

    for moment in each_moment(anew(), fire_due, tick_and_fail):
        assert starts() == 1, moment


def test_z1_a_tick_that_dies_at_any_moment_leaves_the_slot_to_the_next():
    class Killed(SystemExit):
        pass

    at, was_killed = 0, True
    while was_killed:
        anew()()
        count, was_killed = 0, False

        def die(execute, sql, *arguments, at=at):
            nonlocal count, was_killed
            count += 1
            if count > at:
                was_killed = True
                raise Killed
            return execute(sql, *arguments)

        def tick(die=die):
            with connection.execute_wrapper(die):
                fire_due()

        one = Stopped(tick)
        one.go()
        assert one.error is None or isinstance(one.error, Killed)
        if was_killed:
            assert starts() == 0, at
            fail_all()
        fire_due()
        assert starts() == 1, at
        at += 1
    assert at > 3


def test_z1_no_slot_starts_once_a_pause_is_written():
    for moment in each_moment(anew(), fire_due, lambda: pause_schedule("report")):
        # Whichever came first: the slot was started before the pause, or not at all.
        paused, last = row().paused_at, row().last_started_at
        assert paused is not None, moment
        assert starts() == (last is not None), moment
        assert last is None or last <= paused + timedelta(seconds=BLOCKED * 3), moment
        come_due()
        fire_due()
        assert starts() == (last is not None), moment


def test_z1_a_tick_that_read_the_row_before_a_pause_starts_nothing_after_it():
    anew()()
    frozen = Stopped(fire_due, at=1)  # it has read the row, and takes the slot next
    assert frozen.go()
    pause_schedule("report")
    frozen.end()
    assert starts() == 0


def test_z1_slots_of_a_pause_stay_unstarted_when_it_ends_beside_a_tick():
    def prepare():
        anew(missed="all")()
        pause_schedule("report")
        come_due(slot=hour(3))

    for moment in each_moment(prepare, fire_due, lambda: unpause_schedule("report")):
        assert starts() == 0, moment
        assert row().next_at == hour() + HOUR, moment


def test_z1_a_tick_that_read_the_old_expression_does_not_move_the_new_one():
    """Both have a slot at this hour; what follows is the newer expression's."""

    def deploy():
        forget_schedules()
        schedule("report", ECHO, every=timedelta(minutes=5))
        fire_due()
        come_due()

    def prepare():
        anew()()

    for moment in each_moment(prepare, fire_due, deploy):
        fire_due()
        assert row().timing == "every 300 s", moment
        # The older one would go on with the next hour.
        assert row().next_at <= timezone.now() + timedelta(minutes=5), moment


def test_z1_run_now_beside_a_tick_is_another_execution():
    for moment in each_moment(anew(), fire_due, lambda: run_schedule("report")):
        assert starts() == 1, moment
        assert WorkflowExecutionRecord.objects.count() == 2, moment


def test_z1_with_overlap_skip_a_tick_and_a_run_by_hand_never_both_start():
    def run():
        with suppress(ScheduleRefusedError):
            run_schedule("report")

    for moment in each_moment(anew(overlap="skip"), fire_due, run):
        assert WorkflowExecutionRecord.objects.count() == 1, moment
