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


def what(site, function):
    """What *function* of the module `dying` returns, in a process of the site."""
    return site.web(
        f"import json\nfrom tests.reliability import dying\nprint(json.dumps(dying.{function}()))"
    )


def test_e1_e2_e4_x1_x4_a_kill_at_any_moment_loses_nothing_and_doubles_nothing(site):
    ends = what(site, "end_lives")
    for word in ("workfloweventrecord", "workflowoutbox", "workflowdeliveryattempt",
                 "workflowexecutionrecord", "workflowstep", "COMMIT"):  # fmt: skip
        for when in ("before", "after"):
            assert any(end.startswith(when) and word in end for end in ends), (when, word)

    left = site.ask(ROWS)
    # All that were killed after their first commit, and the one that was not killed.
    first_commit = ends.index("after COMMIT")
    survived = {str(number) for number in range(first_commit, len(ends) + 1)}
    alone = {event for event in left["events"] if event.endswith(" alone")}
    assert set(left["events"]) - alone == survived
    assert 0 < len(alone) < len(survived)
    assert Counter(left["tags"]) == {
        **{f"{name} {what}": 1 for name in survived for what in EXACTLY_ONCE},
        **{f"{name} written": 1 for name in alone},
    }
    assert sorted(left["executions"]) == sorted(
        [name, "completed", {"answer": "yes"}] for name in survived
    )
    assert left["outbox"] == ["processed"]
    assert Counter(map(tuple, left["deliveries"])) == {
        **{(name, "completed"): 4 for name in survived},
        **{(name, "completed"): 1 for name in alone},
    }
    told = (site.folder / "marks" / "outside").read_text().splitlines()
    assert set(told) == {f"{name} {what}" for name in survived for what in AT_LEAST_ONCE}
    assert max(Counter(told).values()) <= 2  # each was killed once


def test_e9_x7_poison_is_stopped_and_only_it_is_charged(site):
    kills = what(site, "die_again_and_again")
    left = site.ask(
        "{'statuses': list(WorkflowOutbox.objects.values_list('status', flat=True)),"
        " 'charged': list(WorkflowDeliveryAttempt.objects.exclude(status='completed', crashes=0)"
        ".values_list('outbox__event__event_id', 'status', 'crashes', 'error')),"
        " 'execution': list(WorkflowExecutionRecord.objects.values_list("
        "'state', 'crashes', 'error')),"
        " 'tags': list(Tag.objects.values_list('name', flat=True))}"
    )
    assert Counter(left["statuses"]) == {"processed": 49, "dead_letter": 1}
    [(event, status, crashes, error)] = left["charged"]
    assert (event, status, crashes) == ("7", "dead_letter", 3)
    assert "write_or_die" in error
    [(state, crashes, error)] = left["execution"]
    assert (state, crashes) == ("failed", 3)
    assert "3 times" in error
    expected = [f"{number} written" for number in range(50) if number != 7]
    assert Counter(left["tags"]) == Counter([*expected, "stepped before"])
    # The entry's first death, when it came with forty-nine others, is charged to none of them.
    assert kills == 1 + 3 + 3
