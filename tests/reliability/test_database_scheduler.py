"""Beat with django-celery-beat, which keeps the schedule in a table that the admin shows."""

import pytest

from tests.sites import TAGS

pytest.importorskip(
    "django_celery_beat", reason="django-celery-beat is not installed: 2.9 asks for Django < 6.1"
)
ENTRY = "PeriodicTask.objects.filter(name='general_manager.workflow.tick')"
ROWS = f"[list(row) for row in {ENTRY}.values_list('enabled', 'total_run_count')]"


@pytest.fixture
def site(open_site):
    site = open_site(settings="tests.reliability.scheduled")
    site.models.append("django_celery_beat.models")
    return site


def start_beat(site):
    return site.beat("-S", "django_celery_beat.schedulers:DatabaseScheduler", "--max-interval", "1")


def test_e2_beat_with_its_schedule_in_the_database_finds_what_no_message_announced(site):
    site.publish("write", 3)
    site.broker.empty()
    site.worker()
    start_beat(site)
    site.until(TAGS, ["0", "1", "2"])
    assert site.ask(f"{ENTRY}.get().enabled")


def test_an_entry_that_was_disabled_in_the_admin_stays_so_when_beat_starts_again(site):
    site.worker()
    beat = start_beat(site)
    site.until(f"{ENTRY}.filter(total_run_count__gt=0).exists()", expected=True)
    site.end(beat)
    site.web(
        f"from django_celery_beat.models import PeriodicTask\nentry = {ENTRY}.get()\n"
        "entry.enabled = False\n"
        "entry.save()\n"
        "PeriodicTask.objects.create(name='other', task=entry.task, interval=entry.interval)"
    )
    [before] = site.ask(ROWS)
    start_beat(site)
    site.until("PeriodicTask.objects.get(name='other').total_run_count > 2", expected=True)
    assert site.ask(ROWS) == [before]
    assert before[0] is False


def test_the_entry_leaves_the_schedule_when_the_setting_is_off_and_beat_starts(site):
    beat = start_beat(site)
    site.until(f"{ENTRY}.count()", 1)
    site.end(beat)
    site.environment["TEST_BEAT"] = "off"
    start_beat(site)
    site.until(f"{ENTRY}.count()", 0)
