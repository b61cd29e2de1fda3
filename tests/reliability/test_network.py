"""The network fails for a while, to the database and to the broker; and a worker is to end."""

from contextlib import ExitStack

from tests.reliability.network import Network

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


def test_a_worker_that_is_asked_to_end_finishes_one_handler_and_releases_the_rest(site):
    worker = site.worker("-c", "1")
    site.publish("work_a_second", 40)
    site.until("WorkflowOutbox.objects.filter(status='claimed').count()", 40)
    site.until("Tag.objects.exists()", False)
    site.end(worker)
    done = site.ask("Tag.objects.count()")
    left = site.ask("WorkflowOutbox.objects.filter(status='claimed').count()")
    assert (done <= 3, left) == (True, 0)
    for _ in range(2):
        site.worker()
    site.beat()
    site.until("WorkflowOutbox.objects.filter(status='processed').count()", 40)
    assert site.ask("Tag.objects.count()") == 40
