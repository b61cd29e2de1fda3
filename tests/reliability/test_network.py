"""The network fails for a while, to the database and to the broker; and a worker is to end."""

import time
from contextlib import ExitStack

from tests.reliability.network import SETTINGS, Network

SECONDS = 40


def test_a_failing_network_loses_nothing_doubles_nothing_and_is_charged_to_nobody(tmp_path):
    with ExitStack() as stack:
        network = Network(tmp_path, stack)
        network.rage(SECONDS)
        report = network.report()
    assert sum(report["faults of the database's network"].values()) > 10
    for what in (
        "lost in the database",
        "doubled in the database",
        "lost outside",
        "charged twice",
        "failed_deliveries",
    ):
        assert report[what] == 0, (what, report)
    assert report["errors"] == []
    assert {kind for kind, _ in report["history"]} <= {"interrupted"}, report
    assert {state for _, state, _ in report["executions"]} == {"completed"}


def test_a_worker_that_is_asked_to_end_finishes_one_handler_and_releases_the_rest(
    open_site, record_property
):
    site = open_site(settings=SETTINGS)
    worker = site.worker()
    site.publish("work_a_second", 40)
    site.until_marked("working")
    started = time.monotonic()
    site.end(worker)
    record_property("seconds from TERM to the end", time.monotonic() - started)
    states = site.ask("list(WorkflowOutbox.objects.values_list('status', flat=True))")
    done = site.ask("Tag.objects.count()")
    assert states.count("processed") == done <= 5
    assert states.count("pending") == 40 - done
    deliveries = site.ask("list(WorkflowDeliveryAttempt.objects.values_list('status', 'crashes'))")
    assert deliveries == [["completed", 0]] * done
