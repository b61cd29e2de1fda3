"""Takes the pictures of the admin for these pages: a day in the example's company, really run.

    python3 run.py tests -e screenshots [-- NAME ...]

Needs the `screenshots` dependency group, and a Chromium with its chromedriver. A web server, a
worker and Beat run meanwhile, so that what is seen is what a site in production shows.
"""

import io
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
VAR = tempfile.TemporaryDirectory(prefix="general_manager_docs_", ignore_cleanup_errors=True)
sys.path[:0] = [str(ROOT), str(ROOT / "example")]
os.environ |= {
    "DJANGO_SETTINGS_MODULE": "company.settings",
    "EXAMPLE_MODE": "production",
    "EXAMPLE_VAR_DIR": VAR.name,
}

import django

django.setup()

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from PIL import Image
from projects.models import Project
from projects.processes import web_worker_and_beat
from projects.sample_data import create_sample_data
from projects.services import request_budget
from projects.workflows import PROJECT_STATUS

from general_manager.workflow import get_workflow_engine, run_schedule
from general_manager.workflow.core.actors import acting_as
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowSchedule,
)
from tests.browser.chromium import Browser, find

PATIENCE = 120
REQUESTS = 60
executions = WorkflowExecutionRecord.objects


def main(names: list[str]) -> None:
    found = find()
    if found is None:
        sys.exit("There is no Chromium with its chromedriver on this machine.")
    call_command("migrate", verbosity=0)
    create_sample_data()
    port = free_port()
    with web_worker_and_beat(port, print):
        live_through_a_day()
        browser = Browser(*found)
        browser.address = f"http://127.0.0.1:{port}"
        try:
            take_pictures(browser, names)
        finally:
            browser.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def live_through_a_day() -> None:
    """Requests that were answered, some that wait, projects that became active, two failures."""
    chance = random.Random(7)  # noqa: S311 - the same pictures each time
    projects = list(Project.all())
    for _ in range(REQUESTS):
        project = chance.choice(projects)
        request_budget(project, Decimal(chance.randrange(50, 900, 50)), asked_by="ada")
    until(lambda: executions.filter(state="waiting").count() == REQUESTS)
    engine = get_workflow_engine()
    for record in executions.filter(state="waiting"):
        answer = {"approved": chance.random() < 0.7, "by": "the boss"}
        engine.resume(record.execution_id, answer)
    until(lambda: executions.filter(state="completed").count() == REQUESTS)
    for name in ("Apollo", "Baltic harbour crane", "Facade repair"):
        Project.get(name=name).update(status="active")
    gone = {"old_status": "draft", "new_status": "active"}
    for number in (97, 98):
        engine.start(PROJECT_STATUS, input_data={**gone, "project_id": number})
    until(lambda: executions.filter(workflow_id="project_status_email", ended_at__isnull=False)
          .count() == 5)  # fmt: skip
    with acting_as("admin"):
        nightly = run_schedule("nightly_summary")
    until(lambda: engine.status(nightly.execution_id).state == "completed")
    spread_over_a_day(chance)
    until(lambda: WorkflowDeliveryAttempt.objects.filter(status="dead_letter").count() == 3)
    for name, amount in (("Canteen menu", 150), ("Apollo", 4000), ("Data centre move", 25000)):
        request_budget(Project.get(name=name), Decimal(amount), asked_by="alan")
    until(lambda: executions.filter(state="waiting").count() == 3)
    until(lambda: not WorkflowOutbox.objects.filter(available_at__isnull=False).exists())


def spread_over_a_day(chance: random.Random) -> None:
    """Move the columns: a day would be long to wait for."""
    ended = executions.filter(ended_at__isnull=False)
    for record in ended.exclude(workflow_id="project_status_email", state="completed"):
        earlier = timedelta(hours=22 * chance.betavariate(1.3, 1.8))
        for column in ("created_at", "started_at", "ended_at"):
            setattr(record, column, getattr(record, column) - earlier)
        record.save(update_fields=["created_at", "started_at", "ended_at"])


def take_pictures(browser: Browser, names: list[str]) -> None:
    client = Client()
    client.force_login(get_user_model().objects.get(username="admin"))
    browser.use_session("sessionid", str(client.session.session_key))
    waiting = executions.filter(state="waiting").order_by("-pk")[1]
    dead = WorkflowDeliveryAttempt.objects.filter(status="dead_letter").latest("pk")
    event = WorkflowEventRecord.objects.get(outbox=dead.outbox)
    schedule = WorkflowSchedule.objects.get()
    of = "admin:general_manager_{}".format
    pages = {
        "overview": (reverse(of("overview_changelist")), 1110),
        "executions": (reverse(of("workflowexecutionrecord_changelist")), 820),
        "execution": (
            reverse(of("workflowexecutionrecord_change"), args=[waiting.pk]), 1000,
        ),
        "answer": (reverse(of("execution_act"), args=[waiting.pk, "answer"]), 600),
        "event": (reverse(of("workfloweventrecord_change"), args=[event.pk]), 1500),
        "dead_letter": (reverse(of("deadletter_change"), args=[dead.pk]), 1000),
        "schedule": (reverse(of("workflowschedule_change"), args=[schedule.pk]), 1110),
        "deliver_again": (reverse(of("event_deliver_again"), args=[event.pk]), 600),
    }  # fmt: skip
    for name, (path, height) in pages.items():
        if not names or name in names:
            take(browser, path, IMAGES / f"{name}.png", height)
    if not names or "overview_dark" in names:
        browser.prefer("dark")
        take(browser, pages["overview"][0], IMAGES / "overview_dark.png", 720)


def take(browser: Browser, path: str, file: Path, height: int) -> None:
    """The page at *path*, down to *height*."""
    browser.resize(1280, height)
    browser.visit(path)
    whole = Image.open(io.BytesIO(browser.picture())).convert("RGB")
    picture = whole.crop((0, 0, whole.width, min(height, whole.height)))
    few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}: {few.width} x {few.height}, {file.stat().st_size:,} bytes")


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            log = Path(VAR.name) / "worker.log"
            sys.exit(f"This takes too long. The worker said:\n{log.read_text()[-3000:]}")
        time.sleep(0.3)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(sys.argv[1:])
