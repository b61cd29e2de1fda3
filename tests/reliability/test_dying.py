"""A process is killed at each moment of a delivery and of an execution, and nothing is lost."""

from collections import Counter

import pytest

AT_LEAST_ONCE = ("told", "stepped outside", "asked")
EXACTLY_ONCE = ("changed", "written", "retried", "stepped", "answered yes")
ROWS = (
    "{'executions': list(WorkflowExecutionRecord.objects.values_list("
    "'correlation_id', 'state', 'output_data')),"
    " 'events': list(WorkflowEventRecord.objects.values_list('event_id', flat=True)),"
    " 'outbox': sorted(set(WorkflowOutbox.objects.values_list('status', flat=True))),"
    " 'deliveries': list(WorkflowDeliveryAttempt.objects.values_list("
    "'outbox__event__event_id', 'status')),"
    " 'tags': list(Tag.objects.values_list('name', flat=True))}"
)


@pytest.fixture(params=["postgresql", "sqlite"])
def site(open_site, request):
    return open_site() if request.param == "postgresql" else open_site(postgres=None)


def test_e1_e2_e4_x1_x4_a_kill_at_any_moment_loses_nothing_and_doubles_nothing(site):
    ends = site.web(
        "import json\nfrom tests.reliability.dying import end_lives\nprint(json.dumps(end_lives()))"
    )
    for word in ("workfloweventrecord", "workflowoutbox", "workflowdeliveryattempt",
                 "workflowexecutionrecord", "workflowstep", "COMMIT"):  # fmt: skip
        for when in ("before", "after"):
            assert any(end.startswith(when) and word in end for end in ends), (when, word)

    left = site.ask(ROWS)
    # All that were killed after their first commit, and the one that was not killed.
    first_commit = ends.index("after COMMIT")
    survived = {str(number) for number in range(first_commit, len(ends) + 1)}
    assert set(left["events"]) == survived
    assert Counter(left["tags"]) == {
        f"{name} {what}": 1 for name in survived for what in EXACTLY_ONCE
    }
    assert sorted(left["executions"]) == sorted(
        [name, "completed", {"answer": "yes"}] for name in survived
    )
    assert left["outbox"] == ["processed"]
    assert Counter(map(tuple, left["deliveries"])) == {(name, "completed"): 4 for name in survived}
    told = (site.folder / "marks" / "outside").read_text().splitlines()
    assert set(told) == {f"{name} {what}" for name in survived for what in AT_LEAST_ONCE}
    assert max(Counter(told).values()) <= 2  # each was killed once
