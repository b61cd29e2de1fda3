"""The database goes away in the middle, and workers that everybody thinks are dead are not."""

from tests.sites import TAGS


def test_e2_e4_a_database_that_restarts_in_the_middle_costs_no_event_and_doubles_none(
    open_site, postgres
):
    site = open_site(postgres=postgres.uri)
    site.worker()
    site.worker()
    site.beat()
    site.publish("write_and_hold_every_fiftieth", 200)
    site.until_marked("held at 5")
    postgres.crash()
    site.mark("go on")
    postgres.start()
    site.until("WorkflowOutbox.objects.filter(status='processed').count()", 200)
    site.until(TAGS, sorted(map(str, range(200))))


def test_e2_a_worker_that_idled_while_the_database_restarted_works_on(open_site, postgres):
    site = open_site(postgres=postgres.uri)
    site.worker("-P", "solo")
    site.beat()
    site.publish("write", 1)
    site.until(TAGS, ["0"])
    postgres.crash()
    postgres.start()
    site.publish("write", 3)
    site.until(TAGS, ["0", "1", "2"])


def test_e4_e5_a_worker_frozen_past_its_lease_in_a_handler_writes_nothing_when_it_thaws(site):
    frozen = site.worker()
    site.publish("write_and_be_held_once", 1)
    site.until_marked("held")
    site.freeze(frozen)
    site.worker()
    site.beat()
    site.until("list(WorkflowOutbox.objects.values_list('status', flat=True))", ["processed"])
    site.until(TAGS, ["0"])
    site.mark("go on")
    site.thaw(frozen)
    site.end(frozen)
    site.until(TAGS, ["0"])
    site.until(
        "[list(row) for row in WorkflowDeliveryAttempt.objects.values_list('status', 'crashes')]",
        [["completed", 0]],
    )


def test_e5_x4_a_worker_frozen_past_its_lease_in_an_execution_writes_nothing_when_it_thaws(site):
    frozen = site.worker()
    site.web(
        "from general_manager.workflow import get_workflow_engine\n"
        "from tests.acceptance.production.shop.workflows import *\n"
        "for definition in (HELD_IN_A_STEP, HELD_BETWEEN_STEPS):\n"
        "    get_workflow_engine().start(definition)"
    )
    site.until_marked("held in a step")
    site.until_marked("held between steps")
    site.freeze(frozen)
    site.worker()
    site.beat()
    site.until("WorkflowExecutionRecord.objects.filter(state='completed').count()", 2)
    written = [f"{where}: {step}" for where in ("between steps", "in a step")
               for step in ("first", "second")]  # fmt: skip
    site.until(TAGS, written)
    site.mark("go on")
    site.thaw(frozen)
    site.end(frozen)
    site.until(TAGS, written)
    site.until("WorkflowExecutionRecord.objects.filter(state='completed', runs=2).count()", 2)
