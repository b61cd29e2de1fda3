"""Two Beats and several workers, of which one is frozen and one is killed: each slot runs once."""

from datetime import datetime, timedelta
from itertools import pairwise

from tests.sites import TAGS

COUNT = "Tag.objects.count()"


def test_z1_two_beats_start_each_slot_once_though_workers_freeze_and_die(open_site):
    site = open_site(settings="tests.reliability.clocked")
    frozen, killed = site.worker(), site.worker()
    site.worker()
    beats = [site.beat(), site.beat()]
    site.until(f"{COUNT} >= 2", expected=True)
    site.freeze(frozen)
    site.kill(killed)
    site.worker()
    site.until(f"{COUNT} >= 5", expected=True)
    site.thaw(frozen)
    site.kill(beats[0])
    site.until(f"{COUNT} >= 8", expected=True)
    site.kill(beats[1])
    # What was started by then is run, whoever was asked to.
    site.until("WorkflowExecutionRecord.objects.exclude(state='completed').count()", 0)
    slots = [datetime.fromisoformat(slot) for slot in sorted(site.ask(TAGS))]
    assert len(slots) >= 8
    # A slot that was lost would leave a gap, one that ran twice none at all.
    every_other_second = {after - before for before, after in pairwise(slots)}
    assert every_other_second == {timedelta(seconds=2)}
