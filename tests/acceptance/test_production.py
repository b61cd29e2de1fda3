"""Real workers, Beat and a real broker; and what happens when they die.

Nothing is timed: a test waits until what it expects is there, and fails if that takes far too long.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers import Redis

CHECKOUT = Path(__file__).parents[2]
FAR_TOO_LONG = 240
PROJECT = "tests.acceptance.production"


class Site:
    """A project's processes over one database and one broker, stopped at the end."""

    def __init__(self, folder):
        self.folder = folder
        self.redis = Redis(folder)
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.processes = []
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings",
            "TEST_DATABASE_DIR": str(folder),
            "TEST_MARKS": str(self.marks),
            "TEST_BROKER": self.redis.url,
            "PYTHONPATH": str(CHECKOUT),
        }
        self.environment.pop("TEST_DATABASE", None)
        self.web(
            "from django.core.management import call_command\ncall_command('migrate', verbosity=0)"
        )
        self.web(
            "from django.core.management import call_command\n"
            "call_command('migrate', verbosity=0, database='archive')"
        )

    def web(self, code):
        """Run *code* in a process of the project; returns what it printed as JSON, if anything."""
        started = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-c", f"import django\ndjango.setup()\n{code}"],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=FAR_TOO_LONG,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        self.last_seconds = time.monotonic() - started
        self.last_errors = result.stderr
        return json.loads(result.stdout) if result.stdout.strip() else None

    def celery(self, *arguments):
        with (self.folder / f"celery{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", PROJECT, *arguments],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def worker(self, *arguments):
        return self.celery(
            "worker", "-c", "2", "-l", "INFO", "--without-gossip", "--without-mingle",
            "--without-heartbeat", "-n", f"w{len(self.processes)}@%h", *arguments,
        )  # fmt: skip

    def beat(self):
        number = len(self.processes)
        return self.celery("beat", "-s", str(self.folder / f"beat{number}"), "--pidfile=")

    def until(self, code, expected):
        """Ask until *code* prints *expected*."""
        deadline = time.monotonic() + FAR_TOO_LONG
        loop = (
            "import json, time\n"
            "from tests.testapp.models import *\n"
            "from general_manager.workflow.models import *\n"
            "def ask():\n"
            f"    return {code}\n"
            f"deadline = time.time() + {FAR_TOO_LONG - 5}\n"
            f"while ask() != {expected!r} and time.time() < deadline: time.sleep(0.1)\n"
            "print(json.dumps(ask()))"
        )
        found = self.web(loop)
        assert found == expected, self.logs()
        assert time.monotonic() < deadline

    def logs(self):
        return "\n".join(path.read_text()[-4000:] for path in self.folder.glob("celery*.log"))

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.redis.stop()


@pytest.fixture
def site(tmp_path):
    with ExitStack() as stack:
        site = Site(tmp_path)
        stack.callback(site.stop)
        yield site


PUBLISH = (
    "from general_manager.workflow import *\n"
    "get_event_registry().publish_many(WorkflowEvent(str(n), 'a.b', {{}}, event_name={name!r})"
    " for n in range({count}))"
)
TAGS = "sorted(Tag.objects.values_list('name', flat=True))"


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


def test_e2_e3_a_broker_that_is_down_fails_no_request_and_beat_delivers_later(site):
    site.redis.stop()
    site.web(PUBLISH.format(name="write", count=3) + "\nprint('\"committed\"')")
    assert "Beat will find the work" in site.last_errors
    site.redis.start()
    site.worker()
    site.beat()
    site.until(TAGS, ["0", "1", "2"])


def test_e2_an_emptied_broker_loses_nothing_and_two_beats_do_no_harm(site):
    site.web(PUBLISH.format(name="write", count=3))
    site.redis.empty()
    site.worker()
    site.beat()
    site.beat()
    site.until(TAGS, ["0", "1", "2"])
    site.until("sorted(WorkflowOutbox.objects.values_list('status', flat=True))", ["processed"] * 3)


def test_e2_e4_a_worker_killed_in_a_handler_leaves_each_effect_exactly_once(site):
    site.worker()
    site.beat()
    site.web(PUBLISH.format(name="write_and_die_once", count=4))
    site.until(TAGS, ["0", "1", "2", "3"])
    site.until("sorted(WorkflowOutbox.objects.values_list('status', flat=True))", ["processed"] * 4)
    site.until(TAGS, ["0", "1", "2", "3"])


def test_e9_the_handler_that_kills_its_worker_is_stopped_and_only_it_is_charged(site):
    site.worker()
    site.beat()
    site.web(PUBLISH.format(name="die_for_seven", count=50))
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
    site.web(PUBLISH.format(name="write", count=200))
    os.killpg(first.pid, signal.SIGKILL)
    site.worker()
    site.until("Tag.objects.count()", 200)
    site.until("WorkflowOutbox.objects.filter(status='processed').count()", 200)
