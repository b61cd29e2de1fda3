"""Real workers, Beat and a real broker; and what happens when they die.

Nothing is timed: a test waits until what it expects is there, and fails if that takes far too long.
"""

from contextlib import ExitStack

import pytest

from tests.servers import start_broker, wait_until
from tests.sites import TAGS, Site


@pytest.fixture
def site(tmp_path):
    with ExitStack() as stack:
        broker = start_broker(tmp_path)
        stack.callback(broker.close)
        site = Site(tmp_path, broker)
        stack.callback(site.stop)
        yield site


def test_the_tutorials_story_runs_through_workers(site):
    site.worker()
    site.web(
        "from tests.testapp.models import Project\n"
        "Project.create(name='Apollo').update(status='active')"
    )
    site.until(
        "repr(list(WorkflowExecutionRecord.objects.values_list("
        "'workflow_id', 'state', 'output_data__to')))",
        "[('project_status_email', 'completed', 'ops@example.test')]",
    )


def test_the_tutorials_other_blocks_run_through_workers_and_beat(site):
    site.worker()
    site.beat()
    site.web(
        "from tests.acceptance import tutorial_blocks as blocks\n"
        "from tests.testapp.models import Project\n"
        "from general_manager.workflow import *\n"
        "project = Project.create(name='Apollo')\n"
        "event = blocks.publish_explicitly(project)\n"
        "get_event_registry().publish(event)\n"
        "get_event_registry().publish(WorkflowEvent('1', 'a.b', {}, event_name='project_failing'))"
    )
    site.until(
        "repr(list(WorkflowExecutionRecord.objects.values_list('workflow_id', 'state')))",
        "[('project_status_email', 'completed')]",
    )
    site.until(TAGS, ["1: no workflow today"])
    assert len((site.folder / "marks" / "attempts").read_text()) == 3 * 3


def test_a1_without_workers_a_web_server_does_all_of_it_and_what_comes_due_later(site):
    """Production with WORKFLOW_ASYNC off: one process, and a broker that nobody can reach."""
    site.broker.stop()
    site.environment["TEST_IN_PROCESS"] = "yes"
    web = site.server()
    web.post("/projects", name="Apollo")
    web.post("/failing", id="1")
    site.until(
        "repr(list(WorkflowExecutionRecord.objects.values_list('workflow_id', 'state')))",
        "[('project_status_email', 'completed')]",
    )
    site.until(TAGS, ["1: no workflow today"])
    assert len((site.folder / "marks" / "attempts").read_text()) == 3 * 3
    assert "Beat" not in site.logs()


def test_a6_in_local_mode_a_web_server_does_what_comes_due_later(site):
    site.broker.stop()
    site.environment["TEST_LOCAL"] = "yes"
    web = site.server()
    web.post("/projects", name="Apollo")
    started = web.post("/stumbling")
    wait_until(
        lambda: web.post("/remembered", id=started["id"])["state"] == "completed", site.logs()
    )
    assert "a restart loses it" in site.logs()


def test_e2_e3_a_broker_that_is_down_fails_no_request_and_beat_delivers_later(site):
    site.broker.stop()
    site.publish("write", 3)
    assert "the next Beat tick will pick the work up" in site.last_errors
    site.broker.start()
    site.worker()
    site.beat()
    site.until(TAGS, ["0", "1", "2"])


def test_e2_an_emptied_broker_loses_nothing_and_two_beats_do_no_harm(site):
    site.publish("write", 3)
    site.broker.empty()
    site.worker()
    site.beat()
    site.beat()
    site.until(TAGS, ["0", "1", "2"])
    site.until("sorted(WorkflowOutbox.objects.values_list('status', flat=True))", ["processed"] * 3)


def test_e2_workers_and_beat_outlive_a_broker_that_goes_away_and_comes_back(site):
    site.kept_worker()
    site.beat()
    site.publish("write", 1)
    site.until(TAGS, ["0"])
    site.broker.stop()
    site.publish("write", 3)
    site.broker.start()
    site.until(TAGS, ["0", "1", "2"])


def test_e2_e4_a_worker_killed_in_a_handler_leaves_each_effect_exactly_once(site):
    site.worker()
    site.beat()
    site.publish("write_and_die_once", 4)
    site.until(TAGS, ["0", "1", "2", "3"])
    site.until("sorted(WorkflowOutbox.objects.values_list('status', flat=True))", ["processed"] * 4)
    site.until(TAGS, ["0", "1", "2", "3"])


def test_e9_the_handler_that_kills_its_worker_is_stopped_and_only_it_is_charged(site):
    site.worker()
    site.beat()
    site.publish("die_for_seven", 50)
    site.until("WorkflowOutbox.objects.filter(status='processed').count()", 49)
    site.until("WorkflowOutbox.objects.filter(status='dead_letter').count()", 1)
    site.until(
        "repr(list(WorkflowDeliveryAttempt.objects.exclude(crashes=0).values_list("
        "'outbox__event__event_id', 'status', 'crashes')))",
        "[('7', 'dead_letter', 3)]",
    )
    site.until("Tag.objects.count()", 49)


def test_x1_x4_workflows_survive_kills_before_and_in_each_step(site):
    site.worker()
    site.beat()
    site.web(
        "from general_manager.workflow import get_workflow_engine\n"
        "from tests.acceptance.production.shop.workflows import TEN_STEPS\n"
        "for n in range(10): get_workflow_engine().start(TEN_STEPS, {'n': n})"
    )
    site.until("WorkflowExecutionRecord.objects.filter(state='completed').count()", 10)
    site.until(TAGS, sorted(f"{n}-{step}" for n in range(10) for step in range(10)))


def test_e2_a_killed_worker_leaves_its_work_to_another(site):
    first = site.worker()
    site.beat()
    site.publish("write", 200)
    site.kill(first)
    site.worker()
    site.until("Tag.objects.count()", 200)
    site.until("WorkflowOutbox.objects.filter(status='processed').count()", 200)
