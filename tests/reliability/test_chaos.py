"""Workflows of ten steps, while their workers and Beat are killed and frozen dozens of times.

One chaos, several verdicts. What is asked is what holds whenever the kills come; the numbers that
depend on that are reported.
"""

from collections import Counter

import pytest

from tests.reliability.chaos import SETTINGS, Chaos
from tests.reliability.conftest import opened_site

EFFECTS = 300
CHARGES = 100
BOOKINGS = 100
EFFECTS_MODULE = "tests.acceptance.production.shop.effects"
ACTIVE = "WorkflowExecutionRecord.objects.filter(state__in=['pending', 'running']).count()"
EXECUTIONS = (
    "list(WorkflowExecutionRecord.objects.annotate("
    "deaths=models.Count('history', filter=models.Q(history__kind='recovered')))"
    ".values('workflow_id', 'input_data', 'state', 'output_data', 'error', 'deaths'))"
)


class Aftermath:
    """What is left when the last kill is over and all work is done."""

    def __init__(self, site, chaos):
        self.site = site
        self.chaos = chaos
        found = site.ask(
            f"{{'tags': list(Tag.objects.values_list('name', flat=True)), 'all': {EXECUTIONS},"
            " 'failures': WorkflowHistory.objects.filter(kind='attempt_failed').count()}"
        )
        self.failures = found["failures"]
        self.tags = Counter(found["tags"])
        self.executions = found["all"]

    def of(self, workflow_id):
        return [one for one in self.executions if one["workflow_id"] == workflow_id]


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    with opened_site(folder, settings=SETTINGS) as site:
        chaos = Chaos(site)
        site.web(
            f"from {EFFECTS_MODULE} import start_all\n"
            f"start_all(effects={EFFECTS}, charges={CHARGES}, bookings={BOOKINGS})"
        )
        chaos.rage()
        site.until(ACTIVE, 0)
        chaos.end()
        yield Aftermath(site, chaos)


def test_x1_every_workflow_completes_whoever_was_killed(aftermath, report):
    ended = Counter((one["state"], str(one["output_data"])) for one in aftermath.of("ten_effects"))
    assert ended == {("completed", str({"done": 10})): EFFECTS}
    for what, count in aftermath.chaos.happened.items():
        report(what, count)
    deaths = sum(one["deaths"] for one in aftermath.executions)
    report("runs that died", deaths)
    assert deaths > 0


def test_x4_effects_in_the_database_happen_exactly_once(aftermath):
    assert {name: count for name, count in aftermath.tags.items() if "booking" not in name} == {
        f"{n}-{number}": 1 for n in range(EFFECTS) for number in range(0, 10, 2)
    }


def test_x4_effects_outside_are_never_lost_and_repeat_only_where_a_run_died(aftermath, report):
    lines = Counter(line for line in aftermath.chaos.outside() if not line.startswith("charge"))
    assert lines.keys() == {f"{n}-{number}" for n in range(EFFECTS) for number in range(1, 10, 2)}
    repeats = Counter()
    for line, count in lines.items():
        repeats[int(line.partition("-")[0])] += count - 1
    report("effects outside", lines.total())
    report("of them repeated", repeats.total())
    deaths = {one["input_data"]["n"]: one["deaths"] for one in aftermath.of("ten_effects")}
    assert [n for n in repeats if repeats[n] > deaths[n]] == []


def test_s1_a_saga_is_in_force_or_undone_as_a_whole_and_each_undo_happens_once(aftermath, report):
    ended = {one["input_data"]["n"]: one for one in aftermath.of("booking")}
    assert {n: (one["state"], one["error"]) for n, one in ended.items()} == {
        n: ("failed", "full") if n % 2 else ("completed", None) for n in range(BOOKINGS)
    }
    places = [(n, f"booking {n}-{number}") for n in range(BOOKINGS) for number in range(4)]
    assert {name: count for name, count in aftermath.tags.items() if "booking" in name} == {
        f"undone {name}" if n % 2 else name: 1 for n, name in places
    }
    report("sagas undone", BOOKINGS // 2)
    report("runs of sagas that died", sum(one["deaths"] for one in ended.values()))
    report("failed attempts of their steps", aftermath.failures)


def test_x5_a_once_step_never_runs_twice_and_an_operator_settles_those_in_doubt(aftermath, report):
    def charged():
        return Counter(line for line in aftermath.chaos.outside() if line.startswith("charge"))

    assert set(charged().values()) == {1}
    failed = [one["error"] for one in aftermath.of("ten_charges") if one["state"] != "completed"]
    in_doubt = aftermath.site.ask("WorkflowStep.objects.filter(status='started').count()")
    report("steps in doubt", in_doubt)
    assert len(failed) == in_doubt
    assert [error for error in failed if "may have happened" not in error] == []

    aftermath.site.worker()
    aftermath.site.web(f"from {EFFECTS_MODULE} import resolve_doubts\nresolve_doubts()")
    aftermath.site.until(ACTIVE, 0)
    assert charged() == {f"charge {n}-{number}": 1 for n in range(CHARGES) for number in range(10)}
