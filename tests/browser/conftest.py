"""The operator's pages in a real browser, over rows that the engine and the registry wrote."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings  # noqa: TID251 - what a project sets, which is Django's, not ours
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client, override_settings
from django.urls import reverse
from django.utils import timezone

from general_manager.workflow import (
    Retry,
    WorkflowDefinition,
    WorkflowEvent,
    get_workflow_engine,
    pause_schedule,
    resume_url,
    schedule,
)
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowSchedule,
)
from general_manager.workflow.scheduling.firing import fire_due
from tests.integration.conftest import celery_engine, outbox, workers
from tests.testapp import flows

__all__ = ["celery_engine", "outbox", "workers"]
VIEW = ("view_workflowexecutionrecord", "view_workfloweventrecord", "view_workflowdeliveryattempt",
        "view_workflowoutbox")  # fmt: skip
PAYLOAD = {
    "manager": "Project",
    "identification": {"id": 42},
    "changes": {
        "status": {"old": "draft", "new": "active"},
        "notes": {"old": "", "new": "x" * 400},
    },
    "script": "<script>alert('x')</script>",
    "image": "<img src=x onerror=alert(1)>",
    "turned": "\u202eright to left",
    "hebrew": "\u05e9\u05dc\u05d5\u05dd",
    "faces": "\N{SLIGHTLY SMILING FACE}" * 100,
    "password": "hunter2",
    "many": list(range(40)),
}


@pytest.fixture(scope="session")
def live_server(request: pytest.FixtureRequest) -> Any:
    """The test project, served; no page may use what is not a file of the site itself."""
    middleware = ["tests.browser.strict.strict_policy", *settings.MIDDLEWARE]
    with override_settings(MIDDLEWARE=middleware):
        return request.getfixturevalue("live_server")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    pytest.importorskip("selenium")
    from tests.browser.chromium import Browser, find

    found = find()
    if found is None:
        pytest.skip("there is no Chromium with its chromedriver on this machine")
    browser = Browser(*found)
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Any, live_server: Any) -> Iterator[Any]:
    """A browser that nobody has used, in front of the site. No page may have let it complain."""
    chromium.address = live_server.url
    chromium.forget()
    yield chromium
    complaints = chromium.complaints()
    chromium.visit("about:blank")  # what a page still asks for would find its tables emptied
    assert [one for one in complaints if "/favicon.ico" not in one] == []


@pytest.fixture(scope="session")
def axe() -> Callable[[Any], list[str]]:
    """A function that names what is seriously wrong for somebody with the page that is shown."""
    package = find_spec("axe_selenium_python")
    if package is None or package.origin is None:
        pytest.skip("axe-core comes in a package for Python 3.12 and newer only")
    script = Path(package.origin).parent / "node_modules" / "axe-core" / "axe.min.js"
    source = script.read_text(encoding="utf-8")

    def violations(browser: Any) -> list[str]:
        complaints = browser.complaints()
        browser.run(source)
        # Django's own: a search field without a label; in 5.2, links that only their colour tells.
        found = browser.run_slowly(
            "axe.run({exclude: ['#searchbar', '.breadcrumbs']})"
            ".then(arguments[arguments.length - 1])"
        )
        browser.complaints()  # axe's own: it tries out styles, which the policy forbids
        grave = [
            f"{one['id']}: {node['html'][:300]} {node['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]
        return [*complaints, *grave]

    return violations


def log_in(browser: Any, user: Any) -> Any:
    client = Client()
    client.force_login(user)
    browser.use_session(settings.SESSION_COOKIE_NAME, client.session.session_key)
    return browser


@pytest.fixture
def boss(browser: Any) -> Any:
    return log_in(browser, get_user_model().objects.create_superuser("boss"))


@pytest.fixture
def viewer(browser: Any) -> Any:
    """Somebody of the staff who may look at everything, and do nothing."""
    user = get_user_model().objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=VIEW))
    return log_in(browser, user)


def page_of(name: str, kind: str = "changelist", *arguments: Any) -> str:
    return reverse(f"admin:general_manager_{name}_{kind}", args=arguments)


def ask_the_boss(event: WorkflowEvent) -> None:
    definition = WorkflowDefinition("budget_approval", handler=flows.ask)
    get_workflow_engine().start(definition, event.payload, correlation_id=event.event_id)


def tell_accounting(event: WorkflowEvent) -> None:
    if flows.troubles:
        raise flows.troubles[0]
    flows.note("accounting")


@dataclass
class Story:
    """What happened, and where it can be seen."""

    waiting: Any
    failed: Any
    doubtful: Any
    letter: Any
    event: Any
    schedule: Any

    def execution(self, record: Any) -> str:
        return page_of("workflowexecutionrecord", "change", record.pk)

    def act(self, record: Any, name: str) -> str:
        return reverse("admin:general_manager_execution_act", args=[record.pk, name])

    def letter_act(self, name: str) -> str:
        return reverse("admin:general_manager_delivery_act", args=[self.letter.pk, name])

    def schedule_act(self, name: str) -> str:
        return reverse("admin:general_manager_schedule_act", args=[self.schedule.pk, name])

    @property
    def deliver_again(self) -> str:
        return reverse("admin:general_manager_event_deliver_again", args=[self.event.pk])

    @property
    def link(self) -> str:
        return resume_url(self.waiting.execution_id, "approval", "yes", label="Approve the trip")


@pytest.fixture
def story(outbox: Any, celery_engine: Any, workers: Any) -> Iterator[Story]:
    """One event delivered and dead, executions that wait, failed and are in doubt, one entry owed.

    What the event carries is as hostile as what people type can be.
    """
    flows.calls.clear()
    flows.troubles[:] = [ConnectionError(f"<b>accounting</b> does not answer {'Q' * 200}")]
    outbox.register("budget_requested", handler=ask_the_boss, registration_id="ask_the_boss")
    outbox.register("budget_requested", handler=tell_accounting, registration_id="tell_accounting")
    once = {"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}
    with override_settings(GENERAL_MANAGER=once):
        outbox.publish(WorkflowEvent("evt-1", "y" * 150, PAYLOAD, event_name="budget_requested"))
        workers.deliver()
        workers.run()
    flows.troubles[:] = [ValueError("boom"), ValueError("the line was lost")]
    fails = WorkflowDefinition("project_status_email", handler=flows.two_steps)
    failed = celery_engine.start(fails, correlation_id="c" * 200)
    workers.run()
    doubts = WorkflowDefinition(
        "w" * 150, handler=flows.charge_then_note, retry=Retry(max_attempts=2)
    )
    doubtful = celery_engine.start(doubts)
    for _ in range(2):
        workers.run()
        workers.let_rest_pass()
    outbox.publish(WorkflowEvent("evt-2", "shop.paid", {}, event_name="budget_requested"))
    WorkflowOutbox.objects.filter(event__event_id="evt-1").update(available_at=None)
    rows = WorkflowExecutionRecord.objects
    schedule("nightly_report", fails, cron="30 2 * * *", tz="America/Argentina/ComodRivadavia")
    fire_due()
    pause_schedule("nightly_report", reason="Q" * 200)
    WorkflowSchedule.objects.update(
        last_correlation_id="c" * 200, last_started_at=timezone.now(), error="boom " * 50
    )
    yield Story(
        waiting=rows.get(state="waiting"),
        failed=rows.get(execution_id=failed.execution_id),
        doubtful=rows.get(execution_id=doubtful.execution_id),
        letter=WorkflowDeliveryAttempt.objects.get(status="dead_letter"),
        event=WorkflowEventRecord.objects.get(event_id="evt-1"),
        schedule=WorkflowSchedule.objects.get(),
    )
    flows.troubles.clear()
