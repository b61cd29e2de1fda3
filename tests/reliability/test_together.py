"""Children, events that answer, limits and order, while workers and Beat are killed and frozen.

TEST_CHAOS_WORKERS sets how many workers there are, by default two; work and disasters go with it.
"""

import os
from collections import Counter, defaultdict

import pytest

from tests.reliability.chaos import Chaos
from tests.reliability.conftest import opened_site
from tests.reliability.together.workflows import CUSTOMERS, PARTS, SLOTS

SETTINGS = "tests.reliability.gathered"
MODULE = "tests.reliability.together.workflows"
WORKERS = int(os.environ.get("TEST_CHAOS_WORKERS", "2"))
COUNT = 80 * WORKERS
"""Eight lines outside for each: enough for all disasters, though work goes on between them."""
LEFT = (
    "WorkflowExecutionRecord.objects.exclude(state='completed').count()"
    " + WorkflowOutbox.objects.exclude(status='processed').count()"
    " + WorkflowDeliveryAttempt.objects.exclude(status='completed').count()"
)


class Aftermath:
    """What is left when the last kill is over and all work is done."""

    def __init__(self, site, chaos):
        self.chaos = chaos
        found = site.ask(
            "{'rows': list(Tag.objects.order_by('pk').values_list('name', flat=True)),"
            " 'outputs': list(WorkflowExecutionRecord.objects.values("
            "'workflow_id', 'input_data', 'state', 'output_data')),"
            " 'joins': list(WorkflowHistory.objects.filter(kind='children_ended')"
            ".values_list('execution_id', flat=True)),"
            " 'deaths': WorkflowHistory.objects.filter(kind='recovered').count()}"
        )
        self.rows, self.joins, self.deaths = found["rows"], found["joins"], found["deaths"]
        self.outputs = found["outputs"]

    def of(self, workflow_id):
        return [one for one in self.outputs if one["workflow_id"] == workflow_id]

    def named(self, word):
        return [name for name in self.rows if name.startswith(f"{word} ")]


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    with opened_site(folder, settings=SETTINGS) as site:
        chaos = Chaos(site, workers=WORKERS)
        site.web(f"from {MODULE} import start_all\nstart_all({COUNT})")
        chaos.rage(children=8 * WORKERS, workers=2 * WORKERS, beats=2, freezes=WORKERS // 2)
        site.until(LEFT, 0)
        chaos.end()
        yield Aftermath(site, chaos)


def test_c1_every_parent_goes_on_once_with_all_its_children_whoever_was_killed(aftermath, report):
    families = aftermath.of("family")
    assert [one["output_data"] for one in families] == [{"parts": list(range(PARTS))}] * COUNT
    assert Counter(aftermath.named("joined")) == {f"joined {n}": 1 for n in range(COUNT)}
    assert Counter(aftermath.named("part")) == {
        f"part {n}-{part}": 1 for n in range(COUNT) for part in range(PARTS)
    }
    assert set(Counter(aftermath.joins).values()) == {1}
    assert len(aftermath.joins) == COUNT
    report("workers", WORKERS)
    for what, number in aftermath.chaos.happened.items():
        report(what, number)
    report("runs that died", aftermath.deaths)
    assert aftermath.deaths > 0


def test_m1_each_event_answers_one_wait_in_the_order_of_events(aftermath):
    assert {one["input_data"]["n"]: one["output_data"] for one in aftermath.of("payment")} == {
        n: {"amounts": [1, 2]} for n in range(COUNT)
    }


def test_l1_a_limit_is_never_exceeded_and_nobody_waits_for_ever(aftermath):
    assert [one["state"] for one in aftermath.of("limited")] == ["completed"] * COUNT
    seen = {int(name.rpartition(": ")[2]) for name in aftermath.named("slots")}
    assert seen <= set(range(1, SLOTS + 1))
    assert len(aftermath.named("slots")) == 3 * COUNT


def test_q1_the_events_of_a_key_are_delivered_once_each_and_in_order(aftermath):
    moved = defaultdict(list)
    for name in aftermath.named("moved"):
        customer, _, number = name.removeprefix("moved ").partition("-")
        moved[int(customer)].append(int(number))
    assert moved == {customer: list(range(COUNT // CUSTOMERS)) for customer in range(CUSTOMERS)}
