"""The whole story, from a visitor's request to the end of the workflows that it started."""

import pytest

from tests.sites import TAGS


def outputs_of(workflow):
    rows = f"WorkflowExecutionRecord.objects.filter(workflow_id={workflow!r})"
    return f"[list(row) for row in {rows}.values_list('state', 'output_data')]"


def tell_the_story(site):
    web = site.server()
    for number in range(5):
        web.post("/projects", name=f"Project {number}")
    for _ in range(2):  # a visitor who clicks twice asks once
        web.post("/budgets", name="Apollo", amount=500)
    site.until(outputs_of("budget_approval"), [["waiting", None]])
    web.post("/answers", approved="yes")
    site.until(outputs_of("budget_approval"), [["completed", {"approved": "yes"}]])
    mailed = ["completed", {"sent": True, "to": "ops@example.test"}]
    site.until(outputs_of("project_status_email"), [mailed] * 5)
    site.until(
        "sorted(set(WorkflowOutbox.objects.values_list('status', flat=True)))", ["processed"]
    )
    site.until(TAGS, ["Apollo +500"])


def test_the_story_runs_through_a_web_server_two_workers_and_beat(site):
    site.worker()
    site.worker()
    site.beat()
    tell_the_story(site)


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_the_story_runs_in_a_worker_with_another_pool(site, pool):
    site.worker("-P", pool)
    site.beat()
    tell_the_story(site)
